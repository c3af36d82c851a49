/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Opening and closing of TCP connections, whatever hook set sees their bytes. */
#ifndef MASDEEPFLOW_HOOKS_STATE_H
#define MASDEEPFLOW_HOOKS_STATE_H

static __always_inline void write_connect(struct connection *c, __u8 kind)
{
	struct slot *s = &c->slot;
	/* With TCP Fast Open the request is older than the connection. */
	__u64 request_first_ns = s->request_first_ns;

	s->request_first_ns = c->opened_ns;
	s->response_last_ns = bpf_ktime_get_ns();
	write_slot(s, kind);
	s->request_first_ns = request_first_ns;
	s->response_last_ns = 0;
}

/* Accepted or older than the agent, and never used: who shuts it down or closes it is the first known to have it. */
static __always_inline void set_closer(struct connection *c)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	if (c->slot.pid)
		return;
	if (pid == shared.own_pid)
		c->closed = true;
	else
		set_process(c, pid, (struct task_struct *)bpf_get_current_task_btf());
}

static __always_inline void closed(struct sock *sk)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!c || !tp || c->closed)
		return;
	set_closer(c);
	lock(c);
	if (c->slot.role == ROLE_SERVER)
		turn_sent(c, last_sent_ns(tp));
	turn_close(c, tp->srtt_us >> 3, tp->total_retrans);
	unlock(c);
}

static __always_inline void connecting(struct sock *sk)
{
	__u64 id = bpf_get_current_pid_tgid();
	if (id >> 32 == shared.own_pid)
		return;
	/* A socket may be disconnected, or refused, and connect again. */
	closed(sk);
	bpf_sk_storage_delete(&tcp_connections, sk);
	struct connection *c = new_tcp(sk);
	if (!c)
		return;
	c->slot.role = ROLE_CLIENT;
	c->slot.tid = (__u32)id;
	set_process(c, id >> 32, (struct task_struct *)bpf_get_current_task_btf());
}

static __always_inline void connected(struct sock *sk)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c)
		return;
	set_addresses(&c->slot, &sk->__sk_common);
	set_begin(c, sk);
	write_connect(c, KIND_CONNECT);
}

static __always_inline void accepted(struct sock *sk)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	/* Both ends sent a SYN: most often one socket, connected to itself. */
	if (c && c->slot.role == ROLE_CLIENT) {
		connected(sk);
		return;
	}
	c = new_tcp(sk);
	if (!c)
		return;
	set_addresses(&c->slot, &sk->__sk_common);
	set_begin(c, sk);
	c->slot.role = ROLE_SERVER;
	c->accept_pending = true;
}

static __always_inline __s32 connect_error(struct sock *sk)
{
	if (sk->sk_err)
		return sk->sk_err;
	/* Closed before there was an answer, or not sent because all ports are taken. */
	return sk->sk_shutdown == SHUTDOWN_MASK ? ECANCELED : EADDRNOTAVAIL;
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
	c->slot.error = connect_error(sk);
	write_connect(c, KIND_CONNECT_FAILED);
	c->slot.error = 0;
	c->closed = true;
}

/* close() or shutdown() of the sending side, in the process that calls it. peer_first: behind that of the other end. */
static __always_inline void shut_down(struct sock *sk, bool peer_first)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!c || !tp)
		return;
	if (peer_first)
		c->peer_closed = true;
	set_closer(c);
	/* A mere shutdown leaves bytes to read, and then the turn, open: those that come, or those that wait. */
	if (sk->sk_shutdown != SHUTDOWN_MASK || tp->rcv_nxt - tp->copied_seq > 1)
		return;
	/* What the peer has no room for yet is sent behind the close: on_destroy() sees when. */
	if (c->slot.role == ROLE_SERVER && tp->write_seq != tp->snd_nxt)
		return;
	closed(sk);
}

/* Ended without a FIN of this side: the peer has reset it, the kernel has given up on it, or the process aborts it. */
static __always_inline void aborted(struct sock *sk, int old)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, 0);
	if (!c)
		return;
	c->slot.error = sk->sk_err;
	if (old == TCP_CLOSE_WAIT || sk->sk_err == ECONNRESET)
		c->peer_closed = true;
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
	else if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		shut_down(sk, new == TCP_LAST_ACK);
	else if (new == TCP_CLOSE && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT || old == TCP_FIN_WAIT1))
		aborted(sk, old);
	return 0;
}

/* Resets, and sockets that leave behind their close. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroy, struct sock *sk)
{
	closed(sk);
	return 0;
}

/* A UDP socket with a peer learns that nobody listens there: ICMP, from this host or another. */
SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(on_error, struct sock *sk)
{
	if (sk->sk_protocol != IPPROTO_UDP || !sk->__sk_common.skc_dport)
		return 0;
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct connection *c = bpf_map_lookup_elem(&other_connections, &cookie);
	if (!c)
		return 0;
	lock(c);
	datagram_refused(c, sk->sk_err);
	if (c->slot.role == ROLE_CLIENT && follows_datagrams(c) && !turn_open(c) &&
	    is_datagram_port(__builtin_bswap16(sk->__sk_common.skc_dport))) {
		set_addresses(&c->slot, &sk->__sk_common);
		datagram_failed(c, false, sk->sk_err);
	}
	unlock(c);
	return 0;
}

/* When the first unread byte arrived: how long a request waits before the server reads it. Of datagrams: when they left. */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(on_data_ready, struct sock *sk)
{
	if (sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_family == AF_UNIX) {
		if (sk->sk_protocol == IPPROTO_UDP) {
			datagram_delivered();
			note_sender(sk);
		}
		return 0;
	}
	struct arrival *a = bpf_sk_storage_get(&arrivals, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (a && !a->first_ns)
		a->first_ns = bpf_ktime_get_ns();
	return 0;
}

#endif
