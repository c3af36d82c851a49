/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* UDP: each datagram by itself where user space pairs by an id; turns elsewhere, and no flood of either. */
#ifndef MASDEEPFLOW_DATAGRAM_H
#define MASDEEPFLOW_DATAGRAM_H

#define NOT_DATAGRAMS 0xffffffff
/* How many datagrams of a socket pass until user space is asked again whether it makes sense of them. */
#define ASKED_AGAIN 64

/*
 * Who sent a datagram stands in the kernel's memory only until it is read, and no hook of the read is given it. A socket
 * without a peer of its own may ask several (C libraries that ask all name servers at once, forwarders): it is noted who
 * was asked and, as datagrams come, who sends, with the first bytes to know them by.
 */
#define ASKED_PEERS 4
#define UNREAD 8

struct end {
	__u8 address[16];      /* as in struct slot */
	__u16 port;
	__u16 unused[3];
};

struct unread {
	struct end from;
	__u32 first;           /* bytes of the payload */
	__u32 there;
};

struct peers {
	struct end asked[ASKED_PEERS];
	struct unread unread[UNREAD];
	__u32 next_asked;
	__u32 next_unread;     /* the oldest one's place, too */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peers);
} peers_of_socket SEC(".maps");

/* A server has many peers, and more unread. Who asks it is known when it answers; this is for what it never answers. */
#define ASKERS 64

struct askers {
	struct unread unread[ASKERS];
	__u32 next_unread;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct askers);
} askers_of_socket SEC(".maps");

/*
 * Who asks several servers over one socket takes one answer, and closes it. Whether the others live is told by answers that
 * nobody reads (on_drop()), by the client's port and the first two bytes, an id: the socket may be gone, and its port another's.
 */
struct arrived {
	__u64 at_ns;
	__u32 first;           /* bytes of the payload */
	__u32 from;            /* of whom, see brief() */
};

struct asked_several {
	__u64 cookie;
	__u32 left;            /* answers that may be told of: no more than were asked for */
	__u32 next_arrived;
	struct arrived arrived[ASKED_PEERS]; /* in the socket's buffer */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct asked_several);
} several SEC(".maps");

static __always_inline void get_end(struct end *end, const struct slot *s)
{
	__builtin_memset(end, 0, sizeof(*end));
	__builtin_memcpy(end->address, s->remote_address, sizeof(end->address));
	end->port = s->remote_port;
}

static __always_inline void set_end(struct slot *s, const struct end *end)
{
	__builtin_memcpy(s->remote_address, end->address, sizeof(end->address));
	s->remote_port = end->port;
}

