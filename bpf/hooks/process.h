/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Who a process is, told when it starts: one that lives for milliseconds is named all the same, and the order of the
 * ring tells which process had a PID when.
 */
#ifndef MASDEEPFLOW_HOOKS_PROCESS_H
#define MASDEEPFLOW_HOOKS_PROCESS_H

#define MAX_VARIABLES 256
#define VARIABLE_BYTES 64
#define SERVICE_VARIABLE_BYTES 18 /* of OTEL_SERVICE_NAME= */

static __always_inline struct slot *reserve_slot(__u8 kind, struct task_struct *task)
{
	struct slot *s = bpf_ringbuf_reserve(&ring, sizeof(*s), 0);
	if (!s) {
		COUNT(lost_event_ring_full);
		return NULL;
	}
	__builtin_memset(s, 0, SLOT_HEAD_BYTES);
	s->request[0] = s->request[CGROUP_BYTES] = s->response[0] = s->response[EXECUTABLE_BYTES] = 0;
	s->kind = kind;
	s->pid = task->tgid;
	s->request_first_ns = bpf_ktime_get_ns();
	bpf_probe_read_kernel(s->comm, sizeof(s->comm), task->comm);
	return s;
}

/*
 * Where version 1 controllers have trees of their own, runtimes place containers in those; version 2's tree may hold
 * only what systemd made.
 */
static __always_inline struct cgroup *cgroup_of(struct task_struct *task)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup *unified = BPF_CORE_READ(set, dfl_cgrp), *own;
	__u32 id = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id) || id >= 32)
		return unified;
	own = BPF_CORE_READ(set, subsys[id], cgroup);
	if (!own || BPF_CORE_READ(own, root) == BPF_CORE_READ(unified, root) || !BPF_CORE_READ(own, level))
		return unified;
	return own;
}

static __always_inline void read_cgroup_name(__u8 *to, __u32 room, struct cgroup *cgroup)
{
	if (BPF_CORE_READ(cgroup, level) > 0)
		bpf_probe_read_kernel_str(to, room, BPF_CORE_READ(cgroup, kn, name));
}

/* The last three names of the path: that of the container, its pod's, and what they lie in. */
static __always_inline void write_cgroup(struct task_struct *task)
{
	struct slot *s = reserve_slot(KIND_CGROUP, task);
	if (!s)
		return;
	struct cgroup *cgroup = cgroup_of(task), *parent = BPF_CORE_READ(cgroup, self.parent, cgroup);
	read_cgroup_name(s->request, CGROUP_BYTES, cgroup);
	read_cgroup_name(s->request + CGROUP_BYTES, REQUEST_BYTES - CGROUP_BYTES, parent);
	read_cgroup_name(s->response, RESPONSE_BYTES, BPF_CORE_READ(parent, self.parent, cgroup));
	bpf_ringbuf_submit(s, BPF_RB_NO_WAKEUP);
}

#define TEXT8(s) \
	((__u64)(s)[0] | (__u64)(s)[1] << 8 | (__u64)(s)[2] << 16 | (__u64)(s)[3] << 24 | (__u64)(s)[4] << 32 \
	 | (__u64)(s)[5] << 40 | (__u64)(s)[6] << 48 | (__u64)(s)[7] << 56)

/* A literal would need a section that libbpf 1.1 can't load. */
static __always_inline bool is_service_name(const char *variable)
{
	return TEXT8(variable) == TEXT8("OTEL_SER") && TEXT8(variable + 8) == TEXT8("VICE_NAM") && variable[16] == 'E'
	       && variable[17] == '=';
}

/* Copy the value of OTEL_SERVICE_NAME, if the new program's environment has it. */
static __always_inline void read_service_name(__u8 *to, __u32 room, struct mm_struct *mm)
{
	__u64 at = BPF_CORE_READ(mm, env_start), end = BPF_CORE_READ(mm, env_end);
	bool inside = false;
	char start[VARIABLE_BYTES] __attribute__((aligned(8)));

	for (int i = 0; i < MAX_VARIABLES; i++) {
		if (at >= end)
			return;
		long length = bpf_probe_read_user_str(start, sizeof(start), (const void *)at);
		if (length <= 0)
			return;
		if (!inside && length > SERVICE_VARIABLE_BYTES && is_service_name(start)) {
			bpf_probe_read_user_str(to, room, (const void *)(at + SERVICE_VARIABLE_BYTES));
			return;
		}
		/* A longer one is stepped over in pieces; what is cut off counts as its end. */
		inside = length == sizeof(start);
		at += inside ? length - 1 : length;
	}
}

static __always_inline void write_exec(struct task_struct *task, struct linux_binprm *bprm)
{
	struct slot *s = reserve_slot(KIND_EXEC, task);
	if (!s)
		return;
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	__u64 start = BPF_CORE_READ(mm, arg_start);
	__u64 length = BPF_CORE_READ(mm, arg_end) - start;
	s->request_bytes = length;
	s->request_length = (__u16)smaller(length, REQUEST_BYTES);
	if (s->request_length <= REQUEST_BYTES
	    && bpf_probe_read_user(s->request, s->request_length, (const void *)start))
		s->request_length = 0;
	bpf_probe_read_kernel_str(s->response, EXECUTABLE_BYTES, BPF_CORE_READ(bprm, file, f_path.dentry, d_name.name));
	read_service_name(s->response + EXECUTABLE_BYTES, RESPONSE_BYTES - EXECUTABLE_BYTES, mm);
	s->tid = task->cred->uid.val;
	bpf_ringbuf_submit(s, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	write_cgroup(task);
	write_exec(task, bprm);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	if (child->pid != child->tgid) /* a thread */
		return 0;
	struct slot *s = reserve_slot(KIND_FORK, child);
	if (!s)
		return 0;
	s->tid = parent->tgid;
	bpf_ringbuf_submit(s, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
