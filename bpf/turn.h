/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The turn engine: from (connection, direction, length, user buffers) to slots. Knows no protocol and no hook. */
#ifndef MASDEEPFLOW_TURN_H
#define MASDEEPFLOW_TURN_H

#define MAX_IOVECS 16
#define NO_SERVICE 0xffffffff

/* A turn without I/O for this long is written: half of the 100 ms from event to line. */
#define IDLE_NS 30000000
#define MAX_PATIENCE_NS 1000000000
/* A datagram that is not answered by then never will be. */
#define UNANSWERED_NS 5000000000ULL

/* Of a UDP socket with so many turns behind it not every one is written, if they follow each other so fast. */
#define FLOOD_TURNS 256
#define FLOOD_NS 10000000

/* A connection: the slot being filled, and what outlives a turn. */
struct connection {
	struct slot slot;
	__u64 opened_ns;
	__u64 arrival_ns;      /* of the first byte of what is being read; 0 when unknown */
	__u64 total_request_bytes;
	__u64 total_response_bytes;
	struct moved counted;  /* what the golden signals have of the totals */
	__u64 asked_ns;        /* datagrams: the last request */
	__u64 shown_ns;        /* UDP: when a turn was written last */
	__u64 refused_ns;      /* UDP: when it was told last that a datagram was refused */
	__u32 read_seq;        /* TCP: copied_seq before the first byte that was counted */
	__u32 sending_jiffies; /* TCP: as of the last read, see sending_jiffies() */
	__u32 unseen_sweeps;   /* in a row that found bytes read that no hook had counted */
	__u32 busy;            /* a program works on it */
	__u32 datagrams;       /* UDP: those that got a slot each, or NOT_DATAGRAMS */
	__u32 unanswered;      /* datagrams: requests, less responses */
	__u32 peer_closed;     /* the other end closed or reset it first */
	__u8 accept_pending;   /* the ACCEPT slot waits for the process to be known */
	__u8 await_request;    /* older than the agent: response bytes before the first request belong to nobody */
	__u8 written;          /* this turn was written as idle */
	__u8 closed;
	/* capture() proves its offset and its length apart: room for their sum, never written. */
	__u8 slack[PAYLOAD_BYTES];
};

enum buffer_shape { BUFFER_NONE, BUFFER_FLAT, BUFFER_IOVEC, BUFFER_MSGHDR };

/* Where the bytes of one I/O lie in user memory. */
struct io {
	__u64 pointer;
	__u64 count;           /* bytes of a flat buffer, entries of an iovec array */
	__u32 length;          /* bytes moved */
	__u32 shape;
};

#define LOCK_TRIES 512

/*
 * The sweep, or another thread that uses the same socket, may be at it on another CPU: each turn is written and counted
 * once. Only who holds it and was interrupted on this very CPU makes the wait end in vain; it must end all the same.
 */
static __noinline int lock_contended(struct connection *c)
{
	for (int i = 0; i < LOCK_TRIES; i++)
		if (!__sync_lock_test_and_set(&c->busy, 1))
			return 0;
	return 1;
}

static __always_inline bool try_lock(struct connection *c)
{
	return !__sync_lock_test_and_set(&c->busy, 1);
}

static __always_inline void lock(struct connection *c)
{
	if (!try_lock(c))
		lock_contended(c);
}

static __always_inline void unlock(struct connection *c)
{
	STORE_RELEASE(&c->busy, 0);
}

static __always_inline __u64 smaller(__u64 a, __u64 b)
{
	return a < b ? a : b;
}

/* Append up to `length` user bytes at payload[*used]; false if they can't be read. */
static __always_inline bool append(__u8 *payload, __u16 *used, __u32 room, const void *from, __u64 length)
{
	__u64 at = *used;
	if (at >= room)
		return true;
	__u64 n = smaller(room - at, length);
	/* Keep clang from merging the two bounds into one that the verifier can't follow. */
	asm volatile("" : "+r"(n), "+r"(at));
	if (at >= room || n > room || n == 0)
		return true;
	if (bpf_probe_read_user(payload + at, (__u32)n, from))
		return false;
	*used = (__u16)(at + n);
	return true;
}

