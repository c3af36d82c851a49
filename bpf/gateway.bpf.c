// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* Socket acceleration: bytes between two sockets of this host go from one to the other, past TCP. See gateway.h. */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "compat.h"
#include "gateway.h"
#include "gateway_kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2 * MAX_PAIRS);
	__type(key, __u64); /* socket cookie */
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_PAIRS);
	__type(key, __u32);
	__type(value, struct pair);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, MAX_PAIRS);
	__type(value, __u32);
} free_pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct member);
} members SEC(".maps");

/* Clients that joined; the server takes its client out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PAIRS);
	__type(key, struct connection_key);
	__type(value, struct member);
} waiting SEC(".maps");

/* SYNs that arrived at listeners of this host: without one the client's peer is elsewhere. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct connection_key);
	__type(value, __u64);
} syns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u16);
	__type(value, struct port);
} ports SEC(".maps");

/* Likewise programs whose processes have been clients. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct program);
	__type(value, __u8);
} programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gateway_counters);
} counters SEC(".maps");

/* Indices of pairs that leave: user space is woken to bring it to an end. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

/* Wakes user space when bytes flow after a while without any. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} flowing SEC(".maps");

struct gateway_shared shared;

static __always_inline struct gateway_counters *counted(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&counters, &zero);
}

#define COUNT(member)                                  \
	do {                                           \
		struct gateway_counters *_c = counted(); \
		if (_c)                                \
			_c->member++;                  \
	} while (0)

static __always_inline struct pair *pair_of(const struct member *m)
{
	struct pair *pair;
	__u32 index = m->pair;

	pair = bpf_map_lookup_elem(&pairs, &index);
	return pair && pair->generation == m->generation ? pair : NULL;
}

static __always_inline bool change(struct pair *pair, __u32 from, __u32 to)
{
	return __sync_val_compare_and_swap(&pair->state, from, to) == from;
}

static __always_inline void count_reason(struct pair *pair, __u32 reason)
{
	struct gateway_counters *c = counted();

	pair->reason = reason;
	if (c && reason < REASONS)
		c->left[reason]++;
}

/* From now on new bytes of this pair go by TCP. User space is told, and brings both ends out of the hash. */
static __noinline int leave(struct pair *pair, __u32 index, __u32 reason)
{
	__u32 *event;

	if (!pair)
		return 0;
	if (!change(pair, PAIR_REDIRECTED, PAIR_LEAVING))
		return 0;
	pair->leaving_ns = bpf_ktime_get_ns();
	count_reason(pair, reason);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		*event = index;
		bpf_ringbuf_submit(event, 0);
	}
	return 0;
}

/* Costs a look at a line that is read for each message anyway, but for the first of them in a while. */
static __noinline int note_flow(void)
{
	__u32 *event;

	shared.flows = 1;
	if (__sync_val_compare_and_swap(&shared.to_be_told, 1, 0) != 1)
		return 0;
	event = bpf_ringbuf_reserve(&flowing, sizeof(*event), 0);
	if (event) {
		*event = 1;
		bpf_ringbuf_submit(event, 0);
	}
	return 0;
}

static __always_inline void key_of(struct connection_key *key, const struct pair *pair)
{
	__builtin_memcpy(key->client_address, pair->client_address, 16);
	__builtin_memcpy(key->server_address, pair->server_address, 16);
	key->client_port = pair->client_port;
	key->server_port = pair->server_port;
	key->client_sequence = pair->client_sequence;
	key->server_sequence = pair->server_sequence;
}

/* Whether it was this caller that kept the server from coming. */
static __always_inline bool withdraw(struct pair *pair)
{
	struct connection_key key = {};

	key_of(&key, pair);
	return !bpf_map_delete_elem(&waiting, &key);
}

#include "gateway_trust.h"
#include "gateway_join.h"
#include "gateway_leave.h"
#include "gateway_data.h"

const struct pair_head *const gateway_pair SEC(".rodata.wire") = NULL;
const struct end *const gateway_end SEC(".rodata.wire") = NULL;
const enum pair_state gateway_state SEC(".rodata.wire") = 0;
const enum pair_reason gateway_reason SEC(".rodata.wire") = 0;
const struct gateway_counters *const gateway_counts SEC(".rodata.wire") = NULL;
const struct port *const gateway_port SEC(".rodata.wire") = NULL;
const struct gateway_shared *const gateway_share SEC(".rodata.wire") = NULL;

char LICENSE[] SEC("license") = "GPL";
