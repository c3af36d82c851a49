/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * What the gateway and user space share. A pair is one TCP connection whose both ends are sockets of this host.
 *
 *   WAITING --both ends are in the hash, no byte was sent--> REDIRECTED --leave()--> LEAVING --both have left--> TCP
 *      `--the first byte came before that, or an end can't be served--------------------------------------------^
 *
 * LEAVING: new bytes go by TCP, but gateway_plug holds them in the sender's own queue until the receiver has read all
 * that was redirected to it and is out of the hash. So no socket ever has bytes of both kinds, and a full queue blocks
 * the writer as it always did.
 */
#ifndef MASDEEPFLOW_GATEWAY_H
#define MASDEEPFLOW_GATEWAY_H

#define MAX_PAIRS 32768

enum pair_state { PAIR_FREE, PAIR_WAITING, PAIR_REDIRECTED, PAIR_LEAVING, PAIR_TCP };

/* Why a pair is not redirected, or no longer. */
enum pair_reason {
	REASON_NONE,
	REASON_EARLY,      /* the first byte was sent before both ends were in the hash */
	REASON_PRESSURE,   /* the reader is slow: TCP's own buffers are to block the writer */
	REASON_URGENT,     /* MSG_OOB */
	REASON_WAITALL,    /* a receive call with MSG_WAITALL */
	REASON_DISCARD,    /* a receive call with MSG_TRUNC */
	REASON_OPTION,     /* a socket option that redirection can't honour */
	REASON_SPLICE,     /* splice() from the socket */
	REASON_NO_PEER,    /* the other end has left the hash, closed or not able to join */
	REASON_STOP,       /* the gateway stops */
	REASON_WATCHDOG,
	REASON_PROGRAM,    /* the program has used a call that redirection can't serve */
	REASON_BRIEF,      /* connections to this port are too brief for redirection to pay */
	REASONS,
};

enum pair_side { SIDE_CLIENT, SIDE_SERVER };

/* In `struct member`: a client that is not to join. */
#define NO_PAIR 0xffffffff

/* The file that a process runs. */
struct program {
	__u64 inode;
	__u64 device;
};

#define SECOND_NS 1000000000ULL

/* One end, in a cache line of its own: its own side writes it. */
struct end {
	__u64 cookie;
	__u64 redirected;   /* bytes that it sent and that were redirected */
	__u64 by_tcp;       /* bytes that it sent by TCP while it was a member of the hash */
	__u64 received;     /* bytes that it read, of those redirected to it */
	__u32 room;         /* how many redirected bytes may wait for it */
	__u32 tgid;         /* who read last */
	__u64 socket;       /* its struct sock, for probing only: it may be gone */
	__u8 left;          /* it is out of the hash */
	__u8 closed;
	__u8 reset;         /* it is to be reset: closed with unread bytes, or in a splice() that can't see them */
	__u8 reads;         /* how often it was read, up to WATCHED_READS */
	__u32 netns;        /* inode of its network namespace */
	__u32 recent_messages; /* that it sent, */
	__u32 recent_bytes;    /* and their size: older ones fade */
};

/* A macro, because user space reads structs of integers only: the ends lie behind it. */
#define PAIR_HEAD                                                          \
	__u32 state;                                                       \
	__u32 reason;                                                      \
	__u32 generation;                                                  \
	__u32 open; /* a bit for each end that still may use this pair */  \
	__u64 since_ns;                                                    \
	__u64 leaving_ns;                                                  \
	__u8 client_address[16];                                           \
	__u8 server_address[16];                                           \
	__u16 client_port;                                                 \
	__u16 server_port;                                                 \
	__u32 client_sequence;                                             \
	__u32 server_sequence;                                             \
	__u8 unused[52];

struct pair_head {
	PAIR_HEAD
};

struct pair {
	PAIR_HEAD
	struct end ends[2];
};

/* A server port. brief: a leaky bucket of connections that were too short to make up for joining and leaving. */
struct port {
	__u32 reason; /* why a server there is not to be trusted with redirection, REASON_NONE if nothing speaks against it */
	__u32 brief;
	__u64 leaked_ns;
};

/* The connection as both ends know it; IPv4 is mapped into IPv6. The sequence numbers prove that it is the same one. */
struct connection_key {
	__u8 client_address[16];
	__u8 server_address[16];
	__u16 client_port;
	__u16 server_port;
	__u32 client_sequence;
	__u32 server_sequence;
};

struct member {
	__u32 pair;
	__u32 generation;
	__u32 side;
};

/* One for each CPU; the bytes are those of pairs that are gone. */
struct gateway_counters {
	__u64 pairs;
	__u64 redirected;
	__u64 by_tcp;
	__u64 not_local;
	__u64 no_free_pair;
	__u64 reset;        /* connections cut off: see gateway_splice */
	__u64 left[REASONS];
};

struct gateway_shared {
	__u64 heartbeat_ns;   /* user space is alive; without it no new pair is made */
	__u32 accepting;
	__u32 stopping;
	__u32 room;           /* bytes that may wait for a reader before its writer goes by TCP */
	__u32 soft_room;      /* bytes from which on the writer waits for the reader */
	__u32 brake_ns;       /* for so long at each message, and longer the further that is behind, */
	__u32 brake_most_ns;  /* up to this */
	__u32 members;        /* counted by gateway_evict */
	__u32 evicted;        /* likewise, in one pass */
	__u64 budget;         /* bytes that may wait for all readers together */
	__u32 live;           /* pairs in use */
	__u32 brief_limit;    /* brief connections, of those that may pay or not, at once; 0: none is too brief */
	__u32 unfinished;     /* ends that gateway_evict saw on their way out */
	__u32 flows;          /* bytes were redirected since user space last cleared this */
	__u32 to_be_told;     /* user space waits for bytes to flow again: see `flowing` */
	__u32 awake;          /* CPUs that are kept from halting now */
	__u64 awake_ns;       /* how long they were */
	__u64 awake_cpu_ns;   /* CPU time that this took, of all CPUs together */
};

#endif
