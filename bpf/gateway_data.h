/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What happens to bytes: sent, held back, received; and the calls that redirection can't serve. */
#ifndef MASDEEPFLOW_GATEWAY_DATA_H
#define MASDEEPFLOW_GATEWAY_DATA_H

#define HOLD_NS (120 * SECOND_NS)
#define BRAKE_ROUNDS 65536
#define MOST_MESSAGES 8192
#define RECENT_MESSAGES 512

/* sk_msg programs are not told the flags of the call. */
static __always_inline bool sends_urgent(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	long number = SYSCALL_NUMBER(task, regs);

	if (number == NR_sendto || number == NR_sendmmsg)
		return SYSCALL_ARG4(regs) & MSG_OOB;
	return number == NR_sendmsg && SYSCALL_ARG3(regs) & MSG_OOB;
}

static __always_inline bool is_shut(struct sk_msg_md *msg)
{
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(msg->sk);

	return !tp || ((struct sock *)tp)->sk_shutdown & SEND_SHUTDOWN;
}

struct braking {
	const struct end *me;
	const struct end *peer;
	__u64 most;
	__u64 until_ns;
};

static long has_room(__u32 round, struct braking *b)
{
	return *(volatile __u64 *)&b->me->redirected - *(volatile __u64 *)&b->peer->received <= b->most ||
	       bpf_ktime_get_ns() > b->until_ns;
}

/*
 * No sk_msg program can make its writer sleep. So a writer that is ahead of its reader waits here a little for each
 * message: a reader that runs keeps up, and its bytes are still in the cache.
 */
static __always_inline void brake(const struct end *me, const struct end *peer, __u64 size, __u64 share)
{
	struct braking b = {.me = me, .peer = peer, .most = share / 2};

	if (b.most > shared.soft_room)
		b.most = shared.soft_room;
	if (me->redirected - peer->received <= b.most)
		return;
	/*
	 * As long as the kernel needs to copy that much, so that a short message does not wait for long; the longer the
	 * further the reader is behind, so that one that is not scheduled for a while gets the time to come back.
	 */
	size >>= 3;
	if (size > shared.brake_ns)
		size = shared.brake_ns;
	size *= 1 + (me->redirected - peer->received) / (b.most + 1);
	b.until_ns = bpf_ktime_get_ns() + (size < shared.brake_most_ns ? size : shared.brake_most_ns);
	bpf_loop(BRAKE_ROUNDS, has_room, &b, 0);
}

extern const void tcp_memory_pressure __attribute__((section(".ksyms"), weak));

/* Beyond tcp_mem's limit the kernel refuses to redirect, and send() would fail: TCP waits instead. */
static __always_inline bool memory_is_short(void)
{
	unsigned long since = 0;

	if (&tcp_memory_pressure)
		bpf_probe_read_kernel(&since, sizeof(since), &tcp_memory_pressure);
	return since;
}

/*
 * The kernel counts the bytes of redirected messages only, but each has a struct sk_msg, and most are short: their
 * number is estimated from the size of recent ones.
 */
static __always_inline bool too_many(const struct end *me, __u64 waiting_bytes)
{
	return waiting_bytes * me->recent_messages > (__u64)MOST_MESSAGES * me->recent_bytes;
}

static __always_inline void count_message(struct end *me, __u32 size)
{
	if (me->recent_messages >= RECENT_MESSAGES) {
		me->recent_messages /= 2;
		me->recent_bytes /= 2;
	}
	me->recent_messages++;
	me->recent_bytes += size;
}

/* What may wait for this reader: less when there are many. */
static __always_inline __u64 share_of(const struct end *peer)
{
	__u64 share = shared.budget / (2 * (__u64)shared.live + 1);

	return share < peer->room ? share : peer->room;
}

/* Whether the reader is so far behind that TCP is to block the writer. */
static __always_inline bool crowded(const struct end *me, const struct end *peer, __u64 size)
{
	__u64 share = share_of(peer), waiting_bytes;

	brake(me, peer, size, share);
	waiting_bytes = me->redirected - peer->received;
	return waiting_bytes && (waiting_bytes + size > share || too_many(me, waiting_bytes) || memory_is_short());
}

