/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Answers that come and that nobody reads: to who has asked several servers, and has taken another's. */
#ifndef MASDEEPFLOW_HOOKS_UNHEARD_H
#define MASDEEPFLOW_HOOKS_UNHEARD_H

#define NO_HEADER 0xffff /* transport_header of what was dropped before it was looked at */

/* The lock is held. What `d` begins, `length` bytes of payload, is told as an answer. */
static __always_inline void write_unread(struct connection *c, const struct asked_several *known,
					 const struct datagram *d, const void *payload, __u32 length)
{
	struct slot *s = &c->slot;
	struct end asked, from;
	__u32 first;

	get_end(&asked, s);
	get_sender(&from, d, s->family);
	__builtin_memcpy(&first, &d->transport[4], sizeof(first));
	begin_turn(c);
	if (length > PAYLOAD_BYTES)
		length = PAYLOAD_BYTES;
	/* request[] goes on in response[]: the slot's end. */
	if (!length || bpf_probe_read_kernel(s->request, length, payload))
		return;
	s->request_length = length < REQUEST_BYTES ? length : REQUEST_BYTES;
	s->response_length = length - s->request_length;
	s->response_first_ns = s->response_last_ns = arrived_ns(known, &from, first);
	s->response_bytes = __builtin_bswap16(d->transport[2]) - 8; /* of the UDP header itself */
	s->response_segments = 1;
	s->flags |= FLAG_UNREAD | FLAG_WATCHED;
	set_end(s, &from);
	write_slot(s, KIND_DATAGRAM);
	set_end(s, &asked);
	c->written = true;
}

static __always_inline bool is_udp(const struct datagram *d, __be16 protocol)
{
	if (protocol == __builtin_bswap16(ETH_P_IP))
		return d->network[9] == IPPROTO_UDP;
	return protocol == __builtin_bswap16(ETH_P_IPV6) && d->network[6] == IPPROTO_UDP;
}

/*
 * Some packet is dropped, or goes with the socket in whose buffer it lies. Attached when a client is seen that asks several
 * servers over one socket.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop, struct sk_buff *skb)
{
	struct datagram d;
	__be16 protocol = skb->protocol;

	if ((protocol != __builtin_bswap16(ETH_P_IP) && protocol != __builtin_bswap16(ETH_P_IPV6)) ||
	    skb->transport_header == NO_HEADER || !read_datagram(&d, skb) || !is_udp(&d, protocol))
		return 0;
	__u32 key = several_key(__builtin_bswap16(d.transport[1]), d.transport[4]);
	struct asked_several *asked = bpf_map_lookup_elem(&several, &key);
	if (!asked || !asked->left || !is_datagram_port(__builtin_bswap16(d.transport[0])))
		return 0;
	__u64 cookie = asked->cookie;
	struct connection *c = bpf_map_lookup_elem(&other_connections, &cookie);
	if (!c || lock_contended(c))
		return 0;
	if (c->slot.role == ROLE_CLIENT && follows_datagrams(c) && !turn_open(c)) {
		__u32 start = skb->transport_header + 8, tail = skb->tail;
		asked->left--;
		write_unread(c, asked, &d, skb->head + start, tail > start ? tail - start : 0);
	}
	unlock(c);
	return 0;
}

#endif
