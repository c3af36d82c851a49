/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The turn engine: from (connection, direction, length, user buffers) to slots. Knows no protocol and no hook. */
#ifndef MASDEEPFLOW_TURN_H
#define MASDEEPFLOW_TURN_H

#define MAX_IOVECS 8
#define NO_SERVICE 0xffffffff

/* A turn without I/O for this long is written: half of the 100 ms from event to line. */
#define IDLE_NS 30000000

#define MAX_PATIENCE_NS 1000000000

/* Services whose responses pause longer than IDLE_NS: twice the longest pause seen, up to a second. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, __u64);
} patience SEC(".maps");

/* A connection: the slot being filled, and what outlives a turn. */
struct connection {
	struct slot slot;
	__u64 opened_ns;
	__u64 arrival_ns;      /* of the first unread byte; 0 when unknown */
	__u64 total_request_bytes;
	__u64 total_response_bytes;
	__u64 mmsg_vector;     /* the sendmmsg or recvmmsg array seen last, and the next index in it */
	__u32 mmsg_next;
	__u32 mmsg_length;
	__u8 accept_pending;   /* the ACCEPT slot waits for the process to be known */
	__u8 await_request;    /* older than the agent: response bytes before the first request belong to nobody */
	__u8 written;          /* this turn was written as idle */
	__u8 closed;
	__u32 unused;
	/* capture() proves its offset and its length apart: room for their sum, never written. */
	__u8 slack[REQUEST_BYTES];
};

enum buffer_shape { BUFFER_NONE, BUFFER_FLAT, BUFFER_IOVEC, BUFFER_MSGHDR, BUFFER_MMSGHDR };

/* Where the bytes of one I/O lie in user memory. */
struct io {
	__u64 pointer;
	__u64 count;           /* entries of an iovec or mmsghdr array */
	__u32 length;          /* bytes moved */
	__u32 shape;
};

static __always_inline __u64 smaller(__u64 a, __u64 b)
{
	return a < b ? a : b;
}

/* Append up to `length` user bytes at payload[*used]; false if the page is not there. */
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
	return true;
}

static __always_inline bool append_msghdr(__u8 *payload, __u16 *used, __u32 room, const void *header, __u64 length)
{
	struct user_msghdr message;
	if (bpf_probe_read_user(&message, sizeof(message), header))
		return false;
	return append_iovec(payload, used, room, message.msg_iov, message.msg_iovlen, length);
}

/*
 * No register says which message of a sendmmsg or recvmmsg this is. It is the one after the last seen, if that one's
 * msg_len, which the kernel stores between two messages, is what was moved.
 */
static __always_inline const struct mmsghdr *current_mmsghdr(struct connection *c, const struct io *io)
{
	const struct mmsghdr *vector = (const struct mmsghdr *)io->pointer;
	__u32 next = c->mmsg_vector == io->pointer ? c->mmsg_next : 0, stored = 0;

	if (next && next < io->count)
		bpf_probe_read_user(&stored, sizeof(stored), &vector[next - 1].msg_len);
	if (next >= io->count || stored != c->mmsg_length)
		next = 0;
	c->mmsg_vector = io->pointer;
	c->mmsg_length = io->length;
	c->mmsg_next = next + 1;
	return vector + next;
}

static __always_inline bool append_shape(struct connection *c, const struct io *io, __u8 *payload, __u16 *used,
					 __u32 room)
{
	if (io->shape == BUFFER_FLAT)
		return append(payload, used, room, (const void *)io->pointer, io->length);
	if (io->shape == BUFFER_IOVEC)
		return append_iovec(payload, used, room, (const struct iovec *)io->pointer, io->count, io->length);
	if (io->shape == BUFFER_MSGHDR)
		return append_msghdr(payload, used, room, (const void *)io->pointer, io->length);
	if (io->shape == BUFFER_MMSGHDR)
		return append_msghdr(payload, used, room, current_mmsghdr(c, io), io->length);
	return false;
}

