/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Connection state: where it is kept, how it is made, who is the server. */
#ifndef MASDEEPFLOW_CONNECTION_H
#define MASDEEPFLOW_CONNECTION_H

/* TCP: with the socket. Freed with it, nothing to look up by key, nothing to leak. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connection);
} tcp_connections SEC(".maps");

/*
 * When the first unread byte came. Apart from the connection: within a host it is stamped on the CPU of the sender, who
 * must not take from the reader's CPU the cache lines that are written at every read.
 */
struct arrival {
	__u64 first_ns; /* 0 when there is none, NOT_WANTED on the client's side */
};
#define NOT_WANTED (~0ULL)

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct arrival);
} arrivals SEC(".maps");

/* Unix and UDP: nothing tells that such a socket goes, so the last turn has to outlive it until the sweep. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct connection);
} other_connections SEC(".maps");

/* A connection is larger than the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct connection);
} blank SEC(".maps");

struct listener {
	__u32 netns;
	__u32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct listener);
	__type(value, __u8);
} listeners SEC(".maps");

/* Linux's default net.ipv4.ip_local_port_range starts here. */
#define EPHEMERAL_PORT 32768

static __always_inline __u32 netns_of(struct sock_common *sk)
{
	return sk->skc_net.net->ns.inum;
}

static __always_inline bool is_listening(__u32 netns, __u16 port)
{
	struct listener key = {.netns = netns, .port = port};
	return bpf_map_lookup_elem(&listeners, &key) != NULL;
}

static __always_inline void add_listener(struct sock_common *sk)
{
	struct listener key = {.netns = netns_of(sk), .port = sk->skc_num};
	__u8 yes = 1;
	bpf_map_update_elem(&listeners, &key, &yes, BPF_ANY);
}

/* When the segment was sent that was acknowledged last. */
static __always_inline __u64 last_sent_ns(struct tcp_sock *tp)
{
	return tp->rack.mstamp * 1000;
}

/*
 * How many bytes the process has read that no hook has counted: of a recvmsg that is not done (MSG_WAITALL), or moved
 * otherwise than by one (splice). The peer's FIN counts as a byte once it is read.
 */
static __always_inline __s32 unseen_bytes(const struct connection *c, struct sock *sk, struct tcp_sock *tp)
{
	__u64 counted = c->slot.role == ROLE_CLIENT ? c->total_response_bytes : c->total_request_bytes;
	__u32 copied = tp->copied_seq;
	__u32 fin = (sk->sk_shutdown & RCV_SHUTDOWN) && copied == tp->rcv_nxt;
	return (__s32)(copied - c->read_seq - (__u32)counted - fin);
}

static __always_inline void set_addresses(struct slot *s, struct sock_common *sk)
{
	s->family = (__u8)sk->skc_family;
	s->netns = netns_of(sk);
	s->local_port = sk->skc_num;
	s->remote_port = __builtin_bswap16(sk->skc_dport);
	if (s->family == AF_INET6) {
		__builtin_memcpy(s->local_address, &sk->skc_v6_rcv_saddr, 16);
		__builtin_memcpy(s->remote_address, &sk->skc_v6_daddr, 16);
	} else {
		*(__u32 *)s->local_address = sk->skc_rcv_saddr;
		*(__u32 *)s->remote_address = sk->skc_daddr;
	}
}

static __always_inline bool ports_tell(const struct slot *s)
{
	return (s->local_port < EPHEMERAL_PORT) != (s->remote_port < EPHEMERAL_PORT);
}

/* Nobody saw the handshake: a listening port tells, else the lower port, else who speaks first. */
static __always_inline void guess_role(struct slot *s, bool send)
{
	s->flags |= FLAG_ROLE_GUESSED;
	if (ports_tell(s))
		s->role = s->local_port < EPHEMERAL_PORT ? ROLE_SERVER : ROLE_CLIENT;
	else
		s->role = send ? ROLE_CLIENT : ROLE_SERVER;
}

static __always_inline void old_role(struct slot *s, bool send)
{
	if (is_listening(s->netns, s->local_port))
		s->role = ROLE_SERVER;
	else if (is_listening(s->netns, s->remote_port))
		s->role = ROLE_CLIENT;
	else
		guess_role(s, send);
}

static __always_inline struct connection *new_tcp(struct sock *sk)
{
	struct connection *c = bpf_sk_storage_get(&tcp_connections, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c) {
		COUNT(lost_no_memory);
		return NULL;
	}
	c->slot.cookie = bpf_get_socket_cookie(sk);
	c->slot.transport = TRANSPORT_TCP;
	c->slot.service = NO_SERVICE;
	c->slot.turn = 1;
	c->opened_ns = bpf_ktime_get_ns();
	return c;
}

/* The connection has just read from its socket: what it waited for, if anybody wants to know. */
static __always_inline void take_arrival(struct connection *c, struct sock *sk)
{
	struct arrival *a = bpf_sk_storage_get(&arrivals, sk, NULL, 0);
	if (!a)
		return;
	if (c->slot.role != ROLE_SERVER) {
		/* Written once: a line that both CPUs only read stays in both caches. */
		if (a->first_ns != NOT_WANTED)
			a->first_ns = NOT_WANTED;
		return;
	}
	c->arrival_ns = a->first_ns == NOT_WANTED ? 0 : a->first_ns;
	a->first_ns = 0;
}

