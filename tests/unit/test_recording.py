"""Recordings: what is written reads back, and damage of any kind is told in a sentence."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masdeepflow import recording as module
from masdeepflow.enrich.facts import ContainerFact, PodFact, ProcessFact, ServiceFact, ServicePort, UsersFact
from masdeepflow.kernel.layout import committed, from_text, slot_dtype, to_text
from masdeepflow.recording import End, Frame, LostTurns, Moved, Recorder, Recording, RecordingError
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"masdeepflow recording 2\n"
HEAD = struct.Struct("<III")
LOST = LostTurns("nginx", "http", "server", 3, [0, 2, 1])
MOVED = Moved("shop", "nginx", 511, 2**40, 42, 80)
END = End({"ring_full": 3, "no_memory": 0}, [LOST], [MOVED])
FRAMES = [
    Frame(
        make_slots(turn(b"GET / HTTP/1.1\r\n"), turn(b"SELECT 1", cookie=2)),
        10**18,
        5,
        [
            ProcessFact(7, "curl", "curl", ("curl\\udce9", "-s"), 0, "shop", "0::/a.service"),
            UsersFact({0: "root"}),
            ContainerFact("c1", "web", "docker", "nginx:1", {"a": "b"}, "u1", "web-0", "shop"),
            PodFact(
                "u1",
                "web-0",
                "shop",
                "n",
                ("10.0.0.1",),
                owners=(("Deployment", "web"),),
                containers={"c1": "w"},
            ),
            ServiceFact("s1", "web", "shop", ("10.96.0.1",), (ServicePort(80, "tcp", 30080),), 1, 2),
        ],
    ),
    Frame(make_slots(), -5, -(2**63), []),
    Frame(make_slots(turn(b"x")), 10**18 + 1, 2**63 - 1, [], [LOST, LOST], [MOVED]),
]


def _write(path: Path, frames: list[Frame] = FRAMES, end: End = END) -> Path:
    recorder = Recorder(path, committed())
    for frame in frames:
        recorder.write(frame)
    recorder.close(end)
    assert recorder.error is None
    return path


def _frame(meta: Any, data: bytes = b"") -> bytes:  # noqa: ANN401  # whatever JSON can hold
    head = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    return HEAD.pack(len(head), len(data), zlib.crc32(data, zlib.crc32(head))) + head + data


def _plain(frames: list[Frame]) -> list[tuple[Any, ...]]:
    return [(f.slots.tobytes(), f.offset_ns, f.watermark_ns, f.facts, f.turns, f.moved) for f in frames]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Give a whole recording of three batches."""
    return _write(tmp_path / "whole.rec")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give the bytes of a whole recording."""
    return _write(tmp_path_factory.mktemp("recording") / "whole.rec").read_bytes()


def test_what_was_written_reads_back(whole: Path) -> None:
    """Slots, clocks, names and losses come back as they were, batch by batch, and the layout with them."""
    recording = Recording(whole)
    assert recording.layout == committed()
    assert recording.pod_labels == ()
    assert recording.end == END
    assert _plain(list(recording.frames())) == _plain(FRAMES)


def test_a_recording_of_nothing_is_whole(tmp_path: Path) -> None:
    """An idle host has no batches."""
    recording = Recording(_write(tmp_path / "empty.rec", [], End({})))
    assert list(recording.frames()) == []
    assert recording.end == End({})


def test_slots_of_other_sizes_are_read_by_their_own_layout(tmp_path: Path) -> None:
    """A recording made with a larger `--payload-bytes` brings the layout that it needs."""
    layout = from_text(to_text(committed()).replace("208 request", "300 request").replace("504", "1016"))
    slots = np.zeros(2, slot_dtype(layout))
    slots["response"][1] = 7
    path = tmp_path / "large.rec"
    recorder = Recorder(path, layout)
    recorder.write(Frame(slots, 0, 0, []))
    recorder.close(End({}))
    assert next(iter(Recording(path).frames())).slots.tobytes() == slots.tobytes()


def test_batches_are_copied_when_they_are_written(tmp_path: Path) -> None:
    """The ring goes on while the writing thread is still busy."""
    slots = make_slots(turn(b"first"))
    path = tmp_path / "copy.rec"
    recorder = Recorder(path, committed())
    recorder.write(Frame(slots, 0, 0, []))
    slots["cookie"] = 99
    recorder.close(End({}))
    assert next(iter(Recording(path).frames())).slots["cookie"].tolist() == [1]


def test_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """Until then it has another: nothing half-written can be taken for a recording."""
    path = tmp_path / "new.rec"
    path.write_bytes(b"the one before")
    recorder = Recorder(path, committed())
    recorder.write(FRAMES[0])
    assert path.read_bytes() == b"the one before"
    assert (tmp_path / "new.rec.partial").exists()
    recorder.close(END)
    assert os.listdir(tmp_path) == ["new.rec"]  # noqa: PTH208  # names are all that counts
    assert Recording(path).end == END


def test_abandoned_recording_leaves_nothing(tmp_path: Path) -> None:
    """A run that never started has nothing to replay."""
    recorder = Recorder(tmp_path / "never.rec", committed())
    recorder.write(FRAMES[0])
    recorder.abandon()
    assert list(tmp_path.iterdir()) == []


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """It holds what others send and are sent: from its first byte on, whatever the umask."""
    path = tmp_path / "x.rec"
    path.touch(mode=0o644)
    before = os.umask(0)
    try:
        recorder = Recorder(path, committed())
    finally:
        os.umask(before)
    assert _mode(tmp_path / "x.rec.partial") == 0o600
    recorder.close(END)
    assert _mode(path) == 0o600


@pytest.mark.root
def test_it_belongs_to_whoever_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or he could not replay what he recorded."""
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65533")
    path = _write(tmp_path / "x.rec")
    assert (path.stat().st_uid, path.stat().st_gid, _mode(path)) == (65534, 65533, 0o600)


