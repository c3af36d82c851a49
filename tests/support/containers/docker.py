"""A Docker daemon with directories, socket, bridge and address range of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
from typing import TYPE_CHECKING, Any

from tests.support.containers.images import BUSYBOX, busybox_image
from tests.support.containers.namespaces import Namespaces
from tests.support.programs import Finished, Program, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.containers.namespaces import Cgroups

__all__ = ["Container", "Docker", "docker_daemon", "run_container"]

_START_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Container:
    """A running container. pid: of its first process, as the host sees it. address: IPv4, or empty."""

    id: str
    name: str
    pid: int
    address: str


class Docker:
    """A daemon in `namespaces`, started by `start`. socket: where its API is."""

    def __init__(self, directory: Path, namespaces: Namespaces) -> None:
        self.directory = directory
        self.socket = directory / "docker.sock"
        self.namespaces = namespaces
        self._daemon: Program | None = None

    def start(self) -> None:
        """Start the daemon, again after `stop` or `crash`, and wait until it answers."""
        config = self.directory / "daemon.json"
        config.write_text("{}")
        self._daemon = Program(
            self.directory,
            *self.namespaces.enter,
            "dockerd",
            f"--host=unix://{self.socket}",
            f"--data-root={self.directory / 'data'}",
            f"--exec-root={self.directory / 'exec'}",
            f"--pidfile={self.directory / 'docker.pid'}",
            # The host's own configuration is none of ours.
            f"--config-file={config}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
        )
        until(self._answers, lambda: self.errors[-2000:], _START_S)

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.process.poll() is None, self.errors[-2000:]
        return self.command("version").code == 0

    @property
    def errors(self) -> str:
        """What the daemon has logged since its last start."""
        return self._daemon.errors if self._daemon else ""

    def stop(self) -> None:
        """End the daemon in its own way, and its containers with it."""
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """Kill the daemon; its containers run on, and are ended by the next `start`."""
        self._end(signal.SIGKILL)
        # Its containerd dies with it, but stays a zombie where the init process does not reap, and the next
        # daemon would wait for the one that this file names.
        (self.directory / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def _end(self, number: int) -> None:
        if self._daemon is not None:
            self._daemon.stop(number)
            self._daemon = None

    def command(self, *words: object, timeout_s: float = 60) -> Finished:
        """Run a command of the docker client to its end."""
        return run("docker", *self.client, *words, timeout_s=timeout_s)

    @property
    def client(self) -> tuple[str, ...]:
        """What to give the docker client so that it talks to this daemon."""
        return ("--host", f"unix://{self.socket}")

    def done(self, *words: object) -> str:
        """Run a command of the docker client that must succeed; return what it printed, stripped."""
        finished = self.command(*words)
        assert finished.code == 0, f"docker {words}: {finished.stderr}"
        return finished.stdout.strip()

    def load(self, archive: Path) -> None:
        """Load an archive made by `image`."""
        self.done("load", "--quiet", "--input", archive)

    def inspect(self, name: str) -> Container:
        """Return what the daemon tells of a container."""
        found: dict[str, Any] = json.loads(self.done("inspect", "--type=container", name))[0]
        networks = found["NetworkSettings"]["Networks"].values()
        address = next((network["IPAddress"] for network in networks if network["IPAddress"]), "")
        return Container(found["Id"], found["Name"].removeprefix("/"), found["State"]["Pid"], address)

    def clear(self) -> None:
        """End and remove all containers."""
        if self._daemon is not None and (ids := self.command("ps", "--all", "--quiet").stdout.split()):
            self.command("rm", "--force", "--volumes", *ids)


@contextlib.contextmanager
def docker_daemon(directory: Path, cgroups: Cgroups = "host") -> Iterator[Docker]:
    """Run a daemon that has the image `BUSYBOX` and a bridge network; all of it ends with the block.

    cgroups: which hierarchies it sees and uses.
    """
    with Namespaces(directory, cgroups) as namespaces:
        daemon = Docker(directory, namespaces)
        daemon.start()
        try:
            daemon.load(busybox_image(directory))
            yield daemon
        finally:
            daemon.clear()
            daemon.stop()
    # pytest keeps directories of past runs, and the layers are large.
    shutil.rmtree(directory / "data", ignore_errors=True)


@contextlib.contextmanager
def run_container(
    docker: Docker, *command: object, image: str = BUSYBOX, options: Sequence[object] = ()
) -> Iterator[Container]:
    """Run a container while the block lasts; without a command that of its image.

    options: of `docker run`, such as `--name=web`.
    """
    # As the first process of its PID namespace, a program that handles no SIGTERM does not get it.
    container = docker.done("run", "--detach", "--stop-signal=SIGKILL", *options, image, *command)
    try:
        yield docker.inspect(container)
    finally:
        docker.command("rm", "--force", "--volumes", container)
