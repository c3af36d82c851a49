/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* How sockets leave the hash. A member that is taken out loses what is queued for it, so it has to be drained first. */
#ifndef MASDEEPFLOW_GATEWAY_LEAVE_H
#define MASDEEPFLOW_GATEWAY_LEAVE_H

#define SERVER_PATIENCE_NS SECOND_NS

static __always_inline struct end *end_of(struct pair *pair, __u32 side)
{
	return &pair->ends[side & 1];
}

/*
 * Whether all that was redirected to this end was read by its application. `redirected` is raised before the bytes are
 * on their way, so bytes that another CPU is about to queue count as unread.
 */
static __always_inline bool drained(struct pair *pair, __u32 side)
{
	return end_of(pair, side)->received >= end_of(pair, side ^ 1)->redirected;
}

static __always_inline bool evict(struct pair *pair, __u32 side)
{
	struct end *end = end_of(pair, side);
	__u64 cookie = end->cookie;

	if (end->left)
		return true;
	if (pair->state != PAIR_TCP && !end->closed && !drained(pair, side))
		return false;
	bpf_map_delete_elem(&sockets, &cookie);
	end->left = 1;
	__sync_fetch_and_add(&shared.evicted, 1);
	return true;
}

static __always_inline void evict_both(struct pair *pair)
{
	bool client = evict(pair, SIDE_CLIENT), server = evict(pair, SIDE_SERVER);

	if (client && server)
		change(pair, PAIR_LEAVING, PAIR_TCP);
}

/* The server has not come: another host's address is also one of ours, or its socket was not to be had. */
static __always_inline void give_up_waiting(struct pair *pair, __u32 index, __u32 reason)
{
	if (!change(pair, PAIR_WAITING, PAIR_TCP))
		return;
	count_reason(pair, reason);
	if (withdraw(pair))
		end_use(pair, index, 1 << SIDE_SERVER);
}

/* A member sends a packet of its own: nothing that is redirected comes here. */
static __noinline int on_packet(struct bpf_sock_ops *ops)
{
	struct member *m;
	struct pair *pair;

	if (!ops->sk)
		return 0;
	m = bpf_sk_storage_get(&members, ops->sk, NULL, 0);
	if (!m)
		return 0;
	pair = pair_of(m);
	if (!pair)
		return 0;
	if (pair->state == PAIR_LEAVING)
		evict_both(pair);
	else if (pair->state == PAIR_TCP)
		evict(pair, m->side);
	return 0;
}

/* close() takes a socket out of the hash, and its sk_psock away, before it changes its state; shutdown() does not. */
static __always_inline bool is_member(struct bpf_sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);

	return tp && ((struct sock *)tp)->sk_user_data;
}

static __noinline int on_state(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct member *m;
	struct pair *pair;
	struct end *end;
	__u32 state = ops->args[1];

	if (!sk || (state != TCP_CLOSE && state != TCP_FIN_WAIT1 && state != TCP_LAST_ACK))
		return 0;
	m = bpf_sk_storage_get(&members, sk, NULL, 0);
	if (!m)
		return 0;
	pair = pair_of(m);
	if (!pair)
		return 0;
	end = end_of(pair, m->side);
	if (state == TCP_CLOSE) {
		end->closed = 1;
		give_up_waiting(pair, m->pair, REASON_NO_PEER);
		end_use(pair, m->pair, 1 << (m->side & 1));
	} else if (!end->left && !is_member(sk)) {
		end->closed = 1;
		end->reset = !drained(pair, m->side);
		if (end->reset) {
			pair->leaving_ns = bpf_ktime_get_ns();
			leave(pair, m->pair, REASON_NO_PEER);
		}
	}
	return 0;
}

SEC("sockops")
int gateway_connections(struct bpf_sock_ops *ops)
{
	if (ops->family != AF_INET && ops->family != AF_INET6)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_RWND_INIT:
		note_syn(ops);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ops);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		join_client(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		join_server(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ops);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		on_packet(ops);
		break;
	}
	return 1;
}

/*
 * The counts may say that bytes are on their way when none are: a redirection that failed for want of memory was
 * announced all the same. After a second the queue itself is asked.
 */
static __always_inline bool queue_empty(struct sock *sk)
{
	struct sk_psock *psock = (struct sk_psock *)((__u64)sk->sk_user_data & ~7ULL);
	struct list_head *next;

	if (!psock)
		return true;
	next = BPF_CORE_READ(psock, ingress_msg.next);
	return (__u64)next == (__u64)psock + bpf_core_field_offset(struct sk_psock, ingress_msg);
}

static __always_inline void forget_failed(struct pair *pair, __u32 side, struct sock *sk)
{
	if (!drained(pair, side) && bpf_ktime_get_ns() > pair->leaving_ns + SECOND_NS && queue_empty(sk))
		end_of(pair, side)->received = end_of(pair, side ^ 1)->redirected;
}

/* One pass over the hash: the ends that may leave do. User space asks for it while something is on its way out. */
SEC("iter/sockmap")
int gateway_evict(struct bpf_iter__sockmap *ctx)
{
	struct sock *sk = ctx->sk;
	struct member *m;
	struct pair *pair;

	if (!sk || !ctx->key)
		return 0;
	m = bpf_sk_storage_get(&members, sk, NULL, 0);
	if (!m)
		return 0;
	pair = pair_of(m);
	if (!pair)
		return 0;
	shared.members++;
	if (shared.stopping)
		leave(pair, m->pair, REASON_STOP);
	if (pair->state == PAIR_WAITING &&
	    (shared.stopping || bpf_ktime_get_ns() > pair->since_ns + SERVER_PATIENCE_NS))
		give_up_waiting(pair, m->pair, REASON_NO_PEER);
	if (pair->state == PAIR_LEAVING || pair->state == PAIR_TCP) {
		shared.unfinished++;
		forget_failed(pair, m->side, sk);
		evict(pair, m->side);
		if (end_of(pair, SIDE_CLIENT)->left && end_of(pair, SIDE_SERVER)->left)
			change(pair, PAIR_LEAVING, PAIR_TCP);
	}
	return 0;
}

extern int bpf_sock_destroy(struct sock_common *sk) __attribute__((section(".ksyms")));

/*
 * Bytes that were held back leave at once instead of with TCP's next probe: setting TCP_NODELAY pushes them. A socket
 * that was closed with unread bytes is reset, as __tcp_close() does with what is in its own queue.
 */
SEC("iter/tcp")
int gateway_kick(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;
	struct member *m;
	struct pair *pair;
	int on = 1, was = 0;

	if (!common)
		return 0;
	tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(common);
	if (!tp)
		return 0;
	m = bpf_sk_storage_get(&members, (struct sock *)tp, NULL, 0);
	if (!m)
		return 0;
	pair = pair_of(m);
	if (!pair)
		return 0;
	if (end_of(pair, m->side)->reset) {
		bpf_sock_destroy(common);
		return 0;
	}
	if (pair->state < PAIR_LEAVING || tp->write_seq == tp->snd_nxt || !end_of(pair, m->side ^ 1)->left)
		return 0;
	if (bpf_getsockopt(tp, SOL_TCP, TCP_NODELAY, &was, sizeof(was)))
		return 0;
	bpf_setsockopt(tp, SOL_TCP, TCP_NODELAY, &on, sizeof(on));
	if (!was)
		bpf_setsockopt(tp, SOL_TCP, TCP_NODELAY, &was, sizeof(was));
	return 0;
}

#endif
