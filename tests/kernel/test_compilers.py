"""What a compiler of another version makes of the BPF programs: users have that of their distribution."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.gateway import pins
from masdeepflow.gateway.kernel import Gateway
from masdeepflow.kernel.layout import committed
from masdeepflow.kernel.probes import SLOT_SIZES, Probes
from masdeepflow.schema import Role
from tests.support.stage import RING_BYTES, Stage, read

if TYPE_CHECKING:
    import socket

pytestmark = pytest.mark.root

_BPF = Path(__file__).parents[2] / "bpf"
_OLDEST, _NEWEST = 15, 40  # 14 makes the objects of all other tests on Debian 12 and Ubuntu 22.04


def _newest_clang() -> str:
    for version in range(_NEWEST, _OLDEST - 1, -1):
        if found := shutil.which(f"clang-{version}"):
            return found
    pytest.fail("there is no clang-VERSION beside the machine's own: ./test.sh installs one")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the objects lie that the newest clang here has made, without a warning."""
    directory = tmp_path_factory.mktemp("compiled")
    command = ["make", "--silent", "-j2", "-C", str(_BPF), f"OUT={directory}", f"CLANG={_newest_clang()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def agents_own(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the agent take those objects for its own."""
    name = "masdeepflow.kernel.probes.object_path"
    monkeypatch.setattr(name, lambda slot_bytes: compiled / f"agent-{slot_bytes}.bpf.o")


@pytest.mark.usefixtures("agents_own")
@pytest.mark.parametrize("slot_bytes", SLOT_SIZES)
def test_the_kernel_takes_the_agent(slot_bytes: int) -> None:
    """Each slot size passes the verifier, and attaches."""
    with Probes(slot_bytes, 1 << 20) as probes:
        assert probes.ring.capacity == (1 << 20) // slot_bytes


@pytest.mark.usefixtures("agents_own")
def test_the_agent_sees_the_same() -> None:
    """A request and its response are one turn at either end, in the committed layout."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        read(sock, 6)

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        sock.sendall(b"answer")

    with Probes(ring_bytes=RING_BYTES) as probes, Stage(probes) as stage:
        assert probes.layout.structs == committed().structs
        stage.exchange(client, server)
        for role in (Role.CLIENT, Role.SERVER):
            turn = stage.turn(role)
            assert (turn.request, turn.response) == (b"question", b"answer")


def test_the_kernel_takes_the_gateway(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its object passes the verifier, and attaches."""
    root = pins.cgroup_root()
    assert root is not None
    monkeypatch.setattr("masdeepflow.gateway.kernel.object_path", lambda: compiled / "gateway.bpf.o")
    with Gateway([], root, kept=False) as gateway:
        assert gateway.members() == 0
