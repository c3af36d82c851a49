"""The programs under test as real processes, with what they print kept in files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.support.ports import free_port, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType
    from typing import IO

    T = TypeVar("T")

__all__ = ["MASDEEPFLOW", "TRAFFIC_GEN", "Agent", "Finished", "Program", "clean_environment", "run", "until"]

MASDEEPFLOW = str(Path(sys.executable).with_name("masdeepflow"))
TRAFFIC_GEN = str(Path(sys.executable).with_name("traffic_gen"))
WAIT_S = 20.0
_ROLES = ("client", "server")
_PAUSE_S, _APART_S = 0.01, 0.05
_RING_MIB = 64
"""Room for what others do on the same host: what a test counts must not be lost to that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: exit code (negative for a signal) and all that it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.stdout.splitlines()


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without options of the agent, with `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MASDEEPFLOW_")} | more


def run(*command: object, timeout_s: float = 60, **more: Any) -> Finished:  # noqa: ANN401  # handed on to subprocess
    """Run a command to its end."""
    more.setdefault("env", clean_environment())
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, check=False, timeout=timeout_s, **more
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


def until(found: Callable[[], T], why: Callable[[], str] = str, timeout_s: float = WAIT_S) -> T:
    """Return what `found` returns once it is true; `why` explains when it never is."""
    end = time.monotonic() + timeout_s
    while not (result := found()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {why()}")
        time.sleep(_PAUSE_S)
    return result


class _Growing:
    """A file that a program writes to, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done = 0
        self._lines: list[str] = []

    def lines(self) -> list[str]:
        """Return its whole lines so far."""
        with self.path.open("rb") as file:
            file.seek(self._done)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._done += len(whole)
        self._lines += whole.decode().splitlines()
        return self._lines


class Program:
    """A program that runs until `stop`, or until the `with` block ends.

    directory: its stdout and stderr go to new files there, stdout only unless one is given.
    """

    def __init__(
        self,
        directory: Path,
        *command: object,
        stdout: int | IO[bytes] | None = None,
        env: dict[str, str] | None = None,
        **more: Any,  # noqa: ANN401  # handed on to Popen
    ) -> None:
        name = f"{Path(str(command[0])).name}-{time.monotonic_ns()}"
        self._out, self._err = (_Growing(directory / f"{name}.{end}") for end in ("out", "err"))
        with self._out.path.open("wb") as out, self._err.path.open("wb") as err:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
                env=env or clean_environment(),
                **more,
            )
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def lines(self) -> list[str]:
        """Whole lines of stdout so far."""
        return self._out.lines()

    @property
    def stdout_path(self) -> Path:
        """The file that stdout goes to."""
        return self._out.path

    @property
    def errors(self) -> str:
        """What stderr has so far."""
        return self._err.path.read_text()

    def wait_for(self, found: Callable[[list[str]], T], timeout_s: float = WAIT_S) -> T:
        """Return what `found` makes of the lines of stdout once that is true."""
        return until(lambda: found(self.lines), self._state, timeout_s)

    def wait_said(self, text: str, timeout_s: float = WAIT_S) -> None:
        """Wait until stderr has `text`; fail at once when the program ends without."""
        until(lambda: text in self.errors or self.process.poll() is not None, self._state, timeout_s)
        assert text in self.errors, self._state()

    def _state(self) -> str:
        return f"{self.process.args!r}\nstderr: {self.errors[-2000:]}\nstdout: ...{self.lines[-20:]}"

    def send(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 60) -> Finished:
        """Send a signal and return how the program ended."""
        self.process.send_signal(number)
        return self.ended(timeout_s)

    def ended(self, timeout_s: float = 60) -> Finished:
        """Wait for the program's end."""
        code = self.process.wait(timeout_s)
        return Finished(code, self._out.path.read_text(), self.errors)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


class Agent(Program):
    """`masdeepflow run`, or another command of the same options, with its probes attached.

    ports: only these are shown; None shows all. Nothing is served unless `--listen` is among `args`.
    """

    def __init__(
        self,
        directory: Path,
        *args: object,
        ports: Collection[int] | None = None,
        command: Sequence[object] = (MASDEEPFLOW, "run"),
        ready: bool = True,
        **more: Any,  # noqa: ANN401  # handed on to Program
    ) -> None:
        self._marker = free_port()
        shown = [] if ports is None else [*ports, self._marker]
        include = [word for port in shown for word in ("--include", f"port={port}")]
        listen = [] if "--listen" in args else ["--listen", "off"]
        ring = [] if "--ring-mib" in args else ["--ring-mib", str(_RING_MIB)]
        super().__init__(directory, *command, *listen, *ring, *include, *args, **more)
        if ready:
            try:
                self.wait_said("ready: hooks=")
            except BaseException:
                self.kill()
                raise

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Objects of the JSON log so far, without those of `settle`."""
        return [
            found for line in self.lines if (found := json.loads(line)).get("server.port") != self._marker
        ]

    @property
    def transactions(self) -> list[dict[str, Any]]:
        """Transactions of the JSON log so far."""
        return [found for found in self.objects if "event" not in found]

    @property
    def marker(self) -> list[str]:
        """Options that show what `settle` does, for a replay that is to equal this run."""
        return ["--include", f"port={self._marker}"]

    def settle(self, marks: int = 1) -> Self:
        """Wait until all that has happened up to now is in the log.

        marks: how many are made, a while apart, of which one will do: where the ring is full one may be lost.
        """
        text, server = f" -> 127.0.0.1:{self._marker},", f'"server.port":{self._marker},'
        clients = []
        for _ in range(marks):
            clients.append(refuse(self._marker))
            time.sleep(_APART_S if marks > 1 else 0)
        json_clients = [f'"client.port":{client},' for client in clients]
        text_ends = [f"127.0.0.1:{client}{text}" for client in clients]

        def is_mark(line: str) -> bool:
            return any(end in line for end in (json_clients if server in line else text_ends))

        self.wait_for(lambda lines: any(map(is_mark, lines)))
        return self

    def wait_counted(self, found: Callable[[dict[str, Any]], bool], expected: int) -> list[dict[str, Any]]:
        """Wait until each end has `expected` transactions that `found` is true of; return all by time.

        `settle` alone does not tell that all are there. A service that has paused is given up to a second
        more (ADR 4), and a program of a busy host may be stopped between a turn's end and its record.

        Raises AssertionError with what the agent has lost, and with what it writes when it ends.
        """
        self.settle()

        def missing() -> dict[str, int]:
            counted = Counter(one["role"] for one in self.transactions if found(one))
            return {role: expected - counted[role] for role in _ROLES if counted[role] < expected}

        try:
            until(lambda: not missing())
        except AssertionError:
            before, lines = missing(), self.stop().lines
            lost = json.loads(lines[-1]).get("lost")
            raise AssertionError(
                f"of {expected} a side are missing: {before}; when the agent ended: {missing()}; lost: {lost}"
            ) from None
        return sorted(self.transactions, key=lambda one: one["timestamp"])