static __always_inline bool append_iovec(__u8 *payload, __u16 *used, __u32 room, const struct iovec *vector,
					 __u64 count, __u64 length)
{
	struct iovec entry;
	for (int i = 0; i < MAX_IOVECS; i++) {
		if (i >= (long)count || length == 0 || *used >= room)
			return true;
		if (bpf_probe_read_user(&entry, sizeof(entry), vector + i))
			return false;
		__u64 n = smaller(entry.iov_len, length);
		if (!append(payload, used, room, entry.iov_base, n))
			return false;
		length -= n;
	}
	return length == 0 || *used >= room;
}

static __always_inline bool append_msghdr(__u8 *payload, __u16 *used, __u32 room, const void *header, __u64 length)
{
	struct user_msghdr message;
	if (bpf_probe_read_user(&message, sizeof(message), header))
		return false;
	return append_iovec(payload, used, room, message.msg_iov, message.msg_iovlen, length);
}

static __always_inline bool append_shape(const struct io *io, __u8 *payload, __u16 *used, __u32 room)
{
	/* A datagram's length may be more than its buffer (MSG_TRUNC). */
	if (io->shape == BUFFER_FLAT)
		return append(payload, used, room, (const void *)io->pointer, smaller(io->length, io->count));
	if (io->shape == BUFFER_IOVEC)
		return append_iovec(payload, used, room, (const struct iovec *)io->pointer, io->count, io->length);
	if (io->shape == BUFFER_MSGHDR)
		return append_msghdr(payload, used, room, (const void *)io->pointer, io->length);
	return false;
}

/* The first bytes, as far as there is no gap: what follows `before` bytes of which not all are there is left out. */
static __always_inline void capture(struct connection *c, const struct io *io, __u64 before, __u8 *payload, __u16 *used,
				    __u32 room)
{
	if (*used != before || *used >= room || append_shape(io, payload, used, room))
		return;
	c->slot.flags |= FLAG_NO_PAYLOAD;
	COUNT(payload_missing);
}

/* Make the slot ready for the next turn. First bytes are cleared: parsers compare them whatever the length. */
static __always_inline void begin_turn(struct connection *c)
{
	struct slot *s = &c->slot;
	__builtin_memset(&s->request_first_ns, 0, 9 * sizeof(__u64));
	__builtin_memset(s->request, 0, 16);
	__builtin_memset(s->response, 0, 16);
	s->request_segments = s->response_segments = 0;
	s->request_length = s->response_length = 0;
	s->flags &= FLAG_OLD_CONNECTION | FLAG_ROLE_GUESSED;
	s->turn++;
	c->written = false;
}

/* As many as a request may have: behind a response, which has room for less, lies the rest of the connection. */
struct payload {
	__u64 words[REQUEST_BYTES / 8];
};

/*
 * Real traffic repeats: user space parses what it has not seen, and knows the rest by this without reading it. The
 * bytes are hot here and cold there. Global, so that the verifier goes through it once, not once for each way to it.
 */
__noinline __u64 payload_hash(const struct payload *payload, __u32 length, __u64 key)
{
	__u64 even = key ^ length, odd = ~key;
	__u32 i = 0, rest = length & 15;

	if (!payload)
		return 0;
	const __u64 *words = payload->words;
	/* Two lanes, because each waits for its own multiplication. */
	for (i = 0; i < REQUEST_BYTES / 16; i++) {
		if (length < 16)
			break;
		even = (even ^ words[2 * i]) * key;
		odd = (odd ^ words[2 * i + 1]) * key;
		even ^= even >> 32;
		odd ^= odd >> 32;
		length -= 16;
	}
	if (rest && i < REQUEST_BYTES / 16) {
		__u64 first = words[2 * i], second = words[2 * i + 1];
		if (rest < 8)
			first &= ((__u64)1 << (8 * rest)) - 1;
		second = rest > 8 ? second & (((__u64)1 << (8 * (rest - 8))) - 1) : 0;
		even = (even ^ first) * key;
		odd = (odd ^ second) * key;
		even ^= even >> 32;
		odd ^= odd >> 32;
	}
	return ((even ^ (odd >> 29) ^ (odd << 35)) * key) | 1;
}

static __always_inline void hash_payload(struct slot *s)
{
	__u64 key = shared.hash_key;
	if (s->request_length)
		s->request_hash = payload_hash((const struct payload *)s->request, s->request_length, key);
	if (s->response_length)
		s->response_hash = payload_hash((const struct payload *)s->response, s->response_length, key);
}

/* Whether there is a turn that was not written. */
static __always_inline bool turn_open(const struct connection *c)
{
	return !c->closed && !c->written && (c->slot.request_first_ns || c->slot.response_first_ns);
}