/* For how long the socket has had bytes to send or to be acknowledged. Source: tcp_chrono_start(), net/ipv4/tcp_output.c. */
static __always_inline __u32 sending_jiffies(struct tcp_sock *tp)
{
	__u32 ended = tp->chrono_stat[0] + tp->chrono_stat[1] + tp->chrono_stat[2];
	return tp->snd_una == tp->write_seq ? ended : ended + (__u32)bpf_jiffies64() - tp->chrono_start;
}

static __always_inline void set_begin(struct connection *c, struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	c->read_seq = tp->copied_seq;
	c->sending_jiffies = sending_jiffies(tp);
}

/* A TCP connection that was there before the agent, and has just moved `length` bytes, if any. */
static __noinline struct connection *adopt_tcp(struct sock *sk, bool send, __u32 length)
{
	struct connection *c = new_tcp(sk);
	if (!c)
		return NULL;
	set_addresses(&c->slot, &sk->__sk_common);
	set_begin(c, sk);
	if (!send)
		c->read_seq -= length;
	c->slot.flags = FLAG_OLD_CONNECTION;
	c->await_request = true;
	old_role(&c->slot, send);
	return c;
}

static __always_inline bool is_shared(struct unix_address *name)
{
	int holders = 0;
	bpf_probe_read_kernel(&holders, sizeof(holders), __builtin_preserve_access_index(&name->refcnt.refs.counter));
	return holders > 1;
}

static __always_inline void set_unix(struct connection *c, struct sock *sk, bool send)
{
	struct unix_sock *u = (struct unix_sock *)skc_to_unix_sock(sk);
	struct unix_address *named = NULL, *peer_named = NULL;

	c->slot.role = send ? ROLE_CLIENT : ROLE_SERVER;
	if (!u)
		return;
	/* A number, not a pointer that the verifier knows: clang 19 tests both names for zero by or-ing them. */
	bpf_probe_read_kernel(&named, sizeof(named), __builtin_preserve_access_index(&u->addr));
	if (u->peer) {
		struct unix_sock *peer = (struct unix_sock *)u->peer;
		bpf_probe_read_kernel(&peer_named, sizeof(peer_named), __builtin_preserve_access_index(&peer->addr));
		bpf_probe_read_kernel(c->slot.remote_address, sizeof(__u64),
				      __builtin_preserve_access_index(&peer->sk.__sk_common.skc_cookie.counter));
	}
	if (!named && !peer_named) {
		c->slot.flags |= FLAG_ROLE_GUESSED;
		return;
	}
	/* The accepted socket shares the listener's name, the connecting one has none or one of its own. */
	if (named && peer_named && is_shared(named) == is_shared(peer_named))
		c->slot.flags |= FLAG_ROLE_GUESSED;
	else
		c->slot.role = !named || (peer_named && is_shared(peer_named)) ? ROLE_CLIENT : ROLE_SERVER;
	if (c->slot.role == ROLE_CLIENT && peer_named)
		named = peer_named;
	int length = 0;
	bpf_probe_read_kernel(&length, sizeof(length), __builtin_preserve_access_index(&named->len));
	length -= 2; /* sun_family */
	if (length <= 0 || length > 108)
		return;
	bpf_probe_read_kernel(c->slot.request, length & 127, __builtin_preserve_access_index(&named->name[0].sun_path));
	c->slot.request_length = length & 127;
}

/* Names the two ends of a Unix connection once: the path does not fit in a slot's address. now: of the first bytes. */
static __always_inline void write_unix_opened(struct connection *c, __u64 now)
{
	struct slot *s = &c->slot;
	c->opened_ns = now;
	s->request_first_ns = now;
	write_slot(s, s->role == ROLE_SERVER ? KIND_ACCEPT : KIND_CONNECT);
	begin_turn(c);
}

static __noinline struct connection *new_other(struct sock *sk, __u64 cookie, bool send)
{
	__u32 zero = 0;
	struct connection *c = bpf_map_lookup_elem(&blank, &zero);
	if (!c)
		return NULL;
	bpf_map_update_elem(&other_connections, &cookie, c, BPF_NOEXIST);
	c = bpf_map_lookup_elem(&other_connections, &cookie);
	if (!c) {
		COUNT(lost_no_memory);
		return NULL;
	}
	if (c->slot.cookie) /* another thread came first */
		return c;
	c->slot.cookie = cookie;
	c->slot.service = NO_SERVICE;
	c->opened_ns = bpf_ktime_get_ns();
	set_addresses(&c->slot, &sk->__sk_common);
	if (sk->__sk_common.skc_family == AF_UNIX) {
		c->slot.transport = TRANSPORT_UNIX;
		c->slot.local_port = c->slot.remote_port = 0;
		set_unix(c, sk, send);
	} else {
		c->slot.transport = TRANSPORT_UDP;
		c->slot.turn = 1;
		c->slot.role = send ? ROLE_CLIENT : ROLE_SERVER;
	}
	return c;
}

static __always_inline struct connection *find_other(struct sock *sk, bool send)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct connection *c = bpf_map_lookup_elem(&other_connections, &cookie);
	return c ? c : new_other(sk, cookie, send);
}

#endif
