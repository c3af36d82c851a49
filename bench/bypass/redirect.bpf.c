/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Redirection with nothing that makes it right: what no program of a socket hash can be faster than. */
#include "kernel.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "gateway_kernel.h"

#define SERVER (1 << 16)

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 64);
	__type(key, __u32); /* the client's port, with SERVER for the other end */
	__type(value, __u64);
} sockets SEC(".maps");

__u16 port;

SEC("sockops")
int redirect_connections(struct bpf_sock_ops *ops)
{
	__u32 remote = bpf_ntohl(ops->remote_port), local = ops->local_port, key;

	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && remote == port)
		key = local;
	else if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && local == port)
		key = remote | SERVER;
	else
		return 1;
	bpf_sock_hash_update(ops, &sockets, &key, BPF_ANY);
	return 1;
}

SEC("sk_msg")
int redirect_send(struct sk_msg_md *msg)
{
	__u32 remote = bpf_ntohl(msg->remote_port), local = msg->local_port;
	__u32 key = local == port ? remote : local | SERVER;

	return bpf_msg_redirect_hash(msg, &sockets, &key, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "GPL";
