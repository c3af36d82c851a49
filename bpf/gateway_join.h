/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* How two sockets become a pair: in the handshake, before either application has its socket. */
#ifndef MASDEEPFLOW_GATEWAY_JOIN_H
#define MASDEEPFLOW_GATEWAY_JOIN_H

#define HEARTBEAT_NS (3 * SECOND_NS)
#define SYN_NS (2 * SECOND_NS)

struct addresses {
	__u8 local[16];
	__u8 remote[16];
};

static __always_inline void map_ipv4(__u8 to[16], __u32 address)
{
	to[10] = to[11] = 0xff;
	*(__u32 *)(to + 12) = address;
}

static __always_inline void read_addresses(struct addresses *to, struct bpf_sock_ops *ops)
{
	__u32 *local = (__u32 *)to->local, *remote = (__u32 *)to->remote;
	/* The verifier wants each member of the context read on its own: clang would merge the branches. */
	volatile struct bpf_sock_ops *context = ops;

	if (ops->family == AF_INET) {
		__u32 local_ip4 = context->local_ip4, remote_ip4 = context->remote_ip4;

		barrier();
		map_ipv4(to->local, local_ip4);
		map_ipv4(to->remote, remote_ip4);
		return;
	}
	local[0] = context->local_ip6[0];
	local[1] = context->local_ip6[1];
	local[2] = context->local_ip6[2];
	local[3] = context->local_ip6[3];
	remote[0] = context->remote_ip6[0];
	remote[1] = context->remote_ip6[1];
	remote[2] = context->remote_ip6[2];
	remote[3] = context->remote_ip6[3];
}

static __always_inline __u16 remote_port(struct bpf_sock_ops *ops)
{
	return bpf_ntohl(ops->remote_port);
}

static __always_inline void make_key(struct connection_key *key, struct bpf_sock_ops *ops, enum pair_side side)
{
	struct addresses a __attribute__((aligned(8))) = {};

	read_addresses(&a, ops);
	if (side == SIDE_CLIENT) {
		__builtin_memcpy(key->client_address, a.local, 16);
		__builtin_memcpy(key->server_address, a.remote, 16);
		key->client_port = ops->local_port;
		key->server_port = remote_port(ops);
	} else {
		__builtin_memcpy(key->client_address, a.remote, 16);
		__builtin_memcpy(key->server_address, a.local, 16);
		key->client_port = remote_port(ops);
		key->server_port = ops->local_port;
	}
}

static __always_inline bool has_flag(struct sock *sk, __u64 flag)
{
	return sk->__sk_common.skc_flags >> flag & 1;
}

/*
 * What tcp_bpf_recvmsg and tcp_bpf_sendmsg do not honour (net/ipv4/tcp_bpf.c): low-water marks, peek offsets, time
 * stamps, TCP_INQ, zero-copy completions, TLS, and users inside the kernel. Accepted sockets inherit most of these.
 */
static __always_inline bool unsuited(struct tcp_sock *tp)
{
	struct sock *sk = (struct sock *)tp;

	return BPF_CORE_READ_BITFIELD(sk, sk_kern_sock) || sk->sk_rcvlowat > 1 || sk->sk_peek_off >= 0 || ((struct inet_connection_sock *)tp)->icsk_ulp_ops ||
	       BPF_CORE_READ_BITFIELD(tp, recvmsg_inq) ||
	       has_flag(sk, bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY)) ||
	       has_flag(sk, bpf_core_enum_value(enum sock_flags, SOCK_RCVTSTAMP)) ||
	       has_flag(sk, bpf_core_enum_value(enum sock_flags, SOCK_TIMESTAMP));
}

/* A buffer whose size the application has set is a promise that back-pressure begins there. */
static __always_inline __u32 room_of(struct tcp_sock *tp)
{
	struct sock *sk = (struct sock *)tp;
	__u32 room = sk->sk_rcvbuf;

	barrier_var(room);
	return BPF_CORE_READ_BITFIELD(sk, sk_userlocks) & SOCK_RCVBUF_LOCK ? room : shared.room;
}

