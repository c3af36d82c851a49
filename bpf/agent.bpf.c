// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* The agent's kernel side: an include list. Mechanism first, hooks last. */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "compat.h"
#include "wire.h"

#include "ring.h"
#include "turn.h"
#include "connection.h"
#include "datagram.h"

#include "hooks/departure.h"
#include "hooks/socket.h"
#include "hooks/state.h"
#include "hooks/unheard.h"
#include "hooks/process.h"
#include "hooks/sweep.h"

/* Keeps the structs that only user space reads in the BTF. */
const struct slot *const wire_slot SEC(".rodata.wire") = NULL;
const struct service_key *const wire_key SEC(".rodata.wire") = NULL;
const enum slot_kind wire_kind SEC(".rodata.wire") = 0;
const enum slot_role wire_role SEC(".rodata.wire") = 0;
const enum slot_transport wire_transport SEC(".rodata.wire") = 0;
const enum slot_flag wire_flag SEC(".rodata.wire") = 0;

char LICENSE[] SEC("license") = "GPL";