static __always_inline void capture(struct connection *c, const struct io *io, __u8 *payload, __u16 *used, __u32 room)
{
	if (*used >= room || append_shape(c, io, payload, used, room))
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

/*
 * Real traffic repeats: user space parses what it has not seen, and knows the rest by this without reading it. The
 * bytes are hot here and cold there.
 */
static __noinline __u64 payload_hash(const __u64 *words, __u32 length, __u64 key)
{
	__u64 even = key ^ length, odd = ~key;
	__u32 i = 0, rest = length & 15;

	if (!words)
		return 0;
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
		s->request_hash = payload_hash((const __u64 *)s->request, s->request_length, key);
	if (s->response_length)
		s->response_hash = payload_hash((const __u64 *)s->response, s->response_length, key);
}

/* Write the turn, if there is one, and count it whether or not the ring had room. */
static __always_inline void finish_turn(struct connection *c, __u32 why)
{
	struct slot *s = &c->slot;
	if (c->written || (!s->request_first_ns && !s->response_first_ns))
		return;
	if (s->service == NO_SERVICE)
		s->service = find_service(s);
	s->flags |= why;
	hash_payload(s);
	bool written = write_slot(s, KIND_TURN);
	if (s->request_first_ns && !(s->flags & FLAG_CONTINUED))
		count_turn(s, written);
	c->written = true;
}

static __always_inline void request_bytes(struct connection *c, const struct io *io, __u64 now)
{
	struct slot *s = &c->slot;
	if (s->response_first_ns || (s->transport == TRANSPORT_UDP && s->request_first_ns)) {
		finish_turn(c, 0);
		begin_turn(c);
	}
	if (!s->request_first_ns) {
		s->request_first_ns = now;
		if (c->arrival_ns)
			s->queue_ns = now > c->arrival_ns ? now - c->arrival_ns : 0;
	}
	c->await_request = false;
	s->request_last_ns = now;
	s->request_bytes += io->length;
	s->request_segments++;
	c->total_request_bytes += io->length;
	capture(c, io, s->request, &s->request_length, REQUEST_BYTES);
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
	if (wait && *wait < gap)
		*wait = gap < MAX_PATIENCE_NS ? gap : MAX_PATIENCE_NS;
	s->flags = (s->flags & ~FLAG_IDLE) | FLAG_CONTINUED;
	s->response_bytes = 0;
	s->response_segments = 0;
	s->response_length = 0;
	s->response_hash = 0;
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
	s->response_bytes += io->length;
	s->response_segments++;
	capture(c, io, s->response, &s->response_length, RESPONSE_BYTES);
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

/* The one entry: `length` > 0 bytes went `send` or came. */
static __always_inline void turn_io(struct connection *c, bool send, const struct io *io)
{
	__u64 now = bpf_ktime_get_ns();
	if (c->closed)
		return;
	write_accept(c);
	if ((c->slot.role == ROLE_CLIENT) == send)
		request_bytes(c, io, now);
	else
		response_bytes(c, io, now);
	if (!send)
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

/* Called for every connection by the sweep. Returns whether it has to be looked at again without new I/O. */
static __always_inline bool turn_idle(struct connection *c, bool drained, __u64 acknowledged_ns, __u64 now)
{
	struct slot *s = &c->slot;
	if (c->closed || c->written || (!s->request_first_ns && !s->response_first_ns))
		return false;
	if (s->response_first_ns && drained && now > s->response_last_ns + idle_wait(s)) {
		if (acknowledged_ns > s->response_last_ns && acknowledged_ns < now)
			s->response_last_ns = acknowledged_ns;
		finish_turn(c, FLAG_IDLE);
		return false;
	}
	if (!(s->flags & (FLAG_OPENED | FLAG_CONTINUED)) && s->request_first_ns && now > s->request_first_ns + IDLE_NS) {
		write_slot(s, KIND_OPEN);
		s->flags |= FLAG_OPENED;
	}
	return s->response_first_ns || !(s->flags & FLAG_OPENED);
}

static __always_inline void turn_close(struct connection *c, __u32 srtt_us, __u32 retransmits)
{
	struct slot *s = &c->slot;
	if (c->closed)
		return;
	write_accept(c);
	finish_turn(c, FLAG_CLOSED);
	begin_turn(c);
	c->closed = true;
	s->request_first_ns = c->opened_ns;
	s->response_last_ns = bpf_ktime_get_ns();
	s->request_bytes = c->total_request_bytes;
	s->response_bytes = c->total_response_bytes;
	s->srtt_us = srtt_us;
	s->retransmits = retransmits;
	write_slot(s, KIND_CLOSE);
}

#endif
