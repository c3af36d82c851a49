"""Mount points as the kernel tells them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from masdeepflow.gateway import pins

MOUNTS = """\
24 1 0:22 / / rw - ext4 /dev/vda rw
30 24 0:26 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw
31 24 0:27 / /sys/fs/my\\040bpf rw,relatime - bpf bpf rw
"""


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that is read as /proc/self/mountinfo."""
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    monkeypatch.setattr(pins, "_MOUNTS", path)
    return path


def test_the_cgroup_tree_is_where_it_is_mounted(mounted: Path) -> None:
    """Hybrid hosts have it beside version 1; some have none."""
    assert pins.cgroup_root() == Path("/sys/fs/cgroup/unified")
    mounted.write_text(MOUNTS.splitlines()[0])
    assert pins.cgroup_root() is None


def test_without_a_bpf_file_system_nothing_can_be_kept(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is mounted where that is allowed; where it is not, the answer is no, without an error."""
    tried: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: tried.append(command))
    assert not pins.writable()
    assert tried == [["mount", "-t", "bpf", "bpf", str(pins.ROOT)]]
    assert mounted.exists()


def test_directories_of_gateways_are_found_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else that is pinned there is touched."""
    monkeypatch.setattr(pins, "ROOT", tmp_path)
    ours = tmp_path / "masdeepflow-gateway-7"
    other = tmp_path / "somebody-else"
    for directory in (ours, other):
        directory.mkdir()
        (directory / "map").touch()
    assert pins.directories() == [ours]
    pins.remove(ours)
    pins.remove(ours)
    assert pins.directories() == []
    assert (other / "map").exists()
