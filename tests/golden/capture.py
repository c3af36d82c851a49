"""Makes the captures: real servers and clients, recorded by the agent, and the lines that a replay prints.

    sudo python -m tests.golden.capture [NAME ...]          records captures, all of them without a name
    python -m tests.golden.capture --lines [NAME ...]       only writes the lines anew

Run it in the checkout, on a host that can run the tests. Read new lines before you commit them: what they say
is what the tests hold from then on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.enrich.facts import ProcessFact
from masdeepflow.enrich.process import Processes, Program, is_life
from masdeepflow.recording import End, Frame, Recorder, Recording
from masdeepflow.schema import Transport
from tests.golden.scenarios import SCENARIOS
from tests.support.programs import MASDEEPFLOW, Agent, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tests.golden.scenarios import Where

__all__ = ["lines_of", "recording_of", "replayed"]

_DIRECTORY = Path(__file__).parent


def recording_of(name: str) -> Path:
    """Return where the recording of a capture is."""
    return _DIRECTORY / f"{name}.rec"


def lines_of(name: str) -> Path:
    """Return where its lines are."""
    return _DIRECTORY / f"{name}.jsonl"


def replayed(name: str) -> str:
    """Return what a replay of a capture prints."""
    done = run(MASDEEPFLOW, "replay", "--log", "json", recording_of(name))
    assert done.code == 0, done.stderr
    return done.stdout


def _capture(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        whole = directory / "whole"
        scenario = SCENARIOS[name](directory)
        where = next(scenario)
        command = (MASDEEPFLOW, "record", "-o", whole)
        with Agent(directory, ports=[], command=command) as agent:
            next(scenario)
            ended = agent.settle().stop()
        next(scenario, None)
        assert ended.code == 0, ended.stderr
        _keep(whole, recording_of(name), where)


def _keep(source: Path, target: Path, where: Where) -> None:
    """Write a recording of those slots of another that belong to the capture."""
    recording = Recording(source)
    assert recording.end is not None
    assert not any(recording.end.lost.values()), f"{recording.end.lost}: try again on a quieter host"
    target.parent.mkdir(exist_ok=True)
    recorder = Recorder(target, recording.layout)
    for frame in _kept(recording, where):
        recorder.write(frame)
    recorder.close(End(recording.end.lost))
    assert recorder.error is None, recorder.error


def _kept(recording: Recording, where: Where) -> Iterator[Frame]:
    processes, told = Processes(), dict[tuple[int, str], Program | None]()
    for frame in recording.frames():
        _follow(processes, frame)
        slots = frame.slots[~is_life(frame.slots["kind"]) & _belongs(frame.slots, where)].copy()
        if len(slots):
            _clear_stale(slots)
            who = sorted({(int(slot["pid"]), slot["comm"].decode()) for slot in slots})
            now = {(pid, comm): processes.program(pid, 0) for pid, comm in who}
            fresh = [key for key in who if told.get(key) is not now[key]]
            told |= now
            facts = [_plain(*key, program) for key in fresh if (program := now[key]) is not None]
            yield Frame(slots, frame.offset_ns, frame.watermark_ns, list(facts))


def _follow(processes: Processes, frame: Frame) -> None:
    """Take in what a batch tells of processes; what they were at its end is near enough."""
    for fact in frame.facts:
        if isinstance(fact, ProcessFact):
            processes.learn(fact)
    life = frame.slots[is_life(frame.slots["kind"])]
    processes.follow(life, np.zeros(len(life), np.intp))
    processes.end_batch()


def _plain(pid: int, comm: str, program: Program) -> ProcessFact:
    """Return names without directories and arguments: how the capture was made is nobody's business."""
    commands = [argument.rpartition("/")[2] for argument in program.arguments[:1]]
    return ProcessFact(pid, comm, program.executable, tuple(commands))


def _belongs(slots: np.ndarray, where: Where) -> NDArray[np.bool_]:
    """Return which slots (n,) are the capture's: by the server's address, or by the comms on Unix sockets."""
    if isinstance(where, frozenset):
        comms = np.array([comm.encode() for comm in where])
        return np.asarray((slots["transport"] == Transport.UNIX) & np.isin(slots["comm"], comms))
    host, port = where
    raw = np.array([int(part) for part in host.split(".")], np.uint8)
    # As Java's sockets have it, for one: an IPv6 address that holds one of IPv4.
    mapped = np.concatenate([np.zeros(10, np.uint8), np.full(2, 0xFF, np.uint8), raw])
    kept = np.zeros(len(slots), bool)
    for end in "local", "remote":
        address = slots[f"{end}_address"]
        ours = (address[:, :4] == raw).all(axis=1) | (address == mapped).all(axis=1)
        kept |= (slots[f"{end}_port"] == port) & ours
    return kept


def _clear_stale(slots: np.ndarray) -> None:
    """Zero the payload bytes that no turn owns: they are of earlier turns, and do not compress."""
    for side in "request", "response":
        payload = slots[side]
        payload[np.arange(payload.shape[1]) >= slots[f"{side}_length"][:, None]] = 0


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.capture", description=__doc__)
    parser.add_argument("--lines", action="store_true", help="only write the lines anew")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*SCENARIOS, []], default=[])
    arguments = parser.parse_args()
    for name in arguments.names or SCENARIOS:
        if not arguments.lines:
            _capture(name)
        lines_of(name).write_text(replayed(name))
        sys.stdout.write(f"{name}: {lines_of(name).read_text().count(chr(10))} lines\n")


if __name__ == "__main__":
    main()
