"""The server that is measured: nginx with one worker, on a port and in a directory of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process import cpu_ns, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Nginx", "nginx", "renamed"]

_CONFIGURATION = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600;
    client_body_temp_path {directory}/body;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {directory};
        location = / {{ return 200 "ok\\n"; }}
        location = /file.txt {{ }}
        location = /status {{ stub_status; }}
    }}
}}
"""
_START_S = 10


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running server. pid: its master. comm: its processes' name, which nothing else on the host has."""

    pid: int
    port: int
    comm: str

    def url(self, path: str = "/") -> str:
        """Return the URL of `path`: `/` is made by `return 200`, `/file.txt` is a file of three bytes."""
        return f"http://127.0.0.1:{self.port}{path}"

    def cpu_ns(self) -> int:
        """Return the CPU time of its worker so far."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(cpu_ns(int(child)) for child in children)

    def requests(self) -> int:
        """Return the requests served so far by nginx's own count, the one that asks included."""
        with urllib.request.urlopen(self.url("/status"), timeout=5) as reply:  # noqa: S310  # our own server
            text = reply.read().decode()
        return int(text.splitlines()[2].split()[2])


def _free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def renamed(program: str, directory: Path, port: int) -> Path:
    """Return a link to `program` under a name that tells its process from any other of that program."""
    found = shutil.which(program)
    if found is None:
        raise SystemExit(f"{program} is not there: install it, for example with apt-get install {program}")
    link = directory / f"{program}-{port}"
    if not link.exists():
        link.symlink_to(found)
    return link


@contextmanager
def nginx() -> Iterator[tuple[Nginx, Path]]:
    """Run the server; give it and its directory, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="masdeepflow-bench-") as name:
        directory, port = Path(name), _free_port()
        (directory / "file.txt").write_text("ok\n")
        configuration = directory / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(directory=directory, port=port))
        command = [str(renamed("nginx", directory, port)), "-p", name, "-c", str(configuration)]
        process = subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL)
        try:
            server = Nginx(process.pid, port, f"nginx-{port}")
            _wait(server, process)
            yield server, directory
        finally:
            stop(process)


def _wait(server: Nginx, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            server.requests()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("nginx did not start")
