"""When CPUs are kept awake, by what, and what is told of it."""

from __future__ import annotations

import math
import os
import signal
import struct
import time
from pathlib import Path

import pytest

from masdeepflow.gateway import awake
from masdeepflow.gateway.awake import QUIET_S, CannotError, PowerQos, Spinners, Wakefulness
from tests.support.programs import until

RELEASED = struct.pack("i", 2_000_000_000)


class FakeGateway:
    """The three calls of a gateway that matter here."""

    def __init__(self) -> None:
        self.flows = False
        self.asked = 0
        self.told: list[tuple[int, int, int]] = []

    def flowed(self) -> bool:
        """Return and clear, as the kernel's flag."""
        flowed, self.flows = self.flows, False
        return flowed

    def tell_of_flow(self) -> None:
        """Count how often it was asked for."""
        self.asked += 1

    def note_awake(self, now: int, held_ns: int, cpu_ns: int) -> None:
        """Keep what `status` would show."""
        self.told.append((now, held_ns, cpu_ns))


class FakeKeeper:
    """A keeper of two CPUs that takes a second each time."""

    cpus = 2

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold(self) -> None:
        """Keep the call."""
        self.calls.append("hold")

    def let_go(self) -> None:
        """Likewise."""
        self.calls.append("let go")

    def spent_ns(self) -> int:
        """Return what was taken."""
        return self.calls.count("let go") * 10**9

    def close(self) -> None:
        """Likewise."""
        self.calls.append("close")


class Clock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Yield the clock that `awake` reads."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def _made() -> tuple[FakeGateway, FakeKeeper, Wakefulness]:
    gateway, keeper = FakeGateway(), FakeKeeper()
    return gateway, keeper, Wakefulness(gateway, keeper)  # type: ignore[arg-type]  # stands for a Gateway


def test_without_bytes_nothing_is_kept_awake(clock: Clock) -> None:
    """There is nothing to do until the kernel tells that bytes flow."""
    gateway, keeper, wakefulness = _made()
    assert gateway.asked == 1
    assert wakefulness.tend() == math.inf
    clock.now += 10
    assert wakefulness.tend() == math.inf
    assert keeper.calls == []
    assert gateway.told[-1] == (0, 0, 0)


def test_cpus_are_kept_awake_while_bytes_flow(clock: Clock) -> None:
    """One hold for as long as each look finds bytes; in between it does not look."""
    gateway, keeper, wakefulness = _made()
    for _ in range(5):
        gateway.flows = True
        assert wakefulness.tend() == QUIET_S
        clock.now += QUIET_S / 2
        gateway.flows = True
        assert wakefulness.tend() == pytest.approx(QUIET_S / 2)
        assert gateway.flows
        clock.now += QUIET_S / 2
    assert keeper.calls == ["hold"]
    assert gateway.told[0][0] == 2


def test_they_may_halt_when_a_look_finds_none(clock: Clock) -> None:
    """The kernel is asked to tell first, then there is another look at once: no bytes are missed."""
    gateway, keeper, wakefulness = _made()
    gateway.flows, start = True, clock.now
    wakefulness.tend()
    clock.now += QUIET_S
    assert wakefulness.tend() == 0
    assert (keeper.calls, gateway.asked) == (["hold", "let go"], 2)
    assert wakefulness.tend() == math.inf
    assert gateway.told[-1] == (0, int((clock.now - start) * 1e9), 10**9)
    gateway.flows = True
    assert wakefulness.tend() == QUIET_S
    assert keeper.calls == ["hold", "let go", "hold"]


def test_the_end_lets_them_halt(clock: Clock) -> None:
    """And tells the sums once more."""
    gateway, keeper, wakefulness = _made()
    gateway.flows = True
    wakefulness.tend()
    clock.now += 1
    wakefulness.close()
    assert keeper.calls == ["hold", "let go", "close"]
    assert gateway.told[-1] == (0, 10**9, 10**9)


def test_the_first_way_that_works_is_taken() -> None:
    """Where none does, all reasons are told."""

    def fails() -> FakeKeeper:
        raise CannotError("no driver")

    assert isinstance(awake.find([fails, FakeKeeper]), FakeKeeper)
    with pytest.raises(CannotError, match="no driver; no driver"):
        awake.find([fails, fails])


def _idle_states(root: Path, *names: str) -> None:
    for cpu in range(2):
        for number, name in enumerate(names):
            state = root / f"cpu{cpu}" / "cpuidle" / f"state{number}"
            state.mkdir(parents=True)
            (state / "name").write_text(name + "\n")
            (state / "time").write_text("1000\n")


