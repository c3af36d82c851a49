/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The one description of what the kernel side hands to user space. The NumPy dtype is built from this file's BTF. */
#ifndef MASDEEPFLOW_WIRE_H
#define MASDEEPFLOW_WIRE_H

#ifndef SLOT_BYTES
#define SLOT_BYTES 512
#endif

/* A ring record is 8 bytes of ring header and this body: SLOT_BYTES in all, so that the ring is an array. */
#define RING_HEADER_BYTES 8
#define SLOT_HEAD_BYTES 192
#define PAYLOAD_BYTES (SLOT_BYTES - RING_HEADER_BYTES - SLOT_HEAD_BYTES)

/* Requests carry the statement or the URL and headers, responses a status: two thirds against one. */
#if SLOT_BYTES == 512
#define REQUEST_BYTES 208
#elif SLOT_BYTES == 1024
#define REQUEST_BYTES 560
#elif SLOT_BYTES == 2048
#define REQUEST_BYTES 1328
#elif SLOT_BYTES == 4096
#define REQUEST_BYTES 2864
#else
#error "SLOT_BYTES must be 512, 1024, 2048 or 4096"
#endif
#define RESPONSE_BYTES (PAYLOAD_BYTES - REQUEST_BYTES)

#define UNIT(u) __attribute__((btf_decl_tag("unit:" u)))

enum slot_kind {
	KIND_TURN = 1,           /* request and response bytes of one exchange */
	KIND_OPEN = 2,           /* a turn that is still waiting or streaming; a KIND_TURN of the same number follows */
	KIND_CONNECT = 3,        /* request_first_ns: SYN sent, response_last_ns: established */
	KIND_CONNECT_FAILED = 4, /* the same stamps; error: errno */
	KIND_ACCEPT = 5,         /* request_first_ns: established */
	KIND_CLOSE = 6,          /* request_first_ns: opened, response_last_ns: closed; bytes, srtt, retransmits: totals */
	KIND_FORK = 7,           /* pid: a new process, tid: the one that it is a copy of */
	KIND_CGROUP = 8,         /* pid's cgroup: its name, its parent's behind CGROUP_BYTES, the next in response[] */
	/* pid runs a new program. request[]: arguments, each ended by a zero byte; request_bytes: length of all of them.
	 * response[]: executable's base name, and behind EXECUTABLE_BYTES its OTEL_SERVICE_NAME. tid: user */
	KIND_EXEC = 9,
	/*
	 * One datagram, of a port whose datagrams are not turns (`datagram_ports`): in request_first_ns and request_bytes
	 * if it went from client to server, else in response_first_ns and response_bytes. Its payload begins in request[]
	 * and goes on in response[]. remote_address: zeros where the call does not tell, as in a server's recvfrom.
	 */
	KIND_DATAGRAM = 10,
	KIND_SILENT = 11,        /* a UDP socket of such a port that was not answered, and for 5 s not used */
};

/* Longest names that runtimes give: cri-containerd-<64 hex digits>.scope, kubepods-besteffort-pod<UID>.slice. */
#define CGROUP_BYTES 128
#define EXECUTABLE_BYTES 40

enum slot_role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1,
	ROLE_SERVER = 2,
};

enum slot_transport {
	TRANSPORT_TCP = 1,
	TRANSPORT_UDP = 2,
	TRANSPORT_UNIX = 3,
};

enum slot_flag {
	FLAG_OLD_CONNECTION = 1,  /* opened before the agent */
	FLAG_SERVER_FIRST = 2,    /* response bytes came with no request before them */
	FLAG_NO_PAYLOAD = 4,      /* some bytes' content could not be read: sendfile, splice, io_uring, a page not resident */
	FLAG_CONTINUED = 8,       /* more response bytes of a turn that was written before (same cookie and turn) */
	FLAG_OPENED = 16,         /* a KIND_OPEN slot of this turn was written before */
	FLAG_IDLE = 32,           /* written because it was idle, not because a next request or the close ended it */
	FLAG_CLOSED = 64,         /* the connection's close ended it */
	FLAG_ROLE_GUESSED = 128,  /* nobody saw the handshake or a listening port */
	FLAG_ACCELERATED = 256,   /* the socket was a member of a socket hash: its bytes went past TCP */
	FLAG_PEER_CLOSED = 512,   /* with FLAG_CLOSED: the other end closed or reset the connection before this one did */
	FLAG_SELF_CLOSED = 1024,  /* with FLAG_CLOSED: this end did, or the kernel gave up on it */
	FLAG_FAILED = 2048,       /* KIND_DATAGRAM, error: errno. Not sent if it is a request; else nothing came, and none will */
	FLAG_UNREAD = 4096,       /* KIND_DATAGRAM: an answer that came and that nobody has read */
	FLAG_WATCHED = 8192,      /* KIND_DATAGRAM, a request: if it is answered a slot tells, read or not; an answer: who sent it is certain */
};

