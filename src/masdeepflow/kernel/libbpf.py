"""A thin binding of the few libbpf functions that are used; every handle kept is a plain file descriptor.

Works with libbpf 0.5 (Ubuntu 22.04) and later. Source: libbpf's bpf.h and libbpf.h.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "BpfError",
    "BpfObject",
    "attach_cgroup",
    "attach_iterator",
    "attach_messages",
    "attach_tracepoint",
    "delete",
    "keys",
    "lookup",
    "open_pinned",
    "pin",
    "possible_cpus",
    "push",
    "run_iterator",
    "update",
]

EGRESS, SOCK_OPS, SET_SOCKET_OPTION = 1, 3, 22
"""Where `attach_cgroup` attaches: enum bpf_attach_type."""
_BPF_SK_MSG_VERDICT = 7

_BPF_TRACE_ITER = 28  # enum bpf_attach_type
_LIBBPF_STRICT_ALL = 0xFFFFFFFF


class BpfError(OSError):
    """A call into libbpf or the kernel's BPF failed; `errno` says why.

    ELIBACC: there is no libbpf. ENOEXEC: the object file is damaged, or of another version of this package.
    """

    def __init__(self, code: int, what: str) -> None:
        super().__init__(code, f"{what}: {os.strerror(code)}")


class _LinkCreateOpts(c.Structure):
    _fields_ = (
        ("sz", c.c_size_t),
        ("flags", c.c_uint32),
        ("iter_info", c.c_void_p),
        ("iter_info_len", c.c_uint32),
        ("target_btf_id", c.c_uint32),
    )


_PrintFunction = c.CFUNCTYPE(c.c_int, c.c_int, c.c_char_p, c.c_void_p)


def _load() -> c.CDLL:
    for name in ("libbpf.so.1", "libbpf.so.0"):
        with contextlib.suppress(OSError):
            return c.CDLL(name, use_errno=True)
    raise BpfError(errno.ELIBACC, "libbpf.so.1 can't be loaded")


class _Library:
    """libbpf with the signatures that are used, loaded on first use: replay needs none of it."""

    _loaded: c.CDLL | None = None

    def __call__(self) -> c.CDLL:
        if self._loaded is None:
            self._loaded = self._prepare(_load())
        return self._loaded

    def _prepare(self, lib: c.CDLL) -> c.CDLL:
        pointers = ("bpf_object__open_file", "bpf_object__btf", "bpf_object__find_map_by_name")
        for name in (*pointers, "bpf_object__find_program_by_name", "btf__raw_data", "btf__get_raw_data"):
            with contextlib.suppress(AttributeError):
                getattr(lib, name).restype = c.c_void_p
        lib.libbpf_set_strict_mode(_LIBBPF_STRICT_ALL)
        # libbpf's messages go through va_list, which ctypes can't read: errors are told from errno instead.
        self._silence = _PrintFunction(lambda _level, _format, _arguments: 0)
        lib.libbpf_set_print(self._silence)
        return lib


_lib = _Library()


def _check(result: int, what: str) -> int:
    if result < 0:
        raise BpfError(-result if result != -1 else c.get_errno(), what)
    return result


class BpfObject:
    """A compiled object: open, adjust, `load`, take descriptors, `close`.

    The descriptors taken with `map_fd` and `program_fd` are duplicates that outlive `close`, which gives back
    the several MiB that libbpf holds.
    """

    def __init__(self, path: Path) -> None:
        self._object: int | None = _lib().bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise BpfError(errno.ENOEXEC, f"{path} is not a BPF object")

    def _handle(self) -> c.c_void_p:
        return c.c_void_p(self._object)

    def btf(self) -> bytes:
        """Return the object's raw BTF."""
        lib, size = _lib(), c.c_uint32()
        raw_data = lib.btf__raw_data if hasattr(lib, "btf__raw_data") else lib.btf__get_raw_data
        pointer = raw_data(c.c_void_p(lib.bpf_object__btf(self._handle())), c.byref(size))
        return c.string_at(pointer, size.value)

    def _map(self, name: str) -> c.c_void_p:
        found = _lib().bpf_object__find_map_by_name(self._handle(), name.encode())
        if not found:
            raise BpfError(errno.ENOEXEC, f"the BPF object has no map {name}")
        return c.c_void_p(found)

    def _program(self, name: str) -> c.c_void_p:
        found = _lib().bpf_object__find_program_by_name(self._handle(), name.encode())
        if not found:
            raise BpfError(errno.ENOEXEC, f"the BPF object has no program {name}")
        return c.c_void_p(found)

    def set_max_entries(self, name: str, entries: int) -> None:
        """Size the map `name`; before `load` only."""
        _check(
            _lib().bpf_map__set_max_entries(self._map(name), c.c_uint32(entries)), f"sizing the map {name}"
        )

    def skip_program(self, name: str) -> None:
        """Leave the program `name` out of `load`."""
        _check(_lib().bpf_program__set_autoload(self._program(name), c.c_bool(0)), f"leaving out {name}")

    def load(self) -> None:
        """Relocate against this kernel's BTF and load. Raises BpfError with the kernel's errno."""
        _check(_lib().bpf_object__load(self._handle()), "the kernel refused the BPF programs")

    def map_fd(self, name: str) -> int:
        """Return a descriptor of the loaded map, the caller's to close."""
        return os.dup(_check(_lib().bpf_map__fd(self._map(name)), f"the map {name}"))

    def program_fd(self, name: str) -> int:
        """Return a descriptor of the loaded program, the caller's to close."""
        return os.dup(_check(_lib().bpf_program__fd(self._program(name)), f"the program {name}"))

    def close(self) -> None:
        """Free libbpf's side."""
        if self._object:
            _lib().bpf_object__close(self._handle())
            self._object = None


