/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Opening and closing of TCP connections, whatever hook set sees their bytes. */
#ifndef MASDEEPFLOW_HOOKS_STATE_H
#define MASDEEPFLOW_HOOKS_STATE_H

static __always_inline void write_connect(struct connection *c, __u8 kind)
{
	struct slot *s = &c->slot;
	s->request_first_ns = c->opened_ns;
	s->response_last_ns = bpf_ktime_get_ns();
	write_slot(s, kind);
	s->request_first_ns = s->response_last_ns = 0;
}

static __always_inline void connecting(struct sock *sk)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	if (pid == shared.own_pid)
		return;
	struct connection *c = new_tcp(sk);
	if (!c)
		return;
	c->slot.role = ROLE_CLIENT;
	c->closed = false;
	c->slot.tid = (__u32)bpf_get_current_pid_tgid();
	set_process(c, pid, (struct task_struct *)bpf_get_current_task_btf());
}

static __always_inline void connected(struct sock *sk)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c)
		return;
	set_addresses(&c->slot, &sk->__sk_common);
	write_connect(c, KIND_CONNECT);
}

static __always_inline void accepted(struct sock *sk)
{
	struct connection *c = new_tcp(sk);
	if (!c)
		return;
	set_addresses(&c->slot, &sk->__sk_common);
	c->slot.role = ROLE_SERVER;
	c->accept_pending = true;
}

static __always_inline void connect_failed(struct sock *sk)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c || c->closed)
		return;
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	set_addresses(&c->slot, &sk->__sk_common);
	/* The port is given back before the state changes; inet_sport still has it. */
	if (tp)
		c->slot.local_port = __builtin_bswap16(tp->inet_conn.icsk_inet.inet_sport);
	c->slot.error = sk->sk_err;
	write_connect(c, KIND_CONNECT_FAILED);
	c->slot.error = 0;
	c->closed = true;
}

static __always_inline void closed(struct sock *sk, bool by_process)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c || c->closed)
		return;
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	/* Accepted, never read or written, and closed: only now somebody is known to have it. */
	if (by_process && !c->slot.pid) {
		if (pid == shared.own_pid)
			return;
		set_process(c, pid, (struct task_struct *)bpf_get_current_task_btf());
	}
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	turn_close(c, tp ? tp->srtt_us >> 3 : 0, tp ? tp->total_retrans : 0);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state, struct sock *sk, int old, int new)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (new == TCP_SYN_SENT)
		connecting(sk);
	else if (new == TCP_ESTABLISHED && old == TCP_SYN_SENT)
		connected(sk);
	else if (new == TCP_ESTABLISHED && old == TCP_SYN_RECV)
		accepted(sk);
	else if (new == TCP_CLOSE && old == TCP_SYN_SENT)
		connect_failed(sk);
	else if (new == TCP_LISTEN)
		add_listener(&sk->__sk_common);
	/* The process closed. A mere shutdown(SHUT_WR) leaves its reading side, and the turn, open. */
	else if ((new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK) && sk->sk_shutdown == SHUTDOWN_MASK)
		closed(sk, true);
	return 0;
}

/* Resets, and sockets closed after they left the established states. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy, struct sock *sk)
{
	closed(sk, false);
	return 0;
}

/* When the first unread byte arrived: how long a request waits before the server reads it. */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(on_data_ready, struct sock *sk)
{
	if (sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_family == AF_UNIX)
		return 0;
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (c && c->slot.role == ROLE_SERVER && !c->arrival_ns)
		c->arrival_ns = bpf_ktime_get_ns();
	return 0;
}

#endif
