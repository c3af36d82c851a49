/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Iterators that user space runs: what was there before, and what has gone idle. */
#ifndef MASDEEPFLOW_HOOKS_SWEEP_H
#define MASDEEPFLOW_HOOKS_SWEEP_H

/* Run once at start, in the agent's own process: also tells which one that is, in any PID namespace. */
SEC("iter/tcp")
int on_start(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	shared.own_pid = bpf_get_current_pid_tgid() >> 32;
	if (!common)
		return 0;
	if (common->skc_state == TCP_LISTEN) {
		add_listener(common);
		return 0;
	}
	if (common->skc_state != TCP_ESTABLISHED && common->skc_state != TCP_CLOSE_WAIT)
		return 0;
	struct sock *sk = (struct sock *)bpf_skc_to_tcp_sock(common);
	if (sk && !bpf_sk_storage_get(&tcp_connections, sk, NULL, 0))
		adopt_tcp(sk, false);
	return 0;
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
	/* Bytes that the peer has not acknowledged, or that the client has not read, mean that the response goes on. */
	bool server = c->slot.role == ROLE_SERVER;
	__u32 fin = sk->__sk_common.skc_state != TCP_ESTABLISHED; /* counts as one unread byte */
	bool drained = server ? tp->write_seq == tp->snd_una : tp->rcv_nxt - tp->copied_seq <= fin;
	if (turn_idle(c, drained, server ? tp->tcp_mstamp * 1000 : 0, bpf_ktime_get_ns()))
		shared.unfinished_tcp = 1;
	return 0;
}

SEC("iter/bpf_map_elem")
int sweep_other(struct bpf_iter__bpf_map_elem *ctx)
{
	__u64 *cookie = ctx->key;
	if (!cookie || !ctx->value)
		return 0;
	__u64 key = *cookie;
	struct connection *c = bpf_map_lookup_elem(&other_connections, &key);
	if (c && turn_idle(c, true, 0, bpf_ktime_get_ns()))
		shared.unfinished_other = 1;
	return 0;
}

#endif
