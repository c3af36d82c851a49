"""Rules of the writer: never block the agent, lose nothing uncounted, end with a true last line."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from masdeepflow.sinks.line_writer import LineWriter

if TYPE_CHECKING:
    import pytest

    from tests.unit.sinks.conftest import Pipe

LINE = "x" * 1000
MANY = [LINE] * 1000
MORE_THAN_A_PIPE = 3 * 1024 * 1024


def _stall(writer: LineWriter) -> threading.Event:
    """Make the writer's descriptor take nothing until the returned event is set."""
    take, goes_on = writer._target.write, threading.Event()
    writer._target.write = lambda data: take(data) if goes_on.is_set() else 0  # type: ignore[method-assign]
    writer._target.wait = goes_on.wait  # type: ignore[method-assign, assignment]
    return goes_on


def _clog(writer: LineWriter) -> int:
    """Offer lines until some do not fit; return how many were offered."""
    offered = 0
    while True:
        offered += len(MANY)
        if not writer.offer(MANY):
            return offered


def test_lines_come_out_in_order(pipe: Pipe) -> None:
    """A reader that keeps up gets every line, and then the last one."""
    writer = LineWriter(pipe.into)
    pipe.reader.start()
    for number in range(100):
        assert writer.offer([f"{number} \u00e9", f"{number} b"])
    writer.close(lambda lost: f"last {lost}")
    expected = [line for number in range(100) for line in (f"{number} \u00e9", f"{number} b")]
    assert pipe.lines() == [*expected, "last 0"]
    assert (writer.lost, writer.broken) == (0, False)


def test_a_reader_that_stands_still_costs_lines_not_time(pipe: Pipe) -> None:
    """Offering to a full queue returns at once; leading lines that fit are kept, the others counted."""
    writer = LineWriter(pipe.into, limit=10_009)
    reading = _stall(writer)
    assert not writer.offer([str(number) for number in range(4000)])
    assert writer.full()
    lost = writer.lost
    assert not writer.offer(MANY)
    writer.skip(5)
    assert writer.lost == lost + len(MANY) + 5
    reading.set()
    pipe.reader.start()
    writer.close()
    assert pipe.lines() == [str(number) for number in range(4000 - lost)]
    assert 10_009 - len("\n".join(map(str, range(4000 - lost))) + "\n") < 5


def test_last_line_tells_the_final_loss(pipe: Pipe) -> None:
    """However full the queue was, the last line comes out, on a line of its own, with the true count."""
    writer = LineWriter(pipe.into, limit=MORE_THAN_A_PIPE)
    offered = _clog(writer)
    pipe.reader.start()
    writer.close(lambda lost: f"lost {lost}")
    *lines, last = pipe.lines()
    assert last == f"lost {offered - len(lines)}" == f"lost {writer.lost}"


def test_line_that_was_cut_is_finished_before_the_last(pipe: Pipe) -> None:
    """Giving up in the middle of a line loses what follows, but leaves no fragment in front of the last."""
    writer = LineWriter(pipe.into, limit=MORE_THAN_A_PIPE)
    offered = _clog(writer)

    def last(lost: int) -> str:
        pipe.reader.start()
        return f"lost {lost}"

    writer.close(last, stall_s=0.2)
    *lines, end = pipe.lines()
    assert set(lines) == {LINE}
    assert end == f"lost {offered - len(lines)}" == f"lost {writer.lost}"


def test_close_gives_up_on_a_reader_that_stands_still(pipe: Pipe) -> None:
    """Shutting down ends without the reader, and counts all that it did not take, the last line too."""
    writer = LineWriter(pipe.into)
    offered = _clog(writer)
    writer.close(lambda _: "last", stall_s=0.1)
    assert not writer.broken
    lost = writer.lost
    pipe.reader.start()
    os.close(pipe.into)
    pipe.into = -1
    pipe.reader._thread.join()
    whole = b"".join(pipe.reader._chunks).count(b"\n")
    assert whole + lost == offered + 1


