/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Calls that no member of a socket hash serves as TCP does: MSG_WAITALL and MSG_TRUNC, which tcp_bpf_recvmsg ignores, and
 * splice(), which does not see redirected bytes. Nothing tells of such a call before it is made, so a program that was
 * seen to make one, on whatever TCP connection to a port that is listed, gets no redirected connections any more.
 */
#ifndef MASDEEPFLOW_GATEWAY_TRUST_H
#define MASDEEPFLOW_GATEWAY_TRUST_H

static __always_inline bool current_program(struct program *program)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

	if (!inode)
		return false;
	program->inode = BPF_CORE_READ(inode, i_ino);
	program->device = BPF_CORE_READ(inode, i_sb, s_dev);
	return true;
}

static __always_inline bool listed(__u16 port)
{
	return bpf_map_lookup_elem(&ports, &port);
}

/* A port that connections may be redirected to. */
static __always_inline bool trusted_port(__u16 port)
{
	struct port *p = bpf_map_lookup_elem(&ports, &port);

	return p && p->reason == REASON_NONE;
}

static __noinline int distrust(struct sock *sk, __u32 reason)
{
	__u16 local = sk->__sk_common.skc_num, remote = __builtin_bswap16(sk->__sk_common.skc_dport);
	struct port *port = bpf_map_lookup_elem(&ports, &local);
	struct program program = {};
	__u8 why = reason;

	if (port)
		port->reason = reason;
	else if (listed(remote) && current_program(&program))
		bpf_map_update_elem(&programs, &program, &why, BPF_ANY);
	return 0;
}

static __always_inline __u32 unserved(int flags)
{
	if (flags & MSG_WAITALL)
		return REASON_WAITALL;
	if (flags & MSG_TRUNC)
		return REASON_DISCARD;
	if (flags & MSG_OOB)
		return REASON_URGENT;
	return REASON_NONE;
}

extern const void woken_wake_function __attribute__((section(".ksyms"), weak));

/* The verifier of Linux 6.12 allows no arithmetic between a pointer that it knows and a number without bounds. */
static __always_inline __u64 number_of(long pointer)
{
	__u64 spilled = pointer, number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &spilled);
	return number;
}

/* What a task asks for that sleeps in a call. Where its registers are, the current task's tell. */
static __always_inline __u32 needs_of(struct task_struct *sleeper)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	__u64 offset = number_of(task_pt_regs(task)) - (__u64)task->stack;
	struct pt_regs *regs = (struct pt_regs *)((__u64)BPF_CORE_READ(sleeper, stack) + offset);
	long number = SLEEPER_CALL(regs);

	if (number == NR_recvmsg)
		return unserved(SLEEPER_ARG3(regs));
	return number == NR_recvfrom || number == NR_recvmmsg ? unserved(SLEEPER_ARG4(regs)) : REASON_NONE;
}

#define WATCHED_READS 32
#define MOST_SLEEPERS 4

/*
 * A reader may be asleep in its first such call when its first bytes come: then they can still go by TCP. Programs that
 * use these calls mostly do from the start, so this is looked for at an end's first reads only.
 */
static __noinline __u32 sleeper_needs(__u64 socket)
{
	struct socket_wq *queue = BPF_CORE_READ((struct sock *)socket, sk_wq);
	struct list_head *entry = BPF_CORE_READ(queue, wait.head.next);
	__u64 head = (__u64)queue + bpf_core_field_offset(struct socket_wq, wait.head);
	__u32 reason;

	for (int i = 0; i < MOST_SLEEPERS && entry && (__u64)entry != head; i++) {
		struct wait_queue_entry *sleeper =
			(void *)((__u64)entry - bpf_core_field_offset(struct wait_queue_entry, entry));

		/* Others, such as those of epoll, have no task there. */
		if ((__u64)BPF_CORE_READ(sleeper, func) == (__u64)&woken_wake_function) {
			reason = needs_of(BPF_CORE_READ(sleeper, private));
			if (reason)
				return reason;
		}
		entry = BPF_CORE_READ(entry, next);
	}
	return REASON_NONE;
}

/* connect() is the only moment in the handshake when the client's program is known for sure. */
static __noinline int on_connect(struct bpf_sock_ops *ops)
{
	struct member m = {.pair = NO_PAIR, .generation = NO_PAIR};
	struct program program = {};
	struct bpf_sock *sk = ops->sk;

	if (!sk || !listed(bpf_ntohl(ops->remote_port)) || !current_program(&program) ||
	    !bpf_map_lookup_elem(&programs, &program))
		return 0;
	bpf_sk_storage_get(&members, sk, &m, BPF_SK_STORAGE_GET_F_CREATE);
	return 0;
}

static __always_inline bool refused(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct member *m;

	if (!sk)
		return true;
	m = bpf_sk_storage_get(&members, sk, NULL, 0);
	return m && m->pair == NO_PAIR;
}

#endif