/* The rule: a byte is redirected only if none went by TCP before. */
SEC("sk_msg")
int gateway_send(struct sk_msg_md *msg)
{
	struct member *m = bpf_sk_storage_get(&members, msg->sk, NULL, 0);
	struct pair *pair;
	struct end *me, *peer;
	__u64 size = msg->size, announced, cookie;
	__u32 reason = REASON_NO_PEER;

	if (!m)
		return SK_PASS;
	pair = pair_of(m);
	if (!pair)
		return SK_PASS;
	me = &pair->ends[m->side & 1];
	peer = &pair->ends[~m->side & 1];
	if (pair->state == PAIR_WAITING)
		give_up_waiting(pair, m->pair, REASON_EARLY);
	if (pair->state != PAIR_REDIRECTED || is_shut(msg))
		goto by_tcp;
	if (peer->closed)
		goto depart;
	if (me->redirected != peer->received && crowded(me, peer, size)) {
		reason = REASON_PRESSURE;
		goto depart;
	}
	if (peer->reads < WATCHED_READS && me->redirected == peer->received) {
		reason = sleeper_needs(peer->socket);
		if (reason)
			goto depart;
		reason = REASON_NO_PEER;
	}
	if (sends_urgent()) {
		reason = REASON_URGENT;
		goto depart;
	}
	/*
	 * Announced first, then the state is looked at again: gateway_evict does it the other way round. The addition that
	 * gives a result back is the one that orders memory, on arm64 too.
	 */
	announced = __sync_fetch_and_add(&me->redirected, size);
	barrier_var(announced);
	cookie = peer->cookie;
	if (pair->state == PAIR_REDIRECTED && bpf_msg_redirect_hash(msg, &sockets, &cookie, BPF_F_INGRESS) == SK_PASS) {
		count_message(me, size);
		if (!shared.flows)
			note_flow();
		return SK_PASS;
	}
	__sync_fetch_and_add(&me->redirected, -size);
depart:
	leave(pair, m->pair, reason);
by_tcp:
	me->by_tcp += size;
	return SK_PASS;
}

/* The bytes of a segment that a socket is about to send; 0 for anything else than TCP. */
static __always_inline __u32 payload_bytes(struct __sk_buff *skb, __u8 *flags)
{
	__u8 first = 0, offset = 0, next = 0;
	__u32 header;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return 0;
	if (first >> 4 == 4) {
		header = (first & 15) * 4;
		bpf_skb_load_bytes(skb, 9, &next, 1);
	} else {
		header = 40;
		bpf_skb_load_bytes(skb, 6, &next, 1);
	}
	if (next != IPPROTO_TCP || bpf_skb_load_bytes(skb, header + 12, &offset, 1) ||
	    bpf_skb_load_bytes(skb, header + 13, flags, 1))
		return 0;
	header += (offset >> 4) * 4;
	return skb->len > header ? skb->len - header : 0;
}

enum { TCP_FLAG_FIN = 1 };

/*
 * Holds back what TCP would deliver to a member that still has redirected bytes to read: dropped here, a segment stays
 * in the sender's queue, as if the network were congested, and TCP tries again. Two minutes are the limit: TCP would
 * otherwise take the peer for dead in the end.
 */
