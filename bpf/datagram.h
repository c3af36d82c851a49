/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* UDP: each datagram by itself where user space pairs by an id; turns elsewhere, and no flood of either. */
#ifndef MASDEEPFLOW_DATAGRAM_H
#define MASDEEPFLOW_DATAGRAM_H

#define NOT_DATAGRAMS 0xffffffff
/* How many datagrams of a socket pass until user space is asked again whether it makes sense of them. */
#define ASKED_AGAIN 64

static __always_inline bool is_datagram_port(__u16 port)
{
	__u32 word = port / 64;
	const __u64 *ports = bpf_map_lookup_elem(&datagram_ports, &word);
	return ports && (*ports >> (port & 63)) & 1;
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
static __always_inline void datagram_io(struct connection *c, bool send, const struct io *io, __u64 now)
{
	struct slot *s = &c->slot;
	bool asks = is_request(c, send);

	begin_turn(c);
	datagram_payload(s, io);
	if (asks) {
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
	c->written = true;
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