static __always_inline bool become_member(struct bpf_sock_ops *ops, const struct member *m, struct end *end)
{
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tp;
	__u64 cookie = bpf_get_socket_cookie(ops);
	struct member *stored;

	if (!sk)
		return false;
	tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp || unsuited(tp))
		return false;
	end->cookie = cookie;
	end->socket = (__u64)tp;
	end->room = room_of(tp);
	end->netns = BPF_CORE_READ((struct sock *)tp, __sk_common.skc_net.net, ns.inum);
	stored = bpf_sk_storage_get(&members, sk, (void *)m, BPF_SK_STORAGE_GET_F_CREATE);
	if (!stored)
		return false;
	*stored = *m;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG |
					       BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
	return !bpf_sock_hash_update(ops, &sockets, &cookie, BPF_NOEXIST);
}

static __always_inline void forget(struct bpf_sock_ops *ops)
{
	if (ops->sk)
		bpf_sk_storage_delete(&members, ops->sk);
}

static __always_inline void start_pair(struct pair *pair, const struct connection_key *key, __u64 now)
{
	__sync_fetch_and_add(&shared.live, 1);
	__builtin_memset(pair->ends, 0, sizeof(pair->ends));
	__builtin_memcpy(pair->client_address, key->client_address, 16);
	__builtin_memcpy(pair->server_address, key->server_address, 16);
	pair->client_port = key->client_port;
	pair->server_port = key->server_port;
	pair->client_sequence = key->client_sequence;
	pair->server_sequence = key->server_sequence;
	pair->reason = REASON_NONE;
	pair->since_ns = now;
	pair->leaving_ns = 0;
	pair->open = 1 << SIDE_CLIENT | 1 << SIDE_SERVER;
}

/*
 * Joining and leaving the hash cost as much as some ten exchanges save. A port that sees many connections that live for
 * less is left to TCP but for so many a second: those tell when it changes.
 */
#define BRIEF_MESSAGES 16
#define BRIEF_BYTES (64 << 10)
#define BRIEF_LEAK_NS (SECOND_NS / 1024)
#define LASTING_IS_WORTH 16

static __always_inline bool was_brief(const struct pair *pair)
{
	const struct end *client = &pair->ends[SIDE_CLIENT], *server = &pair->ends[SIDE_SERVER];

	return client->recent_messages + server->recent_messages < BRIEF_MESSAGES &&
	       client->redirected + server->redirected < BRIEF_BYTES;
}

static __always_inline void leak(struct port *port, __u64 now)
{
	__u64 leaked = (now - port->leaked_ns) / BRIEF_LEAK_NS;

	if (!leaked)
		return;
	port->leaked_ns = now;
	port->brief = leaked < port->brief ? port->brief - leaked : 0;
}

/* Two CPUs may do this at once, and one count be lost. */
static __always_inline void judge_length(const struct pair *pair)
{
	__u16 number = pair->server_port;
	struct port *port = bpf_map_lookup_elem(&ports, &number);

	if (!port || !shared.brief_limit)
		return;
	leak(port, bpf_ktime_get_ns());
	if (!was_brief(pair))
		port->brief = port->brief > LASTING_IS_WORTH ? port->brief - LASTING_IS_WORTH : 0;
	else if (port->brief < 2 * shared.brief_limit)
		port->brief++;
}

static __always_inline bool too_brief(__u16 number)
{
	struct port *port = bpf_map_lookup_elem(&ports, &number);

	if (!port || !shared.brief_limit || port->brief < shared.brief_limit)
		return false;
	leak(port, bpf_ktime_get_ns());
	return port->brief >= shared.brief_limit;
}

/* Whether a SYN of a moment ago may have gone without a note for that: the bucket leaks in between. */
static __always_inline bool was_too_brief(__u16 number)
{
	struct port *port = bpf_map_lookup_elem(&ports, &number);

	return port && shared.brief_limit && port->brief + 2 >= shared.brief_limit;
}

/* A SYN has come to a listener of this host. */
static __always_inline void note_syn(struct bpf_sock_ops *ops)
{
	struct connection_key key = {};
	__u64 now = bpf_ktime_get_ns();

	if (ops->is_fullsock || !listed(ops->local_port) || too_brief(ops->local_port))
		return;
	make_key(&key, ops, SIDE_SERVER);
	bpf_map_update_elem(&syns, &key, &now, BPF_ANY);
}

