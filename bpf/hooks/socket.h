/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The `socket` hook set: one program per I/O (Linux 6.3, "sock: add tracepoint for send recv length"). */
#ifndef MASDEEPFLOW_HOOKS_SOCKET_H
#define MASDEEPFLOW_HOOKS_SOCKET_H

/* Where a thread is in its sendmmsg or recvmmsg. */
struct message_call {
	__u64 vector;
	__u64 cookie;
	__u32 count;
	__u32 next;
	__u32 length;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct message_call);
} message_calls SEC(".maps");

static __always_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task_btf();
}

static __always_inline __u64 vector_bytes(const struct mmsghdr *message)
{
	struct user_msghdr header;
	struct iovec entry;
	__u64 bytes = 0;

	if (bpf_probe_read_user(&header, sizeof(header), message))
		return 0;
	for (int i = 0; i < MAX_IOVECS; i++) {
		if (i >= (long)header.msg_iovlen || bpf_probe_read_user(&entry, sizeof(entry), header.msg_iov + i))
			break;
		bytes += entry.iov_len;
	}
	return bytes;
}

/*
 * No register says which message of its vector a sendmmsg or recvmmsg is at. It is the one after the last seen, unless
 * this is another call: then the socket or the vector differs, or the last message's msg_len, which the kernel stores
 * between two messages, is not what was moved, or end_messages() was told of the end.
 */
static __noinline __u64 next_message(struct sock *sk, const struct io *io)
{
	const struct mmsghdr *vector = (const struct mmsghdr *)io->pointer;
	__u32 next = 0, stored = 0, count = (__u32)io->count;
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct message_call *call = bpf_task_storage_get(&message_calls, bpf_get_current_task_btf(), NULL,
							 BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!call)
		return 0;
	if (call->cookie == cookie && call->vector == io->pointer && call->count == count && call->next < count)
		next = call->next;
	if (next && (bpf_probe_read_user(&stored, sizeof(stored), &vector[next - 1].msg_len) || stored != call->length))
		next = 0;
	call->cookie = cookie;
	call->vector = io->pointer;
	call->count = count;
	call->length = io->length;
	call->next = next + 1;
	return (__u64)(vector + next);
}

static __noinline int end_messages(void)
{
	struct message_call *call = bpf_task_storage_get(&message_calls, bpf_get_current_task_btf(), NULL, 0);
	if (call)
		call->next = 0;
	return 0;
}

static __always_inline void find_message(struct io *io, struct sock *sk, bool send, bool timeout)
{
	io->pointer = next_message(sk, io);
	/* Nothing tells that recvmmsg ran out of time. */
	io->shape = io->pointer && !(timeout && io->count > 1) ? BUFFER_MSGHDR : BUFFER_NONE;
	/* A stream took a part of the message: the call ends here. */
	if (send && io->pointer && sk->sk_type == SOCK_STREAM &&
	    vector_bytes((const struct mmsghdr *)io->pointer) > io->length)
		end_messages();
}

/* Where the current system call keeps its buffers. */
static __always_inline void find_buffers(struct io *io, struct sock *sk, struct task_struct *task, bool send)
{
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	long number = SYSCALL_NUMBER(task, regs);

	io->pointer = SYSCALL_ARG2(regs);
	io->count = SYSCALL_ARG3(regs);
	if (number == (send ? NR_sendto : NR_recvfrom) || number == (send ? NR_write : NR_read))
		io->shape = BUFFER_FLAT;
	else if (number == (send ? NR_writev : NR_readv) || number == (send ? NR_pwritev2 : NR_preadv2))
		io->shape = BUFFER_IOVEC;
	else if (number == (send ? NR_sendmsg : NR_recvmsg))
		io->shape = BUFFER_MSGHDR;
	else if (number == (send ? NR_sendmmsg : NR_recvmmsg))
		find_message(io, sk, send, !send && SYSCALL_ARG5(regs));
	else
		io->shape = BUFFER_NONE; /* sendfile, splice, io_uring, a 32-bit call: bytes and time only */
}

/* A response that did not fit in the socket buffer at once: its last byte leaves behind the last call. */
#define BUFFERED_BYTES 16384

static __always_inline void buffered_response_sent(struct connection *c, struct tcp_sock *tp)
{
	if (c->slot.role == ROLE_SERVER && c->slot.response_bytes >= BUFFERED_BYTES)
		turn_sent(c, last_sent_ns(tp));
}

/*
 * When the bytes left that a send was just told of. The hook runs at the end of the call, and on the loopback interface
 * the peer may have read and answered them by then. What was not sent at once, or not by TCP, left at `now`; with
 * pacing the socket has the time at which the next segment may leave.
 */
