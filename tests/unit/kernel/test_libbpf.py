"""The libbpf binding as far as it goes without loading anything: objects, errors, and no library at all."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel import libbpf, probes
from masdeepflow.kernel.libbpf import BpfError, BpfObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def opened() -> Iterator[BpfObject]:
    """Give the compiled object, opened and not loaded."""
    path = probes.object_path(512)
    if not path.exists():
        pytest.skip(f"{path} is not there: compile it with make -C bpf")
    opened = BpfObject(path)
    yield opened
    opened.close()


def test_object_carries_its_btf(opened: BpfObject) -> None:
    """The BTF comes as the compiler wrote it, magic number first."""
    assert opened.btf()[:2] == b"\x9f\xeb"


def test_object_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The error names the file, and its errno is the one that asks to compile again."""
    with pytest.raises(BpfError, match=r"gone\.o is not a BPF object") as caught:
        BpfObject(tmp_path / "gone.o")
    assert caught.value.errno == errno.ENOEXEC


@pytest.mark.parametrize("content", [b"", b"not ELF", b"\x7fELF" + bytes(200)])
def test_file_that_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    """A half-written or foreign file is an error, not a crash."""
    path = tmp_path / "bad.o"
    path.write_bytes(content)
    with pytest.raises(BpfError) as caught:
        BpfObject(path)
    assert caught.value.errno == errno.ENOEXEC


def test_names_that_the_object_lacks_are_told(opened: BpfObject) -> None:
    """An object of another version lacks a map or a program: that is said, with its name."""
    with pytest.raises(BpfError, match="no map nothing"):
        opened.set_max_entries("nothing", 1)
    with pytest.raises(BpfError, match="no program nothing"):
        opened.skip_program("nothing")


def test_descriptors_need_a_loaded_object(opened: BpfObject) -> None:
    """Before `load` there is nothing to take a descriptor of."""
    with pytest.raises(BpfError, match="the map ring"):
        opened.map_fd("ring")
    with pytest.raises(BpfError, match="the program on_send"):
        opened.program_fd("on_send")


def test_object_is_adjusted_before_it_is_loaded(opened: BpfObject) -> None:
    """Sizes are set and programs left out by name; closing twice is harmless."""
    opened.set_max_entries("ring", 1 << 20)
    opened.skip_program("on_data_ready")
    opened.close()
    opened.close()


def test_error_says_what_failed_and_why() -> None:
    """The sentence goes to the user as it is."""
    error = BpfError(errno.EPERM, "attaching a tracepoint")
    assert error.strerror == "attaching a tracepoint: Operation not permitted"
    assert error.errno == errno.EPERM


@pytest.mark.parametrize(("result", "code"), [(-errno.EINVAL, errno.EINVAL), (-1, errno.EBUSY)])
def test_negative_results_are_errors(result: int, code: int) -> None:
    """Functions return the negative errno, those that return -1 leave it in errno."""
    ctypes.set_errno(errno.EBUSY)
    with pytest.raises(BpfError) as caught:
        libbpf._check(result, "a call")
    assert caught.value.errno == code
    assert libbpf._check(3, "a call") == 3


def test_calls_on_no_descriptor_fail() -> None:
    """The kernel's refusal comes back as an error, or as nothing where nothing is an answer."""
    with open(os.devnull) as null:  # noqa: PTH123  # its descriptor is what matters
        fd = null.fileno()
        for call in (libbpf.attach_tracepoint, libbpf.attach_iterator, libbpf.run_iterator):
            with pytest.raises(BpfError):
                call(fd)
        with pytest.raises(BpfError):
            libbpf.push(fd, bytes(4))
        assert libbpf.lookup(fd, bytes(4), 8) is None
        assert list(libbpf.keys(fd, 4)) == []
        assert not libbpf.delete(fd, bytes(4))


def test_cpus_are_counted() -> None:
    """Per-CPU maps have a value for each CPU that may ever be there, at least for those there are."""
    assert libbpf.possible_cpus() >= (os.cpu_count() or 1)


def test_missing_library_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libbpf the errno is one of its own, so that nobody looks for an older kernel's fault."""

    def refuse(_name: str, **_options: object) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(BpfError, match=r"libbpf\.so\.1 can't be loaded") as caught:
        libbpf._load()
    assert caught.value.errno == errno.ELIBACC