@pytest.mark.parametrize("uid", ["", "bob", "-1", "4294967295", "99999999999999999999", "\u0663"])
def test_nobody_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: str) -> None:
    """What is no user leaves the file where it is."""
    monkeypatch.setenv("SUDO_UID", uid)
    monkeypatch.setenv("SUDO_GID", "0")
    assert _write(tmp_path / "x.rec").stat().st_uid == os.geteuid()


def test_a_second_recording_to_the_same_file_is_refused(tmp_path: Path) -> None:
    """The first goes on and loses nothing."""
    path = tmp_path / "x.rec"
    first = Recorder(path, committed())
    for _ in range(2):
        with pytest.raises(OSError, match="another recording to it is under way"):
            Recorder(path, committed())
    for frame in FRAMES:
        first.write(frame)
    first.close(END)
    assert first.error is None
    assert _plain(list(Recording(path).frames())) == _plain(FRAMES)
    _write(path)


def test_two_that_start_at_once_do_not_both_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One takes the other's file, not locked yet, for an abandoned one: then the other is refused."""
    path, lock = tmp_path / "x.rec", module._lock
    others: list[Recorder] = []

    def late(fd: int) -> bool:
        monkeypatch.setattr(module, "_lock", lock)
        others.append(Recorder(path, committed()))
        return lock(fd)

    monkeypatch.setattr(module, "_lock", late)
    with pytest.raises(OSError, match="another recording to it is under way"):
        Recorder(path, committed())
    others[0].close(END)
    assert others[0].error is None
    assert Recording(path).end == END


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "fifo"])
def test_what_a_killed_agent_or_a_stranger_left_is_replaced(tmp_path: Path, kind: str) -> None:
    """Where a link leads, nothing is written."""
    left, target = tmp_path / "x.rec.partial", tmp_path / "target"
    target.write_text("theirs")
    if kind == "file":
        left.write_text("half")
    elif kind == "fifo":
        os.mkfifo(left)
    else:
        left.symlink_to(target if kind == "link" else "nowhere")
    assert Recording(_write(tmp_path / "x.rec")).end == END
    assert target.read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "x.rec"]