static __always_inline __u64 departed_ns(const struct connection *c, struct sock *sk, __u64 now)
{
	const struct slot *s = &c->slot;
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp || tp->snd_nxt != tp->write_seq)
		return now;
	__u64 left = tp->tcp_wstamp_ns;
	return left > s->request_last_ns && left > s->response_last_ns && left < now ? left : now;
}

/* A call that sends so many bytes may wait for the peer to take them. */
#define LONG_SEND 65536
#define LEAST_JIFFIES 2

/*
 * A request or a response that is handed over in one call which waits for room began before that call ended, by as much as
 * the socket had bytes to send since the other side's last bytes were read. In jiffies: what takes less is not worth the
 * while.
 */
static __always_inline void long_send(struct connection *c, struct sock *sk, __u64 now, __u64 answered)
{
	bool request = is_request(c, true);
	__u64 *first = request ? &c->slot.request_first_ns : &c->slot.response_first_ns;
	__u64 earliest = !request ? c->slot.request_last_ns : answered ? answered + 1 : c->opened_ns;
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp || !earliest || *first)
		return;
	__u32 jiffies = sending_jiffies(tp) - c->sending_jiffies;
	__u64 began = now - (__u64)jiffies * shared.jiffy_ns;
	/* A jiffy may be counted that had begun before. */
	if (jiffies >= LEAST_JIFFIES && began < now)
		*first = began > earliest ? began : earliest;
}

static __always_inline void bytes_read(struct connection *c, struct tcp_sock *tp)
{
	buffered_response_sent(c, tp);
	c->sending_jiffies = sending_jiffies(tp);
}

static __always_inline int tcp_io(struct sock *sk, bool send, int length, bool discarded)
{
	struct io io = {.length = (__u32)length};
	__u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	__u32 pid = id >> 32;

	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c) {
		c = adopt_tcp(sk, send, (__u32)length);
		if (!c)
			return 0;
	}
	if (pid == shared.own_pid)
		c->closed = true; /* whoever accepted it is known only now */
	if (c->closed)
		return 0;
	struct task_struct *task = current_task();
	lock(c);
	/* include/linux/skmsg.h: the low bits of sk_user_data tell what it points to. */
	bool accelerated = (__u64)sk->sk_user_data & SK_USER_DATA_PSOCK;
	if (!send) {
		take_arrival(c, sk);
		struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
		if (tp)
			bytes_read(c, tp);
	} else if (!accelerated) {
		now = departed_ns(c, sk, now);
	}
	__u64 answered = c->slot.response_last_ns; /* of the turn before, if a new one begins */
	turn_next(c, send);
	if (send && length >= LONG_SEND && !accelerated)
		long_send(c, sk, now, answered);
	if (accelerated)
		c->slot.flags |= FLAG_ACCELERATED;
	set_process(c, pid, task);
	c->slot.tid = (__u32)id;
	find_buffers(&io, sk, task, send);
	if (discarded)
		io.shape = BUFFER_NONE;
	turn_io(c, send, &io, now);
	unlock(c);
	if (!shared.unfinished_tcp)
		shared.unfinished_tcp = 1;
	return 0;
}

/* Bytes that came otherwise than by a recvmsg. */
static __always_inline void count_unseen(struct connection *c, struct sock *sk, struct tcp_sock *tp)
{
	struct io io = {.shape = BUFFER_NONE};
	__s32 length = unseen_bytes(c, sk, tp);

	if (length <= 0 || c->closed)
		return;
	io.length = (__u32)length;
	bytes_read(c, tp);
	turn_next(c, false);
	turn_io(c, false, &io, bpf_ktime_get_ns());
}

/*
 * splice() reads a TCP socket without a recvmsg: the hook of its end is this one, which others pass too. It is attached
 * when the sweep has found a socket read in that way.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(on_splice, struct sock *sk)
{
	struct task_struct *task = current_task();
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	__u64 id = bpf_get_current_pid_tgid();

	if (SYSCALL_NUMBER(task, regs) != NR_splice || id >> 32 == shared.own_pid)
		return 0;
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!c || !tp || c->closed)
		return 0;
	lock(c);
	set_process(c, id >> 32, task);
	c->slot.tid = (__u32)id;
	count_unseen(c, sk, tp);
	unlock(c);
	if (!shared.unfinished_tcp)
		shared.unfinished_tcp = 1;
	return 0;
}

/* The start of a struct sockaddr_in or sockaddr_in6, and where it lies in user memory. */
struct peer_name {
	const void *at;
	__u16 family;
	__be16 port;
	__u32 address;
};

