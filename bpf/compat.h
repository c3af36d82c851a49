/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Differences between architectures, in one place: how the arguments of a system call are found, one of another task too. */
#ifndef MASDEEPFLOW_COMPAT_H
#define MASDEEPFLOW_COMPAT_H

#if defined(__TARGET_ARCH_x86)
/* arch/x86/entry/syscalls/syscall_64.tbl */
enum {
	NR_read = 0, NR_write = 1, NR_readv = 19, NR_writev = 20, NR_sendto = 44, NR_recvfrom = 45, NR_sendmsg = 46,
	NR_recvmsg = 47, NR_splice = 275, NR_recvmmsg = 299, NR_sendmmsg = 307, NR_preadv2 = 327, NR_pwritev2 = 328,
};
#define TS_COMPAT 2 /* arch/x86/include/asm/thread_info.h: a 32-bit system call */

/* The entry code leaves -ENOSYS in ax until the call returns; anything else is task work after some other call. */
#define SYSCALL_NUMBER(task, regs) \
	((long)(regs)->ax == -ENOSYS && !((task)->thread_info.status & TS_COMPAT) ? (long)(regs)->orig_ax : -1)
#define SYSCALL_ARG1(regs) ((regs)->di)
#define SYSCALL_ARG2(regs) ((regs)->si)
#define SYSCALL_ARG3(regs) ((regs)->dx)
#define SYSCALL_ARG4(regs) ((regs)->r10)
#define SYSCALL_ARG5(regs) ((regs)->r8)
#define SLEEPER_CALL(regs) ((long)BPF_CORE_READ(regs, orig_ax))
#define SLEEPER_ARG3(regs) BPF_CORE_READ(regs, dx)
#define SLEEPER_ARG4(regs) BPF_CORE_READ(regs, r10)
#define STORE_RELEASE(pointer, value) (*(volatile __typeof__(*(pointer)) *)(pointer) = (value))

#elif defined(__TARGET_ARCH_arm64)
/* include/uapi/asm-generic/unistd.h */
enum {
	NR_read = 63, NR_write = 64, NR_readv = 65, NR_writev = 66, NR_splice = 76, NR_sendto = 206, NR_recvfrom = 207,
	NR_sendmsg = 211, NR_recvmsg = 212, NR_recvmmsg = 243, NR_sendmmsg = 269, NR_preadv2 = 286, NR_pwritev2 = 287,
};
/* The first argument's register takes the result: when it differs, this is task work behind the call. */
#define SYSCALL_NUMBER(task, regs) ((regs)->regs[0] == (regs)->orig_x0 ? (long)(regs)->syscallno : -1)
#define SYSCALL_ARG1(regs) ((regs)->orig_x0)
#define SYSCALL_ARG2(regs) ((regs)->regs[1])
#define SYSCALL_ARG3(regs) ((regs)->regs[2])
#define SYSCALL_ARG4(regs) ((regs)->regs[3])
#define SYSCALL_ARG5(regs) ((regs)->regs[4])
#define SLEEPER_CALL(regs) ((long)BPF_CORE_READ(regs, syscallno))
#define SLEEPER_ARG3(regs) BPF_CORE_READ(regs, regs[2])
#define SLEEPER_ARG4(regs) BPF_CORE_READ(regs, regs[3])
#define STORE_RELEASE(pointer, value) ((void)__sync_lock_test_and_set(pointer, value))
#endif

/* Helpers younger than libbpf 0.5's headers (Ubuntu 22.04), by number: include/uapi/linux/bpf.h. */
static long (*const task_pt_regs)(struct task_struct *task) = (void *)175;    /* 5.15 */
static void *(*const skc_to_unix_sock)(void *sk) = (void *)178;               /* 5.16 */

#endif