def attach_tracepoint(program: int) -> int:
    """Attach a tp_btf program; return the link's descriptor. The kernel detaches when it is closed."""
    return _check(_lib().bpf_raw_tracepoint_open(None, program), "attaching a tracepoint")


def attach_iterator(program: int, map_fd: int | None = None) -> int:
    """Make a link of an iterator program, over the map `map_fd` for map iterators; return its descriptor."""
    info = (c.c_uint32 * 4)(map_fd or 0)  # union bpf_iter_link_info
    options = _LinkCreateOpts(sz=c.sizeof(_LinkCreateOpts))
    if map_fd is not None:
        options.iter_info = c.addressof(info)
        options.iter_info_len = 4
    return _check(
        _lib().bpf_link_create(program, 0, _BPF_TRACE_ITER, c.byref(options)), "attaching an iterator"
    )


def attach_cgroup(program: int, cgroup: int, where: int) -> int:
    """Attach a program to the cgroup v2 directory open as `cgroup`; return the link's descriptor."""
    return _check(_lib().bpf_link_create(program, cgroup, where, None), "attaching to a cgroup")


def attach_messages(program: int, map_fd: int) -> None:
    """Let an sk_msg program decide on what members of a SOCK_HASH send, for as long as the map has a user."""
    _check(
        _lib().bpf_prog_attach(program, map_fd, _BPF_SK_MSG_VERDICT, c.c_uint(0)), "attaching to a socket map"
    )


def pin(descriptor: int, path: Path) -> None:
    """Keep a map or a link alive under a name of a BPF file system. Raises BpfError."""
    _check(_lib().bpf_obj_pin(descriptor, str(path).encode()), f"pinning {path}")


def open_pinned(path: Path) -> int:
    """Return a descriptor of what is pinned there. Raises BpfError."""
    return _check(_lib().bpf_obj_get(str(path).encode()), f"opening {path}")


def run_iterator(link: int) -> bytes:
    """Run an iterator once over everything; return what it printed."""
    iterator = _check(_lib().bpf_iter_create(link), "running an iterator")
    try:
        out = b""
        while chunk := os.read(iterator, 4096):
            out += chunk
        return out
    finally:
        os.close(iterator)


def lookup(map_fd: int, key: bytes, size: int) -> bytes | None:
    """Return the `size` bytes at `key`, None if there is no such key."""
    value = c.create_string_buffer(size)
    if _lib().bpf_map_lookup_elem(map_fd, key, value) < 0:
        return None
    return value.raw


def keys(map_fd: int, size: int) -> Iterator[bytes]:
    """Iterate over a hash map's keys of `size` bytes; keys that change meanwhile may be missed."""
    following = c.create_string_buffer(size)
    previous: bytes | None = None
    while _lib().bpf_map_get_next_key(map_fd, previous, following) == 0:
        previous = following.raw
        yield previous


def delete(map_fd: int, key: bytes) -> bool:
    """Delete a key; return whether it was there."""
    return bool(_lib().bpf_map_delete_elem(map_fd, key) == 0)


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set the value at `key`. Raises BpfError if the map is full."""
    _check(_lib().bpf_map_update_elem(map_fd, key, value, c.c_uint64(0)), "updating a map")


def push(map_fd: int, value: bytes) -> None:
    """Push onto a queue map. Raises BpfError if it is full."""
    _check(_lib().bpf_map_update_elem(map_fd, None, value, c.c_uint64(0)), "pushing onto a queue")


def possible_cpus() -> int:
    """Return how many values a per-CPU map has."""
    return _check(_lib().libbpf_num_possible_cpus(), "counting CPUs")
