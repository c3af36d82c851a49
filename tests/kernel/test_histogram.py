"""The histogram of bpf/ring.h, compiled for this machine, against its plainest form and user space."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.sinks import latency
from tests.support.histogram import BUCKETS, bucket

if TYPE_CHECKING:
    from collections.abc import Callable

BPF = Path(__file__).resolve().parents[2] / "bpf"
# Stand-ins for what only the BPF target has, so that the header compiles as it is.
SOURCE = """
typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32;
typedef unsigned long long __u64; typedef int __s32; typedef _Bool bool;
#define NULL ((void *)0)
#define true 1
#define false 0
#define SEC(name)
#define __uint(name, value) int (*name)[value]
#define __type(name, value) __typeof__(value) *name
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
enum { BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY };
enum { BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_RINGBUF };
enum { BPF_ANY, BPF_NOEXIST, BPF_RB_NO_WAKEUP };
static void *(*bpf_map_lookup_elem)(void *, const void *);
static long (*bpf_map_update_elem)(void *, const void *, const void *, __u64);
static long (*bpf_map_push_elem)(void *, const void *, __u64);
static long (*bpf_map_pop_elem)(void *, void *);
static long (*bpf_ringbuf_output)(void *, void *, __u64, __u64);
#include "wire.h"
#include "ring.h"
__u32 bucket(__u64 duration_ns) { return histogram_bucket(duration_ns); }
"""


@pytest.fixture(scope="module")
def kernel_bucket(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], int]:
    """Return the kernel's function, compiled for this machine."""
    compiler = shutil.which("clang") or shutil.which("gcc") or shutil.which("cc")
    assert compiler, "a C compiler is needed: run it with sudo ./test.sh"
    directory = tmp_path_factory.mktemp("histogram")
    source, library = directory / "histogram.c", directory / "histogram.so"
    source.write_text(SOURCE, encoding="ascii")
    command = [compiler, "-O2", "-w", "-shared", "-fPIC", f"-I{BPF}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).bucket
    function.argtypes, function.restype = [ctypes.c_uint64], ctypes.c_uint32
    return lambda duration_ns: int(function(duration_ns))


# Durations of every size alike, and the edges of every power of two.
durations = st.one_of(
    st.integers(0, 64).flatmap(lambda bits: st.integers(0, (1 << bits) - 1 if bits else 0)),
    st.builds(lambda bits, off: max((1 << bits) + off, 0), st.integers(0, 63), st.integers(-2, 2)),
)


@given(durations)
def test_the_kernels_bucket_is_the_plain_one(kernel_bucket: Callable[[int], int], duration_ns: int) -> None:
    """For every duration there is."""
    assert kernel_bucket(duration_ns) == bucket(duration_ns) < BUCKETS


def test_every_edge_is_where_it_should_be(kernel_bucket: Callable[[int], int]) -> None:
    """The first duration of each bucket, as user space has it, is the kernel's, and the one before is not."""
    edges = latency._KERNEL_BOUNDS.astype(np.int64).tolist()
    assert len(edges) == BUCKETS + 1
    for number, edge in enumerate(edges[:-1]):
        assert kernel_bucket(edge) == bucket(edge) == number
        assert number == 0 or kernel_bucket(edge - 1) == number - 1