static __always_inline bool same_end(const struct end *one, const struct end *other)
{
	const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

static __always_inline bool has_asked(const struct peers *p, const struct end *peer)
{
	for (int i = 0; i < ASKED_PEERS; i++)
		if (same_end(&p->asked[i], peer))
			return true;
	return false;
}

static __always_inline void add_asked(struct peers *p, const struct end *peer)
{
	if (!has_asked(p, peer))
		p->asked[p->next_asked++ % ASKED_PEERS] = *peer;
}

static __always_inline bool is_datagram_port(__u16 port)
{
	__u32 word = port / 64;
	const __u64 *ports = bpf_map_lookup_elem(&datagram_ports, &word);
	return ports && (*ports >> (port & 63)) & 1;
}

/* What a buffer holds of a datagram: the start of its IP header, its UDP header, and the first bytes behind that. */
struct datagram {
	__u8 network[24];
	__be16 transport[6];
};

static __always_inline bool read_datagram(struct datagram *d, struct sk_buff *skb)
{
	const unsigned char *head = skb->head;
	return !bpf_probe_read_kernel(d->network, sizeof(d->network), head + skb->network_header) &&
	       !bpf_probe_read_kernel(d->transport, sizeof(d->transport), head + skb->transport_header);
}

/* Who sent it, as a socket of this family knows the peer. */
static __always_inline void get_sender(struct end *from, const struct datagram *d, __u16 family)
{
	__builtin_memset(from, 0, sizeof(*from));
	if (d->network[0] >> 4 == 6) {
		__builtin_memcpy(from->address, d->network + 8, 16);
	} else if (family == AF_INET6) {
		from->address[10] = from->address[11] = 0xff;
		__builtin_memcpy(from->address + 12, d->network + 12, 4);
	} else {
		__builtin_memcpy(from->address, d->network + 12, 4);
	}
	from->port = __builtin_bswap16(d->transport[0]);
}

static __always_inline struct unread *next_unread(struct sock *sk)
{
	struct peers *p = bpf_sk_storage_get(&peers_of_socket, sk, NULL, 0);
	if (p)
		return &p->unread[__sync_fetch_and_add(&p->next_unread, 1) % UNREAD];
	if (!is_datagram_port(sk->__sk_common.skc_num))
		return NULL;
	struct askers *a = bpf_sk_storage_get(&askers_of_socket, sk, NULL, 0);
	return a ? &a->unread[__sync_fetch_and_add(&a->next_unread, 1) % ASKERS] : NULL;
}

static __always_inline __u32 several_key(__u16 port, __u32 first)
{
	return (__u32)port << 16 | (first & 0xffff);
}

static __always_inline __u32 brief(const struct end *end)
{
	return *(const __u32 *)(end->address + 12) ^ *(const __u32 *)end->address ^ end->port;
}

static __always_inline void note_arrival(const struct sock *sk, const struct unread *u)
{
	__u32 key = several_key(sk->__sk_common.skc_num, u->first);
	struct asked_several *asked = bpf_map_lookup_elem(&several, &key);
	if (!asked)
		return;
	struct arrived *a = &asked->arrived[asked->next_arrived++ % ASKED_PEERS];
	a->at_ns = bpf_ktime_get_ns();
	a->first = u->first;
	a->from = brief(&u->from);
}

/* When it was put in a buffer; now if it never was. */
static __always_inline __u64 arrived_ns(const struct asked_several *asked, const struct end *from, __u32 first)
{
	for (int i = 0; i < ASKED_PEERS; i++) {
		const struct arrived *a = &asked->arrived[i];
		if (a->at_ns && a->first == first && a->from == brief(from))
			return a->at_ns;
	}
	return bpf_ktime_get_ns();
}

/* A datagram was put in the socket's buffer: the last one there. */
static __noinline int note_sender(struct sock *sk)
{
	struct datagram d;
	if (!sk->sk_receive_queue.qlen)
		return 0;
	struct unread *u = next_unread(sk);
	if (!u || !read_datagram(&d, sk->sk_receive_queue.prev))
		return 0;
	get_sender(&u->from, &d, sk->__sk_common.skc_family);
	__builtin_memcpy(&u->first, &d.transport[4], sizeof(u->first));
	u->there = true;
	if (shared.watching && !is_datagram_port(sk->__sk_common.skc_num))
		note_arrival(sk, u);
	return 0;
}

/* A blank one: too large for the stack of who is called by those that call this. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct asked_several);
} new_several SEC(".maps");

/* Another answer to this client may be told of though nobody reads it. */
static __noinline int expect_unread(const struct slot *s)
{
	__u32 key = several_key(s->local_port, *(const __u32 *)s->request), zero = 0;
	struct asked_several *known = bpf_map_lookup_elem(&several, &key);

	if (!shared.asks_several)
		shared.asks_several = 1;
	if (known && known->cookie == s->cookie) {
		__sync_fetch_and_add(&known->left, 1);
		return 0;
	}
	known = bpf_map_lookup_elem(&new_several, &zero);
	if (!known)
		return 0;
	known->cookie = s->cookie;
	known->left = ASKED_PEERS;
	bpf_map_update_elem(&several, &key, known, BPF_ANY);
	return 0;
}

/*
 * A socket without a peer of its own, which has asked `before` if anybody, asks whom the slot names now. Returns whether
 * that is another.
 */
static __always_inline bool peer_asked(struct sock *sk, const struct end *before, const struct slot *s)
{
	struct end now;
	get_end(&now, s);
	if (same_end(before, &now))
		return false;
	struct peers *p = bpf_sk_storage_get(&peers_of_socket, sk, NULL, 0);
	if (!p) {
		p = bpf_sk_storage_get(&peers_of_socket, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		note_sender(sk); /* on loopback an answer may be there before the send has ended */
	}
	if (!p)
		return false;
	add_asked(p, &now);
	if (!before->port)
		return false;
	add_asked(p, before);
	return true;
}

/*
 * Name in the slot who sent the datagram that it holds, if that is known and one of those asked: what translates addresses
 * between the process and the network shows others here. Returns whether it did.
 */
static __noinline int name_sender(struct sock *sk, struct slot *s)
{
	struct peers *p = bpf_sk_storage_get(&peers_of_socket, sk, NULL, 0);
	if (!p)
		return 0;
	for (__u32 i = 0; i < UNREAD; i++) {
		struct unread *u = &p->unread[(p->next_unread + i) % UNREAD];
		if (!u->there || u->first != *(__u32 *)s->request)
			continue;
		u->there = false;
		if (!has_asked(p, &u->from))
			return 0;
		set_end(s, &u->from);
		return 1;
	}
	return 0;
}

/*
 * Name in the slot who asks the server whose socket has read what it holds: of those noted as many came later as there are
 * left to read. Not quite: a datagram is put in the queue before it is noted, and threads may read at once.
 */
static __noinline int name_asker(struct sock *sk, struct slot *s)
{
	struct askers *a = bpf_sk_storage_get(&askers_of_socket, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!a)
		return 0;
	__u32 left = sk->sk_receive_queue.qlen + BPF_CORE_READ((struct udp_sock *)sk, reader_queue.qlen);
	__u32 at = a->next_unread - left - UNREAD / 2;
	if (left >= ASKERS - UNREAD)
		return 0;
	for (__u32 i = 0; i < UNREAD; i++) {
		struct unread *u = &a->unread[(at + i) % ASKERS];
		if (!u->there || u->first != *(__u32 *)s->request)
			continue;
		u->there = false;
		set_end(s, &u->from);
		return 1;
	}
	return 0;
}

/* Whether its last datagram had a slot of its own. */
static __always_inline bool follows_datagrams(const struct connection *c)
{
	return c->datagrams && c->datagrams != NOT_DATAGRAMS;
}

/* Whether each datagram between these ports gets a slot. The first one tells who is the server. */
static __always_inline bool by_datagram(struct connection *c, __u16 local, __u16 remote)
{
	bool serves, asks;

	if (c->datagrams == NOT_DATAGRAMS)
		return false;
	serves = is_datagram_port(local);
	asks = is_datagram_port(remote);
	if (!serves && !asks)
		return false;
	if (!c->datagrams && serves != asks)
		c->slot.role = serves ? ROLE_SERVER : ROLE_CLIENT;
	if (!(++c->datagrams % ASKED_AGAIN) && bpf_map_lookup_elem(&other_datagrams, &c->slot.cookie)) {
		c->datagrams = NOT_DATAGRAMS;
		c->unanswered = 0;
		c->await_request = true;
		return false;
	}
	return true;
}

static __always_inline void datagram_payload(struct slot *s, const struct io *io)
{
	__u16 used = 0;

	if (!append_shape(io, s->request, &used, PAYLOAD_BYTES)) {
		s->flags |= FLAG_NO_PAYLOAD;
		COUNT(payload_missing);
		used = 0;
	}
	s->request_length = used < REQUEST_BYTES ? used : REQUEST_BYTES;
	s->response_length = used - s->request_length;
}

/* The lock is held; process and peer are those of this datagram. */
static __always_inline void datagram_io(struct connection *c, struct sock *sk, bool send, const struct io *io, __u64 now)
{
	struct slot *s = &c->slot;
	bool asks = is_request(c, send);
	bool named = false;
	struct end asked;

	begin_turn(c);
	datagram_payload(s, io);
	if (!send && !sk->__sk_common.skc_dport && s->request_length) {
		get_end(&asked, s);
		if (asks)
			name_asker(sk, s);
		else
			named = name_sender(sk, s);
		if (named && shared.watching)
			s->flags |= FLAG_WATCHED;
	}
	if (asks) {
		if (!sk->__sk_common.skc_dport && shared.watching)
			s->flags |= FLAG_WATCHED;
		s->request_first_ns = s->request_last_ns = now;
		s->request_bytes = io->length;
		s->request_segments = 1;
		c->asked_ns = now;
		c->unanswered++;
	} else {
		s->response_first_ns = s->response_last_ns = now;
		s->response_bytes = io->length;
		s->response_segments = 1;
		if (c->unanswered)
			c->unanswered--;
	}
	if (s->service == NO_SERVICE || s->service == OVERFLOW_SERVICE)
		s->service = find_service(s);
	count_datagram(s, write_slot(s, KIND_DATAGRAM), c->asked_ns);
	if (named)
		set_end(s, &asked);
	c->written = true;
}

/* A socket that sends on and on to where nobody listens is told of once in so long. */
#define REFUSED_AGAIN_NS 1000000000ULL

/* The lock is held. An ICMP message said that what the socket sent will not be received. */
static __noinline int datagram_refused(struct connection *c, __s32 error)
{
	if (!c)
		return 0;
	struct slot *s = &c->slot;
	__u64 first = s->request_first_ns, last = s->response_last_ns, now = bpf_ktime_get_ns();

	if (c->refused_ns && now < c->refused_ns + REFUSED_AGAIN_NS)
		return 0;
	c->refused_ns = now;
	s->request_first_ns = s->request_last_ns ? s->request_last_ns : now;
	s->response_last_ns = now;
	s->error = error;
	write_slot(s, KIND_CONNECT_FAILED);
	s->error = 0;
	s->request_first_ns = first;
	s->response_last_ns = last;
	return 0;
}

/*
 * The lock is held. What the client's socket asks could not be sent, if `send`, and is in the slot that was begun for it; or
 * what it has asked failed: errno `error`.
 * Refusals come by ICMP, on loopback before the send has ended; whether the client reads of them is another matter.
 */
static __noinline int datagram_failed(struct connection *c, bool send, int error)
{
	struct slot *s = &c->slot;
	__u64 now = bpf_ktime_get_ns();

	if (!send)
		begin_turn(c);
	s->flags |= FLAG_FAILED;
	s->error = error;
	if (s->service == NO_SERVICE || s->service == OVERFLOW_SERVICE)
		s->service = find_service(s);
	if (send) {
		s->request_first_ns = s->request_last_ns = now;
		count_datagram(s, write_slot(s, KIND_DATAGRAM), c->asked_ns);
	} else {
		s->response_first_ns = s->response_last_ns = now;
		write_slot(s, KIND_DATAGRAM);
		c->unanswered = 0;
	}
	s->error = 0;
	c->written = true;
	return 0;
}

/* The lock is held. Returns whether the socket has to be looked at again without new I/O. */
static __always_inline bool datagram_silent(struct connection *c, __u64 now)
{
	if (!c->unanswered || now < c->asked_ns + UNANSWERED_NS)
		return c->unanswered;
	c->unanswered = 0;
	begin_turn(c);
	c->slot.request_first_ns = c->slot.request_last_ns = now;
	write_slot(&c->slot, KIND_SILENT);
	c->written = true;
	return false;
}

#endif
