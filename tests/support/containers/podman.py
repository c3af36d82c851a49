"""Podman's service, which speaks the Docker API."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from tests.support.containers.docker import Docker
from tests.support.containers.images import busybox_image
from tests.support.containers.namespaces import PRIVATE, Namespaces
from tests.support.programs import Program, clean_environment, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["podman_service"]

# Of its own accord it raises limits, which not even root may do everywhere.
_CONFIG = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


class _Podman(Docker):
    """Runs containers without a network, because it has none of its own to offer."""

    def start(self) -> None:
        """Start the service and wait until it answers."""
        config = self.directory / "containers.conf"
        config.write_text(_CONFIG)
        self._daemon = Program(
            self.directory,
            *self.namespaces.enter,
            "podman",
            f"--root={self.directory / 'data'}",
            f"--runroot={PRIVATE / 'podman'}",  # no longer than 50 characters
            f"--tmpdir={PRIVATE / 'libpod'}",
            "system",
            "service",
            "--time=0",
            f"unix://{self.socket}",
            env=clean_environment(CONTAINERS_CONF=str(config)),
        )
        until(self._answers, lambda: self.errors[-2000:])


@contextlib.contextmanager
def podman_service(directory: Path) -> Iterator[Docker]:
    """Run a service that has the image `BUSYBOX`; all of it ends with the block."""
    with Namespaces(directory) as namespaces:
        service = _Podman(directory, namespaces)
        service.start()
        try:
            service.load(busybox_image(directory))
            yield service
        finally:
            service.clear()
            service.stop()
    shutil.rmtree(directory / "data", ignore_errors=True)