/*
 * Field names are OpenTelemetry's or the kernel's; ns stamps are CLOCK_MONOTONIC, 0 where there is none. What is
 * read of every slot comes first: with the ring's header it fills two cache lines.
 */
struct slot {
	__u64 cookie;
	__u64 request_first_ns UNIT("ns");
	__u64 request_last_ns UNIT("ns");
	__u64 response_first_ns UNIT("ns");
	__u64 response_last_ns UNIT("ns"); /* FLAG_IDLE, FLAG_CLOSED and no response: when the wait for it ended */
	__u64 request_bytes UNIT("By");
	__u64 response_bytes UNIT("By");
	__u64 queue_ns UNIT("ns");     /* first request byte: arrival in the socket buffer to read; servers only */
	__u64 request_hash;            /* keyed, of the valid bytes of request[]; 0 where there are none */
	__u64 response_hash;
	__u32 pid;
	__u32 flags;
	__u32 turn;                    /* number of the turn on its connection, from 1 */
	__u32 service;                 /* index in the golden signals map */
	__u16 request_length UNIT("By");  /* valid bytes of request[] */
	__u16 response_length UNIT("By");
	__u8 kind;
	__u8 role;
	__u8 transport;
	__u8 family;                   /* AF_INET, AF_INET6, AF_UNIX */
	__u32 request_segments;
	__u32 response_segments;
	__u16 local_port;
	__u16 remote_port;
	__u32 netns;
	__u8 local_address[16];        /* IPv4 in the first four bytes */
	__u8 remote_address[16];       /* AF_UNIX: the peer's cookie, 0 if it has not moved a byte yet */
	char comm[16];                 /* of the process, not of the thread */
	__u64 cgroup_id;
	__u32 tid;
	__u32 srtt_us UNIT("us");
	__u32 retransmits;
	__s32 error;                   /* errno, positive: why a connect failed, or what broke the connection that FLAG_CLOSED ended */
	__u8 request[REQUEST_BYTES];
	__u8 response[RESPONSE_BYTES];
};
_Static_assert(sizeof(struct slot) == SLOT_BYTES - RING_HEADER_BYTES, "a slot and its ring header fill SLOT_BYTES");
_Static_assert(__builtin_offsetof(struct slot, request) == SLOT_HEAD_BYTES, "SLOT_HEAD_BYTES is the head");

/* Log-linear latency histogram: 8 buckets an octave of 1024 ns units, 12.5 % wide, up to 268 s. */
#define HISTOGRAM_BUCKETS 208

struct service_key {
	__u32 pid;
	__u16 port;              /* the server's port; 0 for Unix sockets */
	__u8 role;
	__u8 transport;
};

struct service_info {
	__u32 index;
	char comm[16];
};

/*
 * Golden signals of one service: every finished turn, whether or not the ring had room for its slot. Bytes are all that
 * its sockets moved until then, those of continued turns and of servers that speak first too.
 */
struct service_signals {
	__u64 turns;
	__u64 duration_ns UNIT("ns");
	__u64 lost;
	__u64 request_bytes UNIT("By");
	__u64 response_bytes UNIT("By");
	__u32 turns_histogram[HISTOGRAM_BUCKETS];
	__u32 lost_histogram[HISTOGRAM_BUCKETS];
};

/* Everything that went wrong or was skipped, by reason; summed over CPUs by user space. */
struct counters {
	__u64 lost_ring_full;        /* turns that found the ring full */
	__u64 lost_event_ring_full;  /* open turns and connection events that found the ring full */
	__u64 lost_no_memory;        /* connections whose state could not be allocated */
	__u64 lost_service_full;     /* turns counted under the overflow service */
	__u64 payload_missing;       /* I/O whose bytes could not be read */
	__u64 unshown;               /* turns of UDP sockets with very many of them, left out on purpose */
};

/* Written by both sides, without locks. */
struct shared {
	__u64 hash_key;          /* secret, odd: nobody can send two texts that are taken for one */
	__u32 own_pid;           /* the agent's process as the kernel numbers it: never watched */
	/* Set by any I/O that leaves a turn unfinished, cleared before a sweep: an idle host is not swept. */
	__u32 unfinished_tcp;
	__u32 unfinished_other;
	__u32 adopting;          /* the listeners are found: now the roles of older connections can be told */
	__u32 splicing;          /* a process reads a TCP socket with splice(): on_splice() is needed */
	__u32 jiffy_ns;
	__u32 asks_several;      /* a client asks several servers over one socket: on_drop() is needed */
	__u32 watching;          /* it is attached */
};

#endif
