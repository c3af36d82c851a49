"""Which program each process runs: as the kernel side tells it, in the order of the ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masdeepflow.enrich import cgroup
from masdeepflow.schema import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masdeepflow.enrich.facts import ProcessFact

__all__ = ["Processes", "Program", "is_life"]

_LIMIT = 8192  # some 6 MB
_WAITING_LIMIT = 1024
_CGROUP_BYTES, _EXECUTABLE_BYTES = 128, 40  # bpf/wire.h
_BEFORE = -1
_FIRST_OF_LIFE, _LAST_OF_LIFE = int(Kind.FORK), int(Kind.EXEC)
NOBODY = cgroup.Membership()


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What a process runs. Compared by identity: children share it until they run another.

    executable: base name, None where unknown. arguments: argv, cut. user: user ID, None where unknown.
    service: OTEL_SERVICE_NAME, empty where unset. member: what its cgroup tells.
    comm: what the process was called then, empty if that is not known. sure: whether the ring told all of it.
    """

    executable: str | None = None
    arguments: tuple[str, ...] = ()
    user: int | None = None
    service: str = ""
    member: cgroup.Membership = NOBODY
    comm: str = ""
    sure: bool = True

    def fits(self, comm: str) -> bool:
        """Return whether a process that is called `comm` may still run it, as far as that tells.

        If not, it has renamed itself, or the ring has lost the exec of another program.
        """
        return self.comm == comm or (self.sure and not self.comm)


def is_life(kinds: np.ndarray) -> NDArray[np.bool_]:
    """Return which slots (n,) tell of a process's life, not of a connection."""
    return (kinds >= _FIRST_OF_LIFE) & (kinds <= _LAST_OF_LIFE)


class Processes:
    """PID -> program. A PID that is used again is the new process's from its fork on.

    Bounded: those that have not been asked for, and had no children, for longest are forgotten.
    """

    def __init__(self) -> None:
        self._programs: dict[int, Program | None] = {}
        self._cgroups: dict[int, cgroup.Membership] = {}
        self._changes: dict[int, list[tuple[int, Program | None]]] = {}

    def follow(self, slots: np.ndarray, positions: NDArray[np.intp]) -> None:
        """Take in what slots (n,) of kinds FORK, CGROUP and EXEC tell.

        positions: (n,), how many slots of other kinds came before each in this batch; see `program`.
        """
        self._changes.clear()
        for slot, position in zip(slots, positions.tolist(), strict=True):
            self._follow(slot, position)

    def _follow(self, slot: np.void, position: int) -> None:
        kind, pid = int(slot["kind"]), int(slot["pid"])
        if kind == Kind.FORK:
            self._set(pid, self._used(int(slot["tid"])), position)
        elif kind == Kind.CGROUP:
            if len(self._cgroups) >= _WAITING_LIMIT:  # their execs were lost
                self._cgroups.clear()
            self._cgroups[pid] = cgroup.parse(_path(slot))
        else:
            self._set(pid, _program(slot, self._cgroups.pop(pid, None)), position)

    def _set(self, pid: int, program: Program | None, position: int) -> None:
        changes = self._changes.setdefault(pid, [(_BEFORE, self._programs.get(pid))])
        changes.append((position, program))
        self._programs.pop(pid, None)
        if len(self._programs) >= _LIMIT:
            for old in list(self._programs)[: _LIMIT // 4]:
                del self._programs[old]
        self._programs[pid] = program

    def _used(self, pid: int) -> Program | None:
        program = self._programs.pop(pid, None)
        if program is not None:
            self._programs[pid] = program
        return program

    def end_batch(self) -> None:
        """Forget the order within the batch."""
        self._changes.clear()

    def learn(self, fact: ProcessFact) -> bool:
        """Take what /proc told of a process that no exec or fork did; return whether it was wanted."""
        known = self._programs.get(fact.pid)
        if known is not None and known.sure and not _runs_another(fact, known):
            return False
        self._set(
            fact.pid,
            Program(
                fact.executable,
                fact.arguments,
                fact.user,
                fact.service,
                cgroup.parse_proc(fact.cgroup),
                fact.comm,
                sure=False,
            ),
            _BEFORE,
        )
        self.end_batch()  # facts come between two
        return True

    def is_settled(self, pid: int) -> bool:
        """Return whether `program` is the same at every place of this batch."""
        return pid not in self._changes

    def program(self, pid: int, position: int) -> Program | None:
        """Return what a process ran when the slot at `position` of this batch was written, None if unknown.

        position: its index among the slots of other kinds than the three.
        """
        changes = self._changes.get(pid)
        if changes is None:
            return self._used(pid)
        return next(program for at, program in reversed(changes) if at <= position)


def _runs_another(fact: ProcessFact, known: Program) -> bool:
    """Return whether the ring has lost an exec: a name alone the process may have given itself."""
    executable, told = fact.executable, known.executable or ""
    cut = len(told.encode()) >= _EXECUTABLE_BYTES - 1
    same = executable is None or executable == told or (cut and executable.startswith(told))
    return not same and not known.fits(fact.comm)


def _program(slot: np.void, member: cgroup.Membership | None) -> Program:
    """Return what an exec tells. member: None if the ring has lost what comes before it."""
    arguments = slot["request"][: int(slot["request_length"])].tobytes()
    response = slot["response"].tobytes()
    return Program(
        executable=_text(response[:_EXECUTABLE_BYTES]) or None,
        arguments=tuple(map(_decoded, arguments.removesuffix(b"\0").split(b"\0"))) if arguments else (),
        user=int(slot["tid"]),
        service=_text(response[_EXECUTABLE_BYTES:]),
        member=member or NOBODY,
        comm=_decoded(bytes(slot["comm"])) if member else "",
        sure=member is not None,
    )


def _path(slot: np.void) -> str:
    request = slot["request"].tobytes()
    names = (slot["response"].tobytes(), request[_CGROUP_BYTES:], request[:_CGROUP_BYTES])
    return "/".join(filter(None, map(_text, names)))


def _text(raw: bytes) -> str:
    return _decoded(raw.partition(b"\0")[0])


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
