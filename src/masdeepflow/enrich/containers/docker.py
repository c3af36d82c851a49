"""The Docker Engine API over its Unix socket, as far as it names things (docs.docker.com/reference/api).

Podman offers the same. The standard library's HTTP client does: an answer is read to a limit and a deadline,
which the Docker SDK has not, and it is in memory already.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import re
import socket
import time
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from masdeepflow.enrich.containers.client import LIST_PATIENCE, Refused, Unavailable
from masdeepflow.enrich.facts import ContainerFact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from _typeshed import WriteableBuffer

__all__ = ["DockerClient"]

T = TypeVar("T")

_ANSWER_MOST = 16 << 20
_EVENT_MOST = 1 << 20
_FULL_ID = re.compile("[0-9a-f]{64}")
_EVENTS = '{"type":["container"],"event":["start","rename"]}'


class _Component(msgspec.Struct, rename="pascal"):
    name: str = ""


class _Version(msgspec.Struct, rename="pascal"):
    components: list[_Component] | None = None


class _Listed(msgspec.Struct, rename="pascal"):
    id: str
    names: list[str] | None = None
    image: str = ""
    labels: dict[str, str] | None = None


class _Config(msgspec.Struct, rename="pascal"):
    image: str = ""
    labels: dict[str, str] | None = None


class _Inspected(msgspec.Struct, rename="pascal"):
    id: str
    name: str = ""
    config: _Config | None = None


class _Actor(msgspec.Struct, rename={"id": "ID"}):
    id: str = ""


class _Event(msgspec.Struct, rename="pascal"):
    actor: _Actor


class DockerClient:
    """A client of `path`; see `Client`. Every request has a connection of its own.

    answer_s: how long an answer may take in all.
    """

    def __init__(self, path: Path, answer_s: float) -> None:
        self._path = str(path)
        self._answer_s = answer_s
        self._open: set[_Deadline] = set()
        self._cancelled = False
        self.runtime = ""
        self._since = time.time()

    def __enter__(self) -> Self:
        try:
            version = self._get("/version", _Version)
        except Refused as error:
            raise Unavailable(str(error)) from error
        names = [component.name for component in version.components or ()] if version else []
        self.runtime = "podman" if any("Podman" in name for name in names) else "docker"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Make calls that are under way raise, soon."""
        self._cancelled = True
        for connected in list(self._open):
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Do nothing: who follows the changes learns of the end, and Podman would be woken up for it."""

    def running(self) -> Iterator[ContainerFact]:
        """Yield what runs.

        Raises:
            Refused: the daemon does not tell.

        """
        for found in self._get("/containers/json", list[_Listed], LIST_PATIENCE) or ():
            # Links of other containers to it are names too, with a slash in them.
            names = [name.removeprefix("/") for name in found.names or ()]
            name = next((name for name in names if "/" not in name), "")
            yield self._fact(found.id, name, found.image, found.labels)

    def find(self, container_id: str) -> ContainerFact | None:
        """Return a container.

        Raises:
            Refused: the daemon does not tell.

        """
        if not _FULL_ID.fullmatch(container_id):  # the daemon would take it for a name
            return None
        found = self._get(f"/containers/{container_id}/json", _Inspected)
        if found is None or found.id != container_id:
            return None
        config = found.config or _Config()
        return self._fact(found.id, found.name.removeprefix("/"), config.image, config.labels)

    def _fact(self, number: str, name: str, image: str, labels: dict[str, str] | None) -> ContainerFact:
        return ContainerFact(id=number, name=name, runtime=self.runtime, image=image, labels=labels or {})

    def changes(self) -> Iterator[str] | None:
        """Yield ids of containers that were started or renamed since this client was made; None for Podman.

        Its service runs only while somebody is connected to it: that would be from now on.
        """
        return None if self.runtime == "podman" else self._changes()

    def _changes(self) -> Iterator[str]:
        parameters = urlencode({"filters": _EVENTS, "since": f"{self._since:.6f}"})
        with self._asked(f"/events?{parameters}", None) as response:
            while line := response.readline(_EVENT_MOST):
                yield _decoded(line, _Event).actor.id

    def _get(self, path: str, kind: type[T], patience: int = 1) -> T | None:
        """Return the answer, None for 404."""
        with self._asked(path, patience * self._answer_s) as response:
            body = response.read(_ANSWER_MOST + 1)
        if response.status == http.HTTPStatus.NOT_FOUND:
            return None
        if len(body) > _ANSWER_MOST:
            raise Refused(f"answers {path} with more than {_ANSWER_MOST >> 20} MiB")
        if response.status != http.HTTPStatus.OK:
            raise Refused(f"answers {path} with status {response.status}")
        return _decoded(body, kind)

    @contextlib.contextmanager
    def _asked(self, path: str, within_s: float | None) -> Iterator[http.client.HTTPResponse]:
        deadline = _Deadline(within_s)
        deadline.settimeout(self._answer_s)  # of connecting, which waits while the daemon accepts none
        connection = http.client.HTTPConnection("localhost")
        connection.sock = deadline
        self._open.add(deadline)
        try:
            deadline.connect(self._path)
            if self._cancelled:  # before it could be shut down
                raise Unavailable("is no longer asked")
            deadline.settimeout(within_s)
            connection.request("GET", path)
            yield connection.getresponse()
        except TimeoutError as error:
            raise Unavailable(f"does not answer within {within_s or self._answer_s:g} s") from error
        except OSError as error:
            raise Unavailable(f"cannot be asked: {error.strerror or error}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise Unavailable("does not speak the Docker API") from error
        finally:
            self._open.discard(deadline)
            connection.close()
            deadline.close()


def _decoded(data: bytes, kind: type[T]) -> T:
    """Return the JSON as `kind`, whatever else it holds left out."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("does not answer as Docker does") from error


class _Deadline(socket.socket):
    """A Unix socket that is used up to a point in time: no answer takes longer, however its bytes drip in."""

    def __init__(self, within_s: float | None) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._end = None if within_s is None else time.monotonic() + within_s

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)