/* Where an unconnected UDP socket sends to stands in the call only. */
static __always_inline void read_peer(struct peer_name *peer, const struct io *io, struct task_struct *task)
{
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	const void *name = NULL;

	peer->at = NULL;
	if (io->shape == BUFFER_FLAT && SYSCALL_NUMBER(task, regs) == NR_sendto)
		name = (const void *)SYSCALL_ARG5(regs);
	else if (io->shape == BUFFER_MSGHDR)
		bpf_probe_read_user(&name, sizeof(name), (const void *)io->pointer);
	if (name && !bpf_probe_read_user(&peer->family, 8, name))
		peer->at = name;
}

static __always_inline void set_peer(struct slot *s, const struct peer_name *peer)
{
	s->remote_port = __builtin_bswap16(peer->port);
	if (peer->family == AF_INET6) {
		bpf_probe_read_user(s->remote_address, 16, peer->at + 8); /* behind sin6_flowinfo */
	} else if (s->family == AF_INET6) {
		/* An IPv4 address given to an IPv6 socket is mapped. */
		__builtin_memset(s->remote_address, 0, 10);
		s->remote_address[10] = s->remote_address[11] = 0xff;
		*(__u32 *)(s->remote_address + 12) = peer->address;
	} else {
		*(__u32 *)s->remote_address = peer->address;
	}
}

/*
 * A UDP socket may be connected anew, or have many peers. Nothing tells who sent a datagram: a client is answered by whom
 * it asked last.
 */
static __always_inline bool has_new_ends(const struct slot *s, struct sock *sk, bool send)
{
	return send || s->role != ROLE_CLIENT || sk->__sk_common.skc_dport;
}

/* Errors of the network, and of who forbids its use: of ICMP, routes, filters. */
static __always_inline bool is_network_error(int error)
{
	return error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH || error == EPERM ||
	       error == EACCES || error == EHOSTDOWN || error == ENETDOWN || error == ENOPROTOOPT ||
	       error == EADDRNOTAVAIL;
}

static __noinline int udp_io(struct sock *sk, bool send, int length)
{
	struct io io = {.length = (__u32)length};
	struct peer_name peer = {};
	__u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	__u16 remote = __builtin_bswap16(sk->__sk_common.skc_dport);

	if (id >> 32 == shared.own_pid)
		return 0;
	struct connection *c = find_other(sk, send);
	if (!c)
		return 0;
	struct task_struct *task = current_task();
	if (send)
		now = take_departure(now);
	lock(c);
	/* Two threads at one socket: a turn's times do not go back. */
	if (!follows_datagrams(c) && (now <= c->slot.request_last_ns || now <= c->slot.response_last_ns))
		now = bpf_ktime_get_ns();
	/* First of all: behind all that differs between calls the verifier would look at it again and again. */
	bool next = turn_next(c, send);
	set_process(c, id >> 32, task);
	c->slot.tid = (__u32)id;
	if (send)
		find_buffers(&io, sk, task, true);
	else
		find_buffers(&io, sk, task, false);
	if (send && !remote)
		read_peer(&peer, &io, task);
	if (!remote)
		remote = peer.at ? __builtin_bswap16(peer.port) : c->slot.remote_port;
	/* A port may be followed in the middle of a turn. */
	bool datagram = !turn_open(c) && by_datagram(c, sk->__sk_common.skc_num, remote);
	struct end before;
	get_end(&before, &c->slot);
	if (datagram ? has_new_ends(&c->slot, sk, send) : next)
		set_addresses(&c->slot, &sk->__sk_common);
	if (peer.at)
		set_peer(&c->slot, &peer);
	bool another = datagram && peer.at && c->slot.role == ROLE_CLIENT && peer_asked(sk, &before, &c->slot);
	if (datagram)
		datagram_io(c, sk, send, &io, now);
	else
		turn_io(c, send, &io, now);
	if (another)
		expect_unread(&c->slot);
	/* On this host the answer that nobody listens comes within the call, to a socket that was not known then. */
	if (send && sk->sk_err) {
		datagram_refused(c, sk->sk_err);
		if (datagram && is_request(c, true))
			datagram_failed(c, false, sk->sk_err);
	}
	unlock(c);
	if (!shared.unfinished_other)
		shared.unfinished_other = 1;
	return 0;
}