static __always_inline void free_pair(struct pair *pair, __u32 index)
{
	struct gateway_counters *c = counted();

	judge_length(pair);

	if (c) {
		c->redirected += pair->ends[0].redirected + pair->ends[1].redirected;
		c->by_tcp += pair->ends[0].by_tcp + pair->ends[1].by_tcp;
	}
	pair->state = PAIR_FREE;
	__sync_fetch_and_add(&shared.live, -1);
	__sync_fetch_and_add(&pair->generation, 1);
	bpf_map_push_elem(&free_pairs, &index, BPF_ANY);
}

/* An end, or both, no longer use the pair. */
static __always_inline void end_use(struct pair *pair, __u32 index, __u32 ends)
{
	if ((__sync_fetch_and_and(&pair->open, ~ends) & ~ends & 3) == 0)
		free_pair(pair, index);
}

static __noinline int join_client(struct bpf_sock_ops *ops)
{
	struct connection_key key = {};
	struct member m = {.side = SIDE_CLIENT};
	__u64 now = bpf_ktime_get_ns(), *syn;
	struct pair *pair;

	if (!shared.accepting || now > shared.heartbeat_ns + HEARTBEAT_NS || !listed(remote_port(ops)))
		return 0;
	if (!trusted_port(remote_port(ops)) || refused(ops)) {
		COUNT(left[REASON_PROGRAM]);
		return 0;
	}
	if (too_brief(remote_port(ops))) {
		COUNT(left[REASON_BRIEF]);
		return 0;
	}
	make_key(&key, ops, SIDE_CLIENT);
	syn = bpf_map_lookup_elem(&syns, &key);
	if (!syn || *syn + SYN_NS < now) {
		if (was_too_brief(remote_port(ops)))
			COUNT(left[REASON_BRIEF]);
		else
			COUNT(not_local);
		return 0;
	}
	bpf_map_delete_elem(&syns, &key);
	if (bpf_map_pop_elem(&free_pairs, &m.pair)) {
		COUNT(no_free_pair);
		return 0;
	}
	pair = bpf_map_lookup_elem(&pairs, &m.pair);
	if (!pair)
		return 0;
	key.client_sequence = ops->snd_nxt;
	key.server_sequence = ops->rcv_nxt;
	start_pair(pair, &key, now);
	m.generation = pair->generation;
	pair->state = PAIR_WAITING;
	if (become_member(ops, &m, &pair->ends[SIDE_CLIENT]) && !bpf_map_update_elem(&waiting, &key, &m, BPF_NOEXIST))
		return 0;
	bpf_map_delete_elem(&sockets, &pair->ends[SIDE_CLIENT].cookie);
	forget(ops);
	count_reason(pair, REASON_OPTION);
	end_use(pair, m.pair, 1 << SIDE_CLIENT | 1 << SIDE_SERVER);
	return 0;
}

/* The client joined before its ACK came here, and nobody can have sent a byte unseen: see gateway_send. */
static __noinline int join_server(struct bpf_sock_ops *ops)
{
	struct connection_key key = {};
	struct member m, *client;
	struct pair *pair;

	if (!listed(ops->local_port))
		return 0;
	make_key(&key, ops, SIDE_SERVER);
	key.client_sequence = ops->rcv_nxt;
	key.server_sequence = ops->snd_nxt;
	client = bpf_map_lookup_elem(&waiting, &key);
	if (!client)
		return 0;
	m = *client;
	m.side = SIDE_SERVER;
	if (bpf_map_delete_elem(&waiting, &key))
		return 0; /* withdrawn */
	pair = pair_of(&m);
	if (!pair)
		return 0;
	if (become_member(ops, &m, &pair->ends[SIDE_SERVER])) {
		if (change(pair, PAIR_WAITING, PAIR_REDIRECTED)) {
			COUNT(pairs);
			return 0;
		}
		bpf_map_delete_elem(&sockets, &pair->ends[SIDE_SERVER].cookie);
	} else if (change(pair, PAIR_WAITING, PAIR_TCP)) {
		count_reason(pair, REASON_OPTION);
		/* Nothing was sent yet, so nothing is lost with the membership. */
		bpf_map_delete_elem(&sockets, &pair->ends[SIDE_CLIENT].cookie);
		pair->ends[SIDE_CLIENT].left = 1;
	}
	forget(ops);
	end_use(pair, m.pair, 1 << SIDE_SERVER);
	return 0;
}

#endif