def test_an_idle_driver_is_asked_for_no_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while CPUs are held; what they polled meanwhile is what it took."""
    _idle_states(tmp_path, "POLL", "C1")
    device = tmp_path / "device"
    device.touch()
    monkeypatch.setattr(awake, "_CPUS", tmp_path)
    monkeypatch.setattr(awake, "_DEVICE", device)
    keeper = PowerQos()
    assert (keeper.cpus, keeper.spent_ns()) == (2, 0)
    keeper.hold()
    for path in tmp_path.glob("cpu*/cpuidle/state0/time"):
        path.write_text("1500\n")
    assert keeper.spent_ns() == 1_000_000
    keeper.let_go()
    assert device.read_bytes() == bytes(4) + RELEASED
    for path in tmp_path.glob("cpu*/cpuidle/state0/time"):
        path.write_text("9000\n")
    assert keeper.spent_ns() == 1_000_000
    keeper.close()


@pytest.mark.parametrize("names", [(), ("WFI", "cpu-sleep")])
def test_an_idle_driver_that_never_polls_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """As most virtual machines have it."""
    _idle_states(tmp_path, *names)
    monkeypatch.setattr(awake, "_CPUS", tmp_path)
    with pytest.raises(CannotError, match="no idle driver with a polling state"):
        PowerQos()


def test_a_device_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may not have it."""
    _idle_states(tmp_path, "POLL")
    monkeypatch.setattr(awake, "_CPUS", tmp_path)
    monkeypatch.setattr(awake, "_DEVICE", tmp_path / "missing")
    with pytest.raises(CannotError, match="missing: No such file"):
        PowerQos()


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Yield a directory that stands for the tree of cgroups."""
    monkeypatch.setattr(awake, "_cpu_cgroups", lambda: tmp_path)
    return tmp_path


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_spinners_run_where_this_process_may_and_stop_when_told(cgroups: Path) -> None:
    """With idle priority, in a cgroup of idle weight, that goes with them."""
    keeper = Spinners()
    assert keeper.cpus == len(os.sched_getaffinity(0))
    assert keeper.spent_ns() == 0
    keeper.hold()
    (made,) = cgroups.glob("masdeepflow-awake-*")
    assert (made / "cpu.idle").read_text() == "1"
    pid = int((made / "cgroup.procs").read_text())
    try:
        until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
        until(lambda: keeper.spent_ns() > 50_000_000)
        keeper.let_go()
        until(lambda: _state(pid) == "T")
        until(lambda: all(_state(int(task.name)) == "T" for task in Path(f"/proc/{pid}/task").iterdir()))
        before = keeper.spent_ns()
        time.sleep(0.1)
        assert keeper.spent_ns() == before
        keeper.hold()
        until(lambda: keeper.spent_ns() > before)
    finally:
        for file in made.iterdir():
            file.unlink()
        keeper.close()
    assert not made.exists()
    assert keeper.spent_ns() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_spinners_die_with_their_parent(cgroups: Path) -> None:
    """However it ends."""
    child = os.fork()
    if not child:
        try:
            Spinners().hold()
            signal.pause()
        finally:
            os._exit(1)
    procs = until(lambda: list(cgroups.glob("*/cgroup.procs")))[0]
    pid = int(until(procs.read_text))
    until(lambda: os.sched_getscheduler(pid) == os.SCHED_IDLE)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until(lambda: _gone(pid))


def _gone(pid: int) -> bool:
    try:
        return _state(pid) == "Z"
    except FileNotFoundError:
        return True


def test_cgroups_that_were_left_are_removed(cgroups: Path) -> None:
    """Those of gateways that were killed."""
    (cgroups / "masdeepflow-awake-1").mkdir()
    Spinners()
    assert [path.name for path in cgroups.iterdir()] == [f"masdeepflow-awake-{os.getpid()}"]


def test_without_a_cgroup_of_idle_weight_nothing_spins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take time from others."""
    monkeypatch.setattr(awake, "_cpu_cgroups", lambda: tmp_path / "missing")
    with pytest.raises(CannotError, match="no cgroup of idle weight"):
        Spinners()
    monkeypatch.setattr(awake, "_cpu_cgroups", lambda: None)
    with pytest.raises(CannotError, match="no cgroup with the cpu controller"):
        Spinners()


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("30 20 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n", "/sys/fs/cgroup/cpu"),
        ("30 20 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", None),
        ("30 20 0:1 / {} rw - cgroup2 cgroup2 rw\n", "here"),
        ("30 20 0:1 / / rw - ext4 /dev/vda rw\n", None),
    ],
)
def test_cgroups_that_share_out_cpu_time_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, found: str | None
) -> None:
    """Of version 1 by the mount's options, of version 2 by what the top hands on."""
    (tmp_path / "cgroup.subtree_control").write_text("cpuset cpu io\n")
    (tmp_path / "mountinfo").write_text(mounts.format(tmp_path))
    monkeypatch.setattr(awake, "_CGROUP_MOUNTS", tmp_path / "mountinfo")
    top = awake._cpu_cgroups()
    assert (None if top is None else str(top)) == (str(tmp_path) if found == "here" else found)