/* Every byte is counted once, under the service that ends a turn behind it. */
static __always_inline struct moved take_moved(struct connection *c)
{
	struct moved moved = {
		.request_bytes = c->total_request_bytes - c->counted.request_bytes,
		.response_bytes = c->total_response_bytes - c->counted.response_bytes,
	};
	c->counted.request_bytes = c->total_request_bytes;
	c->counted.response_bytes = c->total_response_bytes;
	return moved;
}

/*
 * Media, QUIC, tunnels: many datagrams that nobody can make sense of. One turn in a while is shown, all are counted, as
 * those are that find the ring full.
 */
static __always_inline bool is_flood(struct connection *c)
{
	__u64 now = c->slot.request_last_ns;

	if (c->slot.turn > FLOOD_TURNS && now < c->shown_ns + FLOOD_NS)
		return true;
	c->shown_ns = now;
	return false;
}

/* Write the turn, if there is one, and count it whether or not the ring had room. */
static __always_inline void finish_turn(struct connection *c, __u32 why)
{
	struct slot *s = &c->slot;
	if (!turn_open(c))
		return;
	if (s->service == NO_SERVICE || s->service == OVERFLOW_SERVICE)
		s->service = find_service(s);
	s->flags |= why;
	bool written = false, counted = s->request_first_ns && !(s->flags & FLAG_CONTINUED);
	if (!why && s->transport == TRANSPORT_UDP && is_flood(c)) {
		COUNT(unshown);
	} else {
		hash_payload(s);
		written = write_slot(s, KIND_TURN);
	}
	count_turn(s, take_moved(c), counted, written, why == FLAG_IDLE);
	c->written = true;
}

static __always_inline void request_bytes(struct connection *c, const struct io *io, __u64 now)
{
	struct slot *s = &c->slot;
	if (!s->request_first_ns) {
		s->request_first_ns = now;
		if (c->arrival_ns)
			s->queue_ns = now > c->arrival_ns ? now - c->arrival_ns : 0;
	}
	c->await_request = false;
	s->request_last_ns = now;
	s->request_segments++;
	c->total_request_bytes += io->length;
	capture(c, io, s->request_bytes, s->request, &s->request_length, REQUEST_BYTES);
	s->request_bytes += io->length;
}

/*
 * More bytes for a turn that was written as idle: a second slot carries what is new, and the service's next turns are
 * given more time before they count as idle.
 */
static __always_inline void continue_turn(struct connection *c, __u64 now)
{
	struct slot *s = &c->slot;
	__u32 service = s->service;
	__u64 *wait = bpf_map_lookup_elem(&patience, &service);
	__u64 gap = 2 * (now - s->response_last_ns);
	/* One impatient service must not hold up all that share the index of the rest. */
	if (wait && service != OVERFLOW_SERVICE && *wait < gap)
		*wait = gap < MAX_PATIENCE_NS ? gap : MAX_PATIENCE_NS;
	s->flags = (s->flags & ~(FLAG_IDLE | FLAG_NO_PAYLOAD)) | FLAG_CONTINUED;
	s->request_bytes = s->response_bytes = 0;
	s->request_segments = s->response_segments = 0;
	s->request_length = s->response_length = 0;
	s->request_hash = s->response_hash = 0;
	__builtin_memset(s->request, 0, 16);
	__builtin_memset(s->response, 0, 16);
	c->written = false;
}

static __always_inline void response_bytes(struct connection *c, const struct io *io, __u64 now)
{
	struct slot *s = &c->slot;
	c->total_response_bytes += io->length;
	if (c->await_request)
		return;
	if (c->written)
		continue_turn(c, now);
	if (!s->response_first_ns) {
		s->response_first_ns = now;
		if (!s->request_first_ns)
			s->flags |= FLAG_SERVER_FIRST;
	}
	s->response_last_ns = now;
	s->response_segments++;
	capture(c, io, s->response_bytes, s->response, &s->response_length, RESPONSE_BYTES);
	s->response_bytes += io->length;
}

/* A connection changes hands (fork, descriptor passing, pre-fork servers): names are read once per process. */
static __always_inline void set_process(struct connection *c, __u32 pid, struct task_struct *task)
{
	struct slot *s = &c->slot;
	if (s->pid == pid)
		return;
	s->pid = pid;
	s->service = NO_SERVICE;
	s->cgroup_id = bpf_get_current_cgroup_id();
	bpf_probe_read_kernel(s->comm, sizeof(s->comm), task->group_leader->comm);
}

