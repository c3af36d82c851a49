/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Kernel types that only the gateway uses. The contexts of programs are fixed by the ABI: include/uapi/linux/bpf.h. */
#ifndef MASDEEPFLOW_GATEWAY_KERNEL_H
#define MASDEEPFLOW_GATEWAY_KERNEL_H

#define CONTEXT_POINTER(type, name) \
	union {                     \
		type name;          \
		__u64 : 64;         \
	} __attribute__((aligned(8)))

enum { BPF_F_MMAPABLE = 1024, BPF_F_INGRESS = 1 };
enum { SK_DROP = 0, SK_PASS = 1 };
enum {
	BPF_SOCK_OPS_RWND_INIT = 2,
	BPF_SOCK_OPS_TCP_CONNECT_CB = 3,
	BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB = 4,
	BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB = 5,
	BPF_SOCK_OPS_STATE_CB = 10,
	BPF_SOCK_OPS_HDR_OPT_LEN_CB = 14,
};
enum { BPF_SOCK_OPS_STATE_CB_FLAG = 4, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG = 64 };
enum { SOL_SOCKET = 1, SOL_TCP = 6 };
enum { TCP_NODELAY = 1 };
enum { SOCK_RCVBUF_LOCK = 2 };
enum { MSG_OOB = 1, MSG_WAITALL = 0x100 };

struct bpf_sock;

struct sk_msg_md {
	CONTEXT_POINTER(void *, data);
	CONTEXT_POINTER(void *, data_end);
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 size;
	CONTEXT_POINTER(struct bpf_sock *, sk);
};

struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 rtt_min;
	__u32 snd_ssthresh;
	__u32 rcv_nxt;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 mss_cache;
	__u32 ecn_flags;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 packets_out;
	__u32 retrans_out;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 data_segs_in;
	__u32 segs_out;
	__u32 data_segs_out;
	__u32 lost_out;
	__u32 sacked_out;
	__u32 sk_txhash;
	__u64 bytes_received;
	__u64 bytes_acked;
	CONTEXT_POINTER(struct bpf_sock *, sk);
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	CONTEXT_POINTER(void *, flow_keys);
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	CONTEXT_POINTER(struct bpf_sock *, sk);
};

struct bpf_sockopt {
	CONTEXT_POINTER(struct bpf_sock *, sk);
	CONTEXT_POINTER(void *, optval);
	CONTEXT_POINTER(void *, optval_end);
	__s32 level;
	__s32 optname;
	__s32 optlen;
	__s32 retval;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded"

enum sock_flags { SOCK_TIMESTAMP, SOCK_RCVTSTAMP, SOCK_ZEROCOPY };

struct list_head {
	struct list_head *next;
};

struct wait_queue_head {
	struct list_head head;
};

struct wait_queue_entry {
	void *private;
	int (*func)(struct wait_queue_entry *entry, unsigned int mode, int flags, void *key);
	struct list_head entry;
};

struct socket_wq {
	struct wait_queue_head wait;
};

struct sk_psock {
	struct list_head ingress_msg;
};

struct bpf_iter__sockmap {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	struct sock *sk;
};

#pragma clang diagnostic pop
#pragma clang attribute pop

#endif
