/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The `socket` hook set: one program per I/O (Linux 6.3, "sock: add tracepoint for send recv length"). */
#ifndef MASDEEPFLOW_HOOKS_SOCKET_H
#define MASDEEPFLOW_HOOKS_SOCKET_H

/* Where the current system call keeps its buffers. */
static __always_inline void find_buffers(struct io *io, struct task_struct *task)
{
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	long number = SYSCALL_NUMBER(task, regs);

	io->pointer = SYSCALL_ARG2(regs);
	io->count = SYSCALL_ARG3(regs);
	if (number == NR_recvfrom || number == NR_read || number == NR_sendto || number == NR_write)
		io->shape = BUFFER_FLAT;
	else if (number == NR_writev || number == NR_readv || number == NR_pwritev2 || number == NR_preadv2)
		io->shape = BUFFER_IOVEC;
	else if (number == NR_sendmsg || number == NR_recvmsg)
		io->shape = BUFFER_MSGHDR;
	else if (number == NR_sendmmsg || number == NR_recvmmsg)
		io->shape = BUFFER_MMSGHDR;
	else
		io->shape = BUFFER_NONE; /* sendfile, splice, io_uring, a 32-bit call: bytes and time only */
}

static __always_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task_btf();
}

static __always_inline int tcp_io(struct sock *sk, bool send, int length)
{
	struct io io = {.length = (__u32)length};
	__u64 id = bpf_get_current_pid_tgid();
	__u32 pid = id >> 32;

	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c) {
		c = adopt_tcp(sk, send);
		if (!c)
			return 0;
	}
	if (pid == shared.own_pid) {
		c->closed = true; /* whoever accepted it is known only now */
		return 0;
	}
	struct task_struct *task = current_task();
	set_process(c, pid, task);
	c->slot.tid = (__u32)id;
	find_buffers(&io, task);
	turn_io(c, send, &io);
	if (!shared.unfinished_tcp)
		shared.unfinished_tcp = 1;
	return 0;
}

/* Where an unconnected UDP socket sends to stands in the call only. */
static __always_inline void set_udp_peer(struct connection *c, struct task_struct *task)
{
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	long number = SYSCALL_NUMBER(task, regs);
	const void *name = NULL;
	struct {
		__u16 family;
		__be16 port;
		__u8 address[24];
	} to = {};

	if (c->slot.remote_port)
		return;
	if (number == NR_sendto)
		name = (const void *)SYSCALL_ARG5(regs);
	else if (number == NR_sendmsg)
		bpf_probe_read_user(&name, sizeof(name), (const void *)SYSCALL_ARG2(regs));
	if (!name || bpf_probe_read_user(&to, sizeof(to), name))
		return;
	c->slot.remote_port = __builtin_bswap16(to.port);
	if (to.family == AF_INET)
		__builtin_memcpy(c->slot.remote_address, to.address, 4);
	else if (to.family == AF_INET6)
		__builtin_memcpy(c->slot.remote_address, to.address + 4, 16);
}

static __noinline int other_io(struct sock *sk, bool send, int length)
{
	struct io io = {.length = (__u32)length};
	__u64 id = bpf_get_current_pid_tgid();
	__u32 pid = id >> 32;

	if (pid == shared.own_pid)
		return 0;
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct connection *c = bpf_map_lookup_elem(&other_connections, &cookie);
	bool fresh = !c;
	if (!c) {
		if (length == 0)
			return 0;
		c = new_other(sk, cookie, send);
		if (!c)
			return 0;
	}
	struct task_struct *task = current_task();
	set_process(c, pid, task);
	if (length == 0) {
		turn_close(c, 0, 0);
		bpf_map_delete_elem(&other_connections, &cookie);
		return 0;
	}
	if (fresh && c->slot.transport == TRANSPORT_UNIX)
		write_unix_opened(c);
	c->slot.tid = (__u32)id;
	if (send && c->slot.transport == TRANSPORT_UDP)
		set_udp_peer(c, task);
	find_buffers(&io, task);
	turn_io(c, send, &io);
	if (!shared.unfinished_other)
		shared.unfinished_other = 1;
	return 0;
}

static __always_inline int socket_io(struct sock *sk, bool send, int length)
{
	__u16 family = sk->__sk_common.skc_family;

	if (family == AF_INET || family == AF_INET6) {
		if (sk->sk_protocol == IPPROTO_TCP)
			return length > 0 ? tcp_io(sk, send, length) : 0;
		if (sk->sk_protocol == IPPROTO_UDP && length > 0)
			return other_io(sk, send, length);
		return 0;
	}
	/* A Unix stream tells its end by an empty read only. */
	if (family == AF_UNIX && sk->sk_type == SOCK_STREAM && (length > 0 || (length == 0 && !send)))
		return other_io(sk, send, length);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(on_send, struct sock *sk, int length, int flags)
{
	return length <= 0 ? 0 : socket_io(sk, true, length);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, struct sock *sk, int length, int flags)
{
	return length < 0 || (flags & MSG_PEEK) ? 0 : socket_io(sk, false, length);
}

#endif
