"""docker or podman as run-in-docker.sh uses it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.ports import free_port
from tests.support.programs import Finished, clean_environment, run

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IMAGE", "NAME", "ROOT", "SCRIPT", "Engine", "in_memory"]

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "run-in-docker.sh"
NAME = "masdeepflow-demo"
IMAGE = "masdeepflow:demo"
_BUILD_S = 500
_ENOUGH_KIB = 8 << 20


@contextlib.contextmanager
def in_memory(directory: Path) -> Iterator[Path]:
    """Have `directory` in memory while the block lasts, if there is enough: builds sync to disk a lot."""
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    if available is None or int(available[1]) < _ENOUGH_KIB:
        yield directory
        return
    mounted = run("mount", "-t", "tmpfs", "-o", "size=6g", "tmpfs", directory)
    assert mounted.code == 0, mounted.stderr
    try:
        yield directory
    finally:
        run("umount", "--lazy", directory)


class Engine:
    """docker or podman with its own storage, and what run-in-docker.sh needs to use it.

    port: of the only traffic that is shown by an agent started with the arguments `quiet`.
    """

    def __init__(self, program: str, **environment: str) -> None:
        self.program = program
        self.port = free_port()
        self.quiet = ("--listen", "off", "--ring-mib", "64", "--include", f"port={self.port}")
        self.environment = clean_environment(CONTAINER_ENGINE=program, **environment)

    def command(self, *words: object, timeout_s: float = 120) -> Finished:
        """Run a command of the engine to its end."""
        return run(self.program, *words, env=self.environment, timeout_s=timeout_s)

    def done(self, *words: object) -> str:
        """Run a command that must succeed; return what it printed."""
        finished = self.command(*words)
        assert finished.code == 0, f"{words}: {finished.stderr}"
        return finished.stdout

    def start(self, *arguments: object, **environment: str) -> Finished:
        """Run run-in-docker.sh to its end."""
        return run(SCRIPT, *arguments, env=self.environment | environment, timeout_s=_BUILD_S)

    def inspect(self) -> dict[str, Any]:
        """Return what the engine tells of the demo's container."""
        found: list[dict[str, Any]] = json.loads(self.done("container", "inspect", NAME))
        return found[0]

    def logs(self) -> list[str]:
        """Return the lines that the agent has printed."""
        finished = self.command("logs", NAME)
        return [*finished.stdout.splitlines(), *finished.stderr.splitlines()]