SEC("cgroup_skb/egress")
int gateway_hold(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct member *m;
	struct pair *pair;
	__u32 payload;
	__u8 flags = 0;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	m = bpf_sk_storage_get(&members, sk, NULL, 0);
	if (!m)
		return 1;
	pair = pair_of(m);
	if (!pair)
		return 1;
	if (pair->ends[m->side & 1].reset) {
		payload_bytes(skb, &flags);
		return !(flags & TCP_FLAG_FIN) || bpf_ktime_get_ns() > pair->leaving_ns + SECOND_NS;
	}
	if (pair->state != PAIR_LEAVING)
		return 1;
	payload = payload_bytes(skb, &flags);
	if (!payload || pair->ends[~m->side & 1].left || bpf_ktime_get_ns() > pair->leaving_ns + HOLD_NS)
		return 1;
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(gateway_receive, struct sock *sk, int length, int flags)
{
	struct member *m;
	struct pair *pair;
	struct end *me;
	__u32 reason;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	reason = unserved(flags);
	if (reason == REASON_WAITALL || reason == REASON_DISCARD)
		distrust(sk, reason);
	m = bpf_sk_storage_get(&members, sk, NULL, 0);
	if (!m)
		return 0;
	pair = pair_of(m);
	if (!pair)
		return 0;
	me = &pair->ends[m->side & 1];
	if (length > 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE)) && !me->left) {
		__sync_fetch_and_add(&me->received, length);
		me->tgid = bpf_get_current_pid_tgid() >> 32;
		if (me->reads < WATCHED_READS)
			me->reads++;
	}
	if (reason)
		leave(pair, m->pair, reason);
	return 0;
}

/* splice() reads through tcp_read_sock(), which comes here even if it has found nothing. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(gateway_splice, struct sock *sk)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)task_pt_regs(task);
	struct member *m;
	struct pair *pair;

	if (SYSCALL_NUMBER(task, regs) != NR_splice)
		return 0;
	distrust(sk, REASON_SPLICE);
	m = bpf_sk_storage_get(&members, sk, NULL, 0);
	if (!m)
		return 0;
	pair = pair_of(m);
	if (!pair)
		return 0;
	/* What was redirected can't be had by splice(): an error is better than to wait for ever. */
	if (pair->state != PAIR_TCP && !drained(pair, m->side)) {
		end_of(pair, m->side)->reset = 1;
		pair->leaving_ns = bpf_ktime_get_ns();
		COUNT(reset);
	}
	leave(pair, m->pair, REASON_SPLICE);
	return 0;
}

/* Options of include/uapi/asm-generic/socket.h and linux/tcp.h that unsuited() finds once they are set. */
static __always_inline bool hinders(int level, int option)
{
	if (level == SOL_SOCKET)
		return option == 18 /* SO_RCVLOWAT */ || option == 42 /* SO_PEEK_OFF */ ||
		       option == 60 /* SO_ZEROCOPY */ || option == 29 || option == 35 || option == 37 ||
		       option == 63 || option == 64 || option == 65 /* SO_TIMESTAMP and kin */;
	return level == SOL_TCP &&
	       (option == 19 /* TCP_REPAIR */ || option == 31 /* TCP_ULP */ || option == 36 /* TCP_INQ */);
}

/* The kernel doubles what is asked for (socket(7)). */
static __always_inline int limit_room(struct bpf_sockopt *ctx)
{
	__u32 *value = ctx->optval;
	struct member *m;
	struct pair *pair;

	if ((void *)(value + 1) > ctx->optval_end)
		return 1;
	m = bpf_sk_storage_get(&members, ctx->sk, NULL, 0);
	if (!m)
		return 1;
	pair = pair_of(m);
	if (pair && *value < shared.room / 2)
		pair->ends[m->side & 1].room = *value * 2;
	return 1;
}

SEC("cgroup/setsockopt")
int gateway_option(struct bpf_sockopt *ctx)
{
	struct member *m;
	struct pair *pair;

	/* The kernel hands over one page at most, and wants to be told that a longer value is left alone. */
	if (ctx->optlen > 4096)
		ctx->optlen = 0;
	if (!ctx->sk)
		return 1;
	if (ctx->level == SOL_SOCKET && (ctx->optname == 8 || ctx->optname == 33) /* SO_RCVBUF, SO_RCVBUFFORCE */)
		return limit_room(ctx);
	if (!hinders(ctx->level, ctx->optname))
		return 1;
	m = bpf_sk_storage_get(&members, ctx->sk, NULL, 0);
	if (!m)
		return 1;
	pair = pair_of(m);
	if (!pair)
		return 1;
	give_up_waiting(pair, m->pair, REASON_OPTION);
	leave(pair, m->pair, REASON_OPTION);
	return 1;
}

#endif