def test_close_takes_two_seconds_at_most_when_the_reader_stands_still(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock that patience goes by: nobody who stops the agent waits for longer."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("masdeepflow.sinks.line_writer.time.monotonic", lambda: now[0])
    writer = LineWriter(pipe.into)
    monkeypatch.setattr(writer._target, "write", lambda _data: 0)
    monkeypatch.setattr(writer._target, "wait", wait)
    writer.offer(["a", "b"])
    now[0] = 1000.0
    writer.close(lambda _: "last")
    assert not writer.broken
    assert writer.lost == 3
    assert 0 < now[0] - 1000.0 <= 2.0


def test_close_ends_on_a_slow_reader_in_bounded_time(pipe: Pipe) -> None:
    """A reader that always takes a little does not hold up the end for ever."""
    writer = LineWriter(pipe.into)
    offered = _clog(writer)
    stop = threading.Event()

    def sip() -> None:
        while not stop.wait(0.02):
            os.read(pipe.out, 4096)

    slow = threading.Thread(target=sip)
    slow.start()
    writer.close(stall_s=60.0, total_s=0.3)
    stop.set()
    slow.join()
    assert 0 < writer.lost < offered


def test_close_leaves_a_write_that_never_returns() -> None:
    """If the system call itself hangs, the agent ends all the same and counts the lines as lost."""
    reader, fd = os.pipe()
    writer = LineWriter(fd)
    hang, hung = threading.Event(), threading.Event()

    def write(_data: memoryview) -> int:
        hung.set()
        hang.wait()
        return 0

    writer._target.write = write  # type: ignore[method-assign, assignment]
    writer.offer(["a", "b"])
    hung.wait()
    writer.close(stall_s=0.05, total_s=0.1)
    assert (writer.lost, writer.broken) == (2, True)
    hang.set()
    writer._thread.join()
    assert writer.lost == 2
    os.close(reader)
    os.close(fd)


def test_reader_gone_breaks_the_writer(pipe: Pipe) -> None:
    """After `| head` has gone, everything is counted as lost, and nothing waits or raises."""
    writer = LineWriter(pipe.into, limit=10_000_000)
    os.close(pipe.out)
    pipe.out = -1
    writer.offer(MANY)
    writer._thread.join()
    assert (writer.broken, writer.full(), writer.lost) == (True, True, len(MANY))
    assert writer.error is None
    assert not writer.offer(["a", "b"])
    writer.close(lambda _: "last")
    assert writer.lost == len(MANY) + 2


def test_full_lasts_until_a_quarter_is_free(pipe: Pipe) -> None:
    """Formatting starts again with room for a good piece, not for each line that the reader takes."""
    writer = LineWriter(pipe.into, limit=100_000)
    _stall(writer)
    assert writer.offer([LINE] * 99)
    assert not writer.full()
    assert not writer.offer([LINE])
    assert writer.full()
    writer._progress(24_098, 0)
    assert writer.full()
    writer._progress(1, 0)
    assert not writer.full()
    assert writer.offer([LINE] * 24)
    assert not writer.full()
    writer.close(stall_s=0.0)


def test_blocking_writer_loses_nothing(pipe: Pipe) -> None:
    """A replay waits for its reader: batches larger than the queue come out whole."""
    writer = LineWriter(pipe.into, limit=5_000, blocking=True)
    pipe.reader.start()
    assert all(writer.offer([f"{number}", *MANY]) for number in range(20))
    assert not writer.full()
    writer.close(lambda lost: f"lost {lost}")
    lines = pipe.lines()
    assert lines == [line for number in range(20) for line in (f"{number}", *MANY)] + ["lost 0"]


def test_blocking_writer_does_not_wait_for_a_reader_that_has_gone(pipe: Pipe) -> None:
    """A replay into `| head` ends."""
    writer = LineWriter(pipe.into, limit=5_000, blocking=True)
    os.close(pipe.out)
    pipe.out = -1
    while writer.offer(MANY):
        pass
    writer.close()
    assert writer.broken
    assert writer.lost >= len(MANY)


def test_nothing_is_taken_after_the_end(pipe: Pipe) -> None:
    """Lines that come after `close` are lost, a second `close` does nothing, and no lines are no loss."""
    writer = LineWriter(pipe.into)
    pipe.reader.start()
    assert writer.offer([])
    writer.close(lambda _: "last")
    assert not writer.offer(["late"])
    writer.close(lambda _: "again")
    assert pipe.lines() == ["last"]
    assert writer.lost == 1


def test_full_disk_loses_lines_and_ends() -> None:
    """A disk that stays full costs the lines, not the agent's end."""
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(fd)
    writer.offer(["a", "b"])
    writer.close(lambda _: "last", stall_s=0.1)
    assert writer.lost == 3
    os.close(fd)


def test_full_disk_is_waited_for_while_the_agent_runs(pipe: Pipe) -> None:
    """Once somebody has made room, lines come out again: the log does not end for good."""
    writer = LineWriter(pipe.into)
    take, tries = writer._target.write, []

    def write(data: memoryview) -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return take(data)

    writer._target.write = write  # type: ignore[method-assign]
    pipe.reader.start()
    writer.offer(["a", "b"])
    writer.close()
    assert (pipe.lines(), writer.lost, writer.error) == (["a", "b"], 0, None)


def test_blocking_writer_does_not_wait_for_a_full_disk() -> None:
    """Whoever replays a recording is told that it can't be printed; this test hangs otherwise."""
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(fd, limit=5_000, blocking=True)
    while writer.offer(MANY):
        pass
    writer.close(lambda _: "last")
    assert writer.broken
    assert writer.error is not None
    assert writer.error.errno == errno.ENOSPC
    assert writer.lost >= len(MANY)
    os.close(fd)
