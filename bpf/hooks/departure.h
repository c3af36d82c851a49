/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* When a datagram left that stays on this host: its send is told at the end of the call, when it may have been answered. */
#ifndef MASDEEPFLOW_HOOKS_DEPARTURE_H
#define MASDEEPFLOW_HOOKS_DEPARTURE_H

/* The first delivery of a datagram within a thread's call that sends; and which call that was. */
struct departure {
	__u64 left_ns; /* 0: none since the thread's last send of a datagram was told */
	__u64 descriptor;
	__u64 buffer;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct departure);
} departures SEC(".maps");

static __always_inline bool is_sending(long number)
{
	return number == NR_sendto || number == NR_sendmsg || number == NR_sendmmsg || number == NR_write
	       || number == NR_writev || number == NR_pwritev2;
}

static __always_inline bool is_same_call(const struct departure *d, const struct pt_regs *regs)
{
	return d->left_ns && d->descriptor == SYSCALL_ARG1(regs) && d->buffer == SYSCALL_ARG2(regs);
}

/*
 * A datagram was put in the buffer of some UDP socket. Loopback and veth hand it over in a softirq on top of the call that
 * sends: the thread below is the sender. It does not matter whose datagram it really is: while that thread is in a call
 * that sends, this is a time within the call. The receiver is woken behind it.
 */
static __always_inline void datagram_delivered(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	struct departure *d;
	__u64 now;

	if (!is_sending(SYSCALL_NUMBER(task, regs)))
		return;
	now = bpf_ktime_get_ns(); /* the first time, what follows takes long */
	d = bpf_task_storage_get(&departures, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!d || is_same_call(d, regs))
		return;
	d->descriptor = SYSCALL_ARG1(regs);
	d->buffer = SYSCALL_ARG2(regs);
	d->left_ns = now;
}

/*
 * When the datagram left whose send ends at `now`: `now` itself if none was delivered meanwhile, as when it goes to
 * another host. No earlier call's time is found: whatever comes of a send of a UDP socket, it takes what is there, and
 * calls of other kinds have other descriptors.
 */
static __noinline __u64 take_departure(__u64 now)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	struct departure *d = bpf_task_storage_get(&departures, task, NULL, 0);
	__u64 left;

	if (!d)
		return now;
	left = is_same_call(d, regs) ? d->left_ns : now;
	d->left_ns = 0;
	return left;
}

#endif
