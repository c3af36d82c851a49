/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Maps towards user space: the ring of slots, counters, and golden signals. */
#ifndef MASDEEPFLOW_RING_H
#define MASDEEPFLOW_RING_H

#define MAX_SERVICES 512
#define OVERFLOW_SERVICE 0

/* Size set by user space. The value type can't be named here: libbpf 1.1 refuses a typed ring. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_SERVICES);
	__type(key, struct service_key);
	__type(value, struct service_info);
} services SEC(".maps");

/* Indices that no service uses: filled and refilled by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, MAX_SERVICES);
	__uint(key_size, 0);
	__uint(value_size, sizeof(__u32));
} free_services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service_signals);
} signals SEC(".maps");

/* Services whose responses pause longer than IDLE_NS: twice the longest pause seen, up to a second. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, __u64);
} patience SEC(".maps");

/*
 * Ports, a bit each, of which every datagram gets a slot: what is sent over them is paired by an id, not by order. Written
 * by user space.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} datagram_ports SEC(".maps");

/* Sockets of such ports that send something else, by cookie. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} other_datagrams SEC(".maps");

/* The only variable in .bss, so that user space finds it at offset 0 of that map. */
struct shared shared;

/* Rare, so it may cost: a program of another context may interrupt this one. */
#define COUNT(field) \
	do { \
		__u32 zero_ = 0; \
		struct counters *counters_ = bpf_map_lookup_elem(&counters, &zero_); \
		if (counters_) \
			__sync_fetch_and_add(&counters_->field, 1); \
	} while (0)

/* Returns whether the ring took it. No wake-up: user space polls, an interrupt an event would cost more. */
static __always_inline bool write_slot(struct slot *slot, __u8 kind)
{
	slot->kind = kind;
	if (!bpf_ringbuf_output(&ring, slot, sizeof(*slot), BPF_RB_NO_WAKEUP))
		return true;
	/* A lost question is a lost turn; a lost answer is not one more. */
	if (kind == KIND_TURN || (kind == KIND_DATAGRAM && slot->request_first_ns))
		COUNT(lost_ring_full);
	else
		COUNT(lost_event_ring_full);
	return false;
}

#define STEP(bits) \
	if (units >> (bits)) { \
		log2 += bits; \
		units >>= bits; \
	}

static __always_inline __u32 histogram_bucket(__u64 duration_ns)
{
	__u64 units = duration_ns >> 10, whole = units;
	__u32 log2 = 0;

	if (units < 8)
		return (__u32)units;
	STEP(32) STEP(16) STEP(8) STEP(4) STEP(2) STEP(1)
	__u32 bucket = 8 * (log2 - 2) + ((__u32)(whole >> ((log2 - 3) & 63)) & 7);
	return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static __noinline __u32 new_service(const struct service_key *key, const char *comm)
{
	struct service_info info = {.index = OVERFLOW_SERVICE};
	struct service_info *other;
	__u64 none = 0;

	if (!key || !comm)
		return OVERFLOW_SERVICE;
	if (bpf_map_pop_elem(&free_services, &info.index))
		return OVERFLOW_SERVICE;
	__builtin_memcpy(info.comm, comm, sizeof(info.comm));
	bpf_map_update_elem(&patience, &info.index, &none, BPF_ANY);
	if (!bpf_map_update_elem(&services, key, &info, BPF_NOEXIST))
		return info.index;
	bpf_map_push_elem(&free_services, &info.index, 0);
	other = bpf_map_lookup_elem(&services, key);
	return other ? other->index : OVERFLOW_SERVICE;
}

static __always_inline __u32 find_service(const struct slot *slot)
{
	struct service_key key = {
		.pid = slot->pid,
		.port = slot->role == ROLE_SERVER ? slot->local_port : slot->remote_port,
		.role = slot->role,
		.transport = slot->transport,
	};
	struct service_info *info = bpf_map_lookup_elem(&services, &key);
	return info ? info->index : new_service(&key, slot->comm);
}

/* The sweep may be preempted by a program that counts for the same service on this CPU; hooks of I/O are not. */
#define ADD(to, n) \
	do { \
		if (preemptible) \
			__sync_fetch_and_add(&(to), (n)); \
		else \
			(to) += (n); \
	} while (0)

/* What moved on a connection since it was counted last. */
struct moved {
	__u64 request_bytes;
	__u64 response_bytes;
};

/* counted: whether it is a turn of its own, not the rest of one or what a server says first. */
static __always_inline void count_turn(const struct slot *slot, struct moved moved, bool counted, bool written,
				       bool preemptible)
{
	__u32 index = slot->service;
	struct service_signals *s = bpf_map_lookup_elem(&signals, &index);
	if (!s)
		return;
	ADD(s->request_bytes, moved.request_bytes);
	ADD(s->response_bytes, moved.response_bytes);
	if (!counted)
		return;
	ADD(s->turns, 1);
	if (index == OVERFLOW_SERVICE)
		COUNT(lost_service_full);
	if (!written)
		ADD(s->lost, 1);
	if (!slot->response_first_ns)
		return;
	__u64 duration = slot->response_last_ns - slot->request_first_ns;
	__u32 bucket = histogram_bucket(duration);
	barrier_var(bucket); /* clang 19 would check one copy and use another */
	if (bucket >= HISTOGRAM_BUCKETS)
		return;
	ADD(s->duration_ns, duration);
	ADD(s->turns_histogram[bucket], 1);
	if (!written)
		ADD(s->lost_histogram[bucket], 1);
}

/* A request is a turn; the response to the last one, asked at `asked_ns`, tells how long it took. */
static __always_inline void count_datagram(const struct slot *slot, bool written, __u64 asked_ns)
{
	__u32 index = slot->service;
	struct service_signals *s = bpf_map_lookup_elem(&signals, &index);
	if (!s)
		return;
	s->request_bytes += slot->request_bytes;
	s->response_bytes += slot->response_bytes;
	if (slot->request_first_ns) {
		s->turns++;
		if (index == OVERFLOW_SERVICE)
			COUNT(lost_service_full);
		if (!written)
			s->lost++;
		return;
	}
	if (!asked_ns || slot->response_last_ns < asked_ns)
		return;
	__u64 duration = slot->response_last_ns - asked_ns;
	__u32 bucket = histogram_bucket(duration);
	barrier_var(bucket); /* clang 19 would check one copy and use another */
	if (bucket >= HISTOGRAM_BUCKETS)
		return;
	s->duration_ns += duration;
	s->turns_histogram[bucket]++;
	if (!written)
		s->lost_histogram[bucket]++;
}

#endif