static __always_inline void write_accept(struct connection *c)
{
	struct slot *s = &c->slot;
	if (!c->accept_pending)
		return;
	c->accept_pending = false;
	s->request_first_ns = c->opened_ns;
	write_slot(s, KIND_ACCEPT);
	s->request_first_ns = 0;
}

static __always_inline bool is_request(const struct connection *c, bool send)
{
	return (c->slot.role == ROLE_CLIENT) == send;
}

/*
 * The bytes about to be handed to turn_io() may be the next turn's. The last is ended here, while process, thread and
 * peer are still its own. Returns whether a new one began.
 */
static __always_inline bool turn_next(struct connection *c, bool send)
{
	struct slot *s = &c->slot;
	if (!is_request(c, send) || !(s->response_first_ns || (s->transport == TRANSPORT_UDP && s->request_first_ns)))
		return false;
	finish_turn(c, 0);
	begin_turn(c);
	return true;
}

/* `length` > 0 bytes went `send` or came, at `now`. */
static __always_inline void turn_io(struct connection *c, bool send, const struct io *io, __u64 now)
{
	write_accept(c);
	if (is_request(c, send))
		request_bytes(c, io, now);
	else
		response_bytes(c, io, now);
	c->arrival_ns = 0;
}

/* How long a response of this service pauses before it counts as ended. Fades when nothing pauses so long. */
static __always_inline __u64 idle_wait(const struct slot *s)
{
	__u32 service = s->service;
	__u64 *wait = bpf_map_lookup_elem(&patience, &service);
	if (!wait || *wait <= IDLE_NS)
		return IDLE_NS;
	*wait -= *wait >> 12;
	return *wait;
}

/* The last byte of the response left at `sent_ns`, behind the call that handed it over. */
static __always_inline void turn_sent(struct connection *c, __u64 sent_ns)
{
	if (!c->written && c->slot.response_first_ns && sent_ns > c->slot.response_last_ns)
		c->slot.response_last_ns = sent_ns;
}

static __always_inline bool is_idle(const struct connection *c, __u64 round_trip_ns, __u64 now)
{
	const struct slot *s = &c->slot;
	if (s->response_first_ns)
		return now > s->response_last_ns + idle_wait(s) + round_trip_ns;
	return s->transport == TRANSPORT_UDP && now > s->request_last_ns + UNANSWERED_NS;
}

/* A turn that ends without a response has waited until now. */
static __always_inline void give_up(struct slot *s, __u64 now)
{
	if (!s->response_first_ns)
		s->response_last_ns = now;
}

static __always_inline void write_open(struct connection *c)
{
	struct slot *s = &c->slot;
	hash_payload(s);
	write_slot(s, KIND_OPEN);
	s->flags |= FLAG_OPENED;
}

/*
 * Called for every connection by the sweep. drained: no byte of the response is under way. Returns whether it has to be
 * looked at again without new I/O.
 */
static __always_inline bool turn_idle(struct connection *c, bool drained, __u64 round_trip_ns, __u64 now)
{
	struct slot *s = &c->slot;
	if (!turn_open(c))
		return false;
	if (drained && is_idle(c, round_trip_ns, now)) {
		give_up(s, now);
		finish_turn(c, FLAG_IDLE);
		return false;
	}
	if (!(s->flags & (FLAG_OPENED | FLAG_CONTINUED)) && s->request_first_ns && now > s->request_first_ns + IDLE_NS)
		write_open(c);
	return s->response_first_ns || s->transport == TRANSPORT_UDP || !(s->flags & FLAG_OPENED);
}

static __always_inline void turn_close(struct connection *c, __u32 srtt_us, __u32 retransmits)
{
	struct slot *s = &c->slot;
	__u64 now = bpf_ktime_get_ns();
	if (c->closed)
		return;
	__u32 first = c->peer_closed ? FLAG_PEER_CLOSED : FLAG_SELF_CLOSED;
	write_accept(c);
	give_up(s, now);
	finish_turn(c, FLAG_CLOSED | first);
	begin_turn(c);
	s->flags |= first;
	c->closed = true;
	s->request_first_ns = c->opened_ns;
	s->response_last_ns = now;
	s->request_bytes = c->total_request_bytes;
	s->response_bytes = c->total_response_bytes;
	s->srtt_us = srtt_us;
	s->retransmits = retransmits;
	write_slot(s, KIND_CLOSE);
}

#endif