/* A client of a followed port could not send. */
static __noinline int udp_failed(struct sock *sk, int error)
{
	/* How long it would have been nobody tells: what there is room for, as far as the buffers go. */
	struct io io = {.length = PAYLOAD_BYTES};
	struct peer_name peer = {};
	__u64 id = bpf_get_current_pid_tgid();
	__u16 remote = __builtin_bswap16(sk->__sk_common.skc_dport);

	if (id >> 32 == shared.own_pid || is_datagram_port(sk->__sk_common.skc_num))
		return 0;
	struct task_struct *task = current_task();
	find_buffers(&io, sk, task, true);
	if (!remote)
		read_peer(&peer, &io, task);
	if (peer.at)
		remote = __builtin_bswap16(peer.port);
	if (!is_datagram_port(remote))
		return 0;
	struct connection *c = find_other(sk, true);
	if (!c)
		return 0;
	lock(c);
	if (c->slot.role == ROLE_CLIENT && !turn_open(c) && c->datagrams != NOT_DATAGRAMS) {
		set_process(c, id >> 32, task);
		c->slot.tid = (__u32)id;
		set_addresses(&c->slot, &sk->__sk_common);
		if (peer.at)
			set_peer(&c->slot, &peer);
		begin_turn(c);
		datagram_payload(&c->slot, &io);
		datagram_failed(c, true, error);
	}
	unlock(c);
	return 0;
}

/* Nothing came or went, or was only looked at. It takes its place in a vector of messages; an error ends the vector. */
static __always_inline int no_bytes(struct sock *sk, bool send, int length)
{
	struct io io = {.length = (__u32)length};
	struct task_struct *task = current_task();
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);

	if (send && sk->sk_protocol == IPPROTO_UDP) {
		take_departure(0);
		if (is_network_error(-length))
			udp_failed(sk, -length);
	}
	if (SYSCALL_NUMBER(task, regs) != (send ? NR_sendmmsg : NR_recvmmsg))
		return 0;
	if (length < 0)
		return end_messages();
	io.pointer = SYSCALL_ARG2(regs);
	io.count = SYSCALL_ARG3(regs);
	next_message(sk, &io);
	return 0;
}

static __noinline int unix_io(struct sock *sk, bool send, int length)
{
	struct io io = {.length = (__u32)length};
	__u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	__u32 pid = id >> 32;

	if (pid == shared.own_pid)
		return 0;
	struct connection *c = find_other(sk, send);
	if (!c)
		return 0;
	struct task_struct *task = current_task();
	lock(c);
	turn_next(c, send);
	set_process(c, pid, task);
	if (!c->slot.turn)
		write_unix_opened(c, now);
	c->slot.tid = (__u32)id;
	if (send)
		find_buffers(&io, sk, task, true);
	else
		find_buffers(&io, sk, task, false);
	turn_io(c, send, &io, now);
	unlock(c);
	if (!shared.unfinished_other)
		shared.unfinished_other = 1;
	return 0;
}

static __always_inline int socket_io(struct sock *sk, bool send, int length, int flags)
{
	__u16 family = sk->__sk_common.skc_family;

	if (family == AF_INET || family == AF_INET6) {
		if (sk->sk_protocol == IPPROTO_TCP)
			return tcp_io(sk, send, length, flags & MSG_TRUNC);
		if (sk->sk_protocol == IPPROTO_UDP)
			return udp_io(sk, send, length);
		return 0;
	}
	if (family == AF_UNIX && sk->sk_type == SOCK_STREAM)
		return unix_io(sk, send, length);
	return 0;
}

/* A Unix stream tells its end by an empty read only. */
static __always_inline int unix_end(struct sock *sk)
{
	if (sk->__sk_common.skc_family != AF_UNIX || sk->sk_type != SOCK_STREAM)
		return 0;
	/* Reading zero bytes is no end, and a peer that only shut down its sending side still reads the response. */
	if (sk->sk_shutdown != SHUTDOWN_MASK || sk->sk_receive_queue.qlen)
		return 0;
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct connection *c = bpf_map_lookup_elem(&other_connections, &cookie);
	if (!c)
		return 0;
	lock(c);
	c->peer_closed = true;
	turn_close(c, 0, 0);
	unlock(c);
	bpf_map_delete_elem(&other_connections, &cookie);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(on_send, struct sock *sk, int length, int flags)
{
	return length > 0 ? socket_io(sk, true, length, 0) : no_bytes(sk, true, length);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, struct sock *sk, int length, int flags)
{
	if (length > 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE)))
		return socket_io(sk, false, length, flags);
	no_bytes(sk, false, length);
	return length ? 0 : unix_end(sk);
}

#endif