def test_file_systems_without_locks_are_recorded_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def refuse(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert Recording(_write(tmp_path / "x.rec")).end == END


@pytest.mark.parametrize("name", ["directory", "fifo", ".", "directory/.."])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    """To rename over /dev/null, or a directory, would break the host."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="not a regular file"):
        Recorder(tmp_path / name, committed())
    assert sorted(tmp_path.iterdir()) == before
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_directory_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    """Before anything is attached, not at the end of the run."""
    with pytest.raises(FileNotFoundError):
        Recorder(tmp_path / "gone" / "x.rec", committed())


_RECORD_ON_FULL_DISK = """
import os, resource, sys
from pathlib import Path
import numpy as np
from masdeepflow.kernel.layout import committed, slot_dtype
from masdeepflow.recording import End, Frame, Recorder

path, size = Path(sys.argv[1]), int(sys.argv[2])
recorder = Recorder(path, committed())
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
slots = np.frombuffer(os.urandom(512 * 100), slot_dtype(committed()))
for _ in range(5):
    recorder.write(Frame(slots, 0, 0, []))
recorder.close(End({}))
sys.exit(recorder.error.errno if recorder.error else 0)
"""


@pytest.mark.parametrize("size", [0, 10, 3000])
def test_full_disk_is_kept_as_the_error_and_nothing_stays(tmp_path: Path, size: int) -> None:
    """The agent reads it from `error`; what was written is removed, and an older recording left alone."""
    path = tmp_path / "full.rec"
    path.write_bytes(b"the one before")
    # A process of its own: the limit would hold for the test runner's output too.
    done = subprocess.run([sys.executable, "-c", _RECORD_ON_FULL_DISK, path, str(size)], check=False)
    assert done.returncode == errno.EFBIG
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"the one before"


def test_lack_of_memory_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writing thread that died without a word would let the agent wait for it forever."""

    def no_memory(*_arguments: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(zlib, "compress", no_memory)
    recorder = Recorder(tmp_path / "x.rec", committed())
    recorder.write(FRAMES[0])
    recorder.close(END)
    assert recorder.error is not None
    assert recorder.error.errno == errno.ENOMEM


def test_slow_disk_holds_the_agent_up_instead_of_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many bytes wait to be written; once there is room, writing goes on and all of it arrives."""
    monkeypatch.setattr(module, "_QUEUED_BYTES", 4 * 512)
    go = threading.Event()
    encode = module._encode
    monkeypatch.setattr(module, "_encode", lambda *item: go.wait() and encode(*item))
    path = tmp_path / "slow.rec"
    recorder = Recorder(path, committed())
    frame = Frame(make_slots(*[turn(b"x")] * 3), 0, 0, [])
    done = threading.Event()

    def write() -> None:
        for _ in range(3):
            recorder.write(frame)
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert not done.wait(0.2)
    assert recorder._queued_bytes <= 4 * 512
    go.set()
    assert done.wait(10)
    recorder.close(End({}))
    assert len(list(Recording(path).frames())) == 3


def test_batch_larger_than_the_queue_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit below a single batch does not block for good."""
    monkeypatch.setattr(module, "_QUEUED_BYTES", 1)
    assert len(list(Recording(_write(tmp_path / "x.rec")).frames())) == len(FRAMES)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_changed_byte_is_refused(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    """Wherever a bit flips, the reading ends with RecordingError before anything is given out."""
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.rec"
    path.write_bytes(damaged)
    with pytest.raises(RecordingError) as caught:
        Recording(path)
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_is_refused_and_partly_readable(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    """A recording that ends early is told as such; `partial` gives its whole batches and nothing more."""
    cut = data.draw(st.integers(0, len(content) - 1))
    path = tmp_path / "cut.rec"
    path.write_bytes(content[:cut])
    with pytest.raises(RecordingError):
        Recording(path)
    try:
        frames = list(Recording(path, partial=True).frames())
    except RecordingError:
        return  # not even the layout is there
    assert _plain(frames) == _plain(FRAMES[: len(frames)])


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_partial_reads_up_to_the_damage(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    """With `partial` damage is where the recording ends: every batch that comes is one that was written."""
    start = len(MAGIC) + len(_frame({"layout": to_text(committed())}))
    damaged = bytearray(content)
    for position in data.draw(st.lists(st.integers(start, len(content) - 1), min_size=1, max_size=3)):
        damaged[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.rec"
    path.write_bytes(damaged)
    frames = list(Recording(path, partial=True).frames())
    assert _plain(frames) == _plain(FRAMES[: len(frames)])


def test_cut_between_two_batches_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    """The usual cut, an agent that was killed, names the option that shows what there is."""
    path = tmp_path / "killed.rec"
    end = content.rindex(b'{"end"') - HEAD.size
    path.write_bytes(content[:end])
    with pytest.raises(RecordingError, match=r"ends before its recording does .*`--partial`"):
        Recording(path)
    recording = Recording(path, partial=True)
    assert _plain(list(recording.frames())) == _plain(FRAMES)
    assert recording.end is None


def test_whole_recording_reads_the_same_with_partial(whole: Path) -> None:
    """The option does no harm where it is not needed."""
    recording = Recording(whole, partial=True)
    assert recording.end == END
    assert _plain(list(recording.frames())) == _plain(FRAMES)


def test_what_follows_the_end_is_damage(whole: Path) -> None:
    """Two recordings in one file would silently lose the second."""
    whole.write_bytes(whole.read_bytes() * 2)
    with pytest.raises(RecordingError, match="goes on behind its end"):
        Recording(whole)


@pytest.mark.parametrize("data", [b"", b"masdeepflow", b"\x7fELF" + bytes(100), MAGIC[:-1]])
def test_other_files_are_no_recordings(tmp_path: Path, data: bytes) -> None:
    """Told by the first line."""
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match="is not a recording of masdeepflow"):
        Recording(path)


@pytest.mark.parametrize("lengths", [(2**32 - 1, 2**32 - 1), (2**31, 0), (0, 2**30)])
def test_wrong_lengths_cost_no_memory(tmp_path: Path, lengths: tuple[int, int]) -> None:
    """A length that the file can't hold is refused before room is made for it."""
    path = tmp_path / "long.rec"
    path.write_bytes(MAGIC + _frame({"layout": to_text(committed())}) + HEAD.pack(*lengths, 0) + bytes(50))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordingError):
        Recording(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_batches_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes may stand for gigabytes of zeros."""
    monkeypatch.setattr(module, "_BATCH_LIMIT", 100 * 512)
    path = tmp_path / "bomb.rec"
    batch = {"offset_ns": 0, "watermark_ns": 0, "facts": [], "turns": []}
    path.write_bytes(
        MAGIC + _frame({"layout": to_text(committed())}) + _frame(batch, zlib.compress(bytes(512 * 10_000)))
    )
    with pytest.raises(RecordingError, match="too large"):
        Recording(path)


def test_recordings_of_the_first_version_are_read(tmp_path: Path) -> None:
    """They name processes by executable and argv[0] only; those that were gone had neither."""
    batch = {
        "offset_ns": 1,
        "watermark_ns": 2,
        "processes": [[7, "curl", "curl", "/bin/curl"], [8, "sh", "dash", None], [9, "gone", None, None]],
        "turns": [["nginx", "http", "server", 1, [1], 7, 80]],
    }
    path = tmp_path / "first.rec"
    path.write_bytes(
        b"masdeepflow recording 1\n"
        + _frame({"layout": to_text(committed())})
        + _frame(batch)
        + _frame({"end": True, "lost": {}, "turns": []})
    )
    (frame,) = Recording(path).frames()
    assert frame.facts == [ProcessFact(7, "curl", "curl", ("/bin/curl",)), ProcessFact(8, "sh", "dash")]
    assert frame.turns == [LostTurns("nginx", "http", "server", 1, [1], 7, 80)]


BATCH = {"offset_ns": 0, "watermark_ns": 0, "facts": [], "turns": []}
FINISH = {"end": True, "lost": {}, "turns": []}


@pytest.mark.parametrize(
    "frame",
    [
        _frame({}),
        _frame([]),
        _frame(5),
        _frame(b"{"),
        _frame(b"\xff"),
        _frame(b"[" * 100_000),
        _frame({**BATCH, "offset_ns": "5"}),
        _frame({**BATCH, "offset_ns": 2**63}),
        _frame({**BATCH, "watermark_ns": None}),
        _frame({**BATCH, "processes": [[1, "a", None]]}),
        _frame({**BATCH, "facts": [{"type": "process", "pid": 1}]}),
        _frame({**BATCH, "facts": [{"type": "stranger"}]}),
        _frame({**BATCH, "facts": 5}),
        _frame({**BATCH, "processes": 5}),
        _frame({**BATCH, "turns": [["a", "b", "c", 1]]}),
        _frame({**BATCH, "moved": [["a", "b", 512, 1, 1, 1]]}),
        _frame({**BATCH, "moved": [["a", "b", -1, 1, 1, 1]]}),
        _frame(BATCH, b"no zlib"),
        _frame(BATCH, zlib.compress(bytes(512))[:-5]),
        _frame(BATCH, zlib.compress(bytes(511))),
        _frame({**FINISH, "lost": [1]}),
        _frame({**FINISH, "lost": {"ring_full": "many"}}),
        _frame({**FINISH, "turns": [["a", "b", "c", 1, ["x"]]]}),
        _frame({"end": True}),
    ],
)
def test_frames_with_a_right_checksum_are_looked_at_too(tmp_path: Path, frame: bytes) -> None:
    """Whoever wrote it: what is not a batch or an end of this format is refused, not stumbled over."""
    path = tmp_path / "odd.rec"
    path.write_bytes(MAGIC + _frame({"layout": to_text(committed())}) + frame + _frame(FINISH))
    with pytest.raises(RecordingError):
        Recording(path)


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        ({}, "damaged"),
        ({"layout": 5}, "damaged"),
        ({"layout": "struct slot x"}, "no readable layout"),
        ({"layout": ""}, "no readable layout"),
        ({"layout": to_text(committed()).replace("504", "-1")}, "no readable layout"),
        ({"layout": to_text(committed()).replace("struct slot 504", "struct slot 8")}, "no readable layout"),
        ({"layout": to_text(committed()).replace(" cookie", " biscuit")}, "another version"),
        ({"layout": to_text(committed()).replace("u4    0 pid", "u2    0 pid")}, "another version"),
    ],
)
def test_layouts_that_this_version_can_not_read_are_told(
    tmp_path: Path, start: dict[str, Any], sentence: str
) -> None:
    """Columns are found by name, type and place: a recording that has others is refused at once."""
    path = tmp_path / "other.rec"
    path.write_bytes(MAGIC + _frame(start) + _frame(FINISH))
    with pytest.raises(RecordingError, match=sentence):
        Recording(path)
