/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Iterators that user space runs: what was there before, and what has gone idle. */
#ifndef MASDEEPFLOW_HOOKS_SWEEP_H
#define MASDEEPFLOW_HOOKS_SWEEP_H

#define SPLICED_SWEEPS 16

static __always_inline void find_old(struct sock *sk)
{
	struct connection *c;
	__u8 state = sk->__sk_common.skc_state;

	if (state == TCP_LISTEN)
		add_listener(&sk->__sk_common);
	if (!shared.adopting || (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT))
		return;
	if (bpf_sk_storage_get(&tcp_connections, sk, NULL, 0))
		return;
	c = adopt_tcp(sk, false, 0);
	/* Neither listener nor port tells: forgotten, so that its first bytes do. */
	if (c && (c->slot.flags & FLAG_ROLE_GUESSED) && !ports_tell(&c->slot))
		bpf_sk_storage_delete(&tcp_connections, sk);
}

/*
 * Two programs run at start, in the agent's own process: this one sees the sockets of all processes in the agent's network
 * namespace, the next one those in all network namespaces of processes in its PID namespace. Their first run finds the
 * listeners, the second the connections.
 */
SEC("iter/tcp")
int find_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	/* In any PID namespace, this is how the kernel numbers the agent. */
	shared.own_pid = bpf_get_current_pid_tgid() >> 32;
	if (!common)
		return 0;
	struct sock *sk = (struct sock *)bpf_skc_to_tcp_sock(common);
	if (sk)
		find_old(sk);
	return 0;
}

SEC("iter/task_file")
int find_files(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	if (!file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (sk->__sk_common.skc_family == AF_INET || sk->__sk_common.skc_family == AF_INET6)
		find_old(sk);
	return 0;
}

/* A client's next bytes come within a round trip of those it has read, if they come at once. */
static __always_inline __u64 round_trip_ns(struct tcp_sock *tp)
{
	return (__u64)tp->rtt_min.s[0].v * 1000;
}

/* Whether nothing waits to be read but, it may be, the peer's FIN, which counts as a byte. */
static __always_inline bool all_read(struct sock *sk, struct tcp_sock *tp)
{
	return tp->rcv_nxt - tp->copied_seq <= (sk->sk_shutdown & RCV_SHUTDOWN ? 1 : 0);
}

/* Bytes that are uncounted whenever one looks were not read by a call that is about to end: on_splice() is needed. */
static __always_inline bool finds_unseen(struct connection *c, struct sock *sk, struct tcp_sock *tp)
{
	if (unseen_bytes(c, sk, tp) <= 0) {
		c->unseen_sweeps = 0;
		return false;
	}
	if (++c->unseen_sweeps >= SPLICED_SWEEPS)
		shared.splicing = 1;
	return true;
}

/* The lock is held. Returns whether the turn has to be looked at again without new I/O. */
static __always_inline bool sweep_turn(struct connection *c, struct sock *sk, struct tcp_sock *tp, bool unseen)
{
	/* Bytes that the peer has not acknowledged, or that the client has not read, mean that the response goes on. */
	bool server = c->slot.role == ROLE_SERVER, again;
	bool drained = server ? tp->write_seq == tp->snd_una : all_read(sk, tp) && !unseen;

	if (server && drained)
		turn_sent(c, last_sent_ns(tp));
	again = turn_idle(c, drained, server ? 0 : round_trip_ns(tp), bpf_ktime_get_ns());
	unlock(c);
	return again;
}

SEC("iter/bpf_sk_storage_map")
int sweep_tcp(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	if (!sk || !ctx->value)
		return 0;
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c)
		return 0;
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	if (c->closed)
		return 0;
	bool unseen = finds_unseen(c, sk, tp);
	if (unseen && !shared.splicing)
		shared.unfinished_tcp = 1;
	if (!turn_open(c))
		return 0;
	if (!try_lock(c) || sweep_turn(c, sk, tp, unseen))
		shared.unfinished_tcp = 1;
	return 0;
}

SEC("iter/bpf_map_elem")
int sweep_other(struct bpf_iter__bpf_map_elem *ctx)
{
	const struct connection *seen = ctx->value;
	__u64 *cookie = ctx->key;
	/* A look-up counts as use, and would keep what is long gone in the map. */
	if (!cookie || !seen || !(turn_open(seen) || seen->unanswered))
		return 0;
	__u64 key = *cookie;
	struct connection *c = bpf_map_lookup_elem(&other_connections, &key);
	if (!c)
		return 0;
	bool again = true;
	if (try_lock(c)) {
		again = turn_idle(c, true, 0, bpf_ktime_get_ns()) || datagram_silent(c, bpf_ktime_get_ns());
		unlock(c);
	}
	if (again)
		shared.unfinished_other = 1;
	return 0;
}

#endif
