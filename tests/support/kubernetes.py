"""A double of the Kubernetes API server: real list and watch over real sockets, and faults on demand.

It keeps to https://kubernetes.io/docs/reference/using-api/api-concepts/ in what the agent depends on:
versions, chunked watches, bookmarks, the streamed first list, 410 Gone for versions that are compacted,
pages with continue tokens, field selectors, metadata only by Accept header, bearer tokens, TLS. `Kubelet`
is a double of the kubelet's pod list. What either gives was compared with the documentation, not with a
real cluster.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tests.support.kubernetes_objects import Json, check
from tests.support.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

__all__ = ["ApiServer", "Faults", "Kubelet", "Tls", "make_tls"]

_RESOURCES = {
    "/api/v1/pods": "Pod",
    "/api/v1/services": "Service",
    "/apis/apps/v1/replicasets": "ReplicaSet",
    "/apis/batch/v1/jobs": "Job",
}
_FIELDS: dict[str, Callable[[Json], str]] = {
    "metadata.name": lambda item: item["metadata"]["name"],
    "metadata.namespace": lambda item: item["metadata"]["namespace"],
    "spec.nodeName": lambda item: item["spec"].get("nodeName", ""),
    "status.phase": lambda item: item["status"].get("phase", ""),
}
_TICK_S = 0.02
_MANY = 1_000_000


class Tls(NamedTuple):
    """Files in PEM: a certificate for 127.0.0.1 that is its own authority, and its key."""

    certificate: Path
    key: Path


def make_tls(directory: Path) -> Tls:
    """Make a certificate with openssl."""
    made = Tls(directory / "ca.crt", directory / "tls.key")
    subject = ["-subj", "/CN=double", "-addext", f"subjectAltName=IP:{LOOPBACK}", "-days", "2"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    return made


@dataclass
class Faults:
    """What goes wrong from now on.

    code: of every answer, 0 for none. retry_after: header with it. times: how many requests fail so, then no
    more; negative for all. silent: requests are taken and never answered, and watches say nothing more.
    garbage: sent in each watch once, in place of an event. forbidden: kinds that may not be listed.
    slow_s: before each answer. cut_after, end_after: objects of a first list, then
    the connection is cut, or the answer ends as if it were whole; 0 for never. brief: watches end at once.
    """

    code: int = 0
    retry_after: str = ""
    times: int = -1
    silent: bool = False
    garbage: bytes = b""
    forbidden: set[str] = field(default_factory=set)
    slow_s: float = 0.0
    cut_after: int = 0
    end_after: int = 0
    brief: bool = False


class _Event(NamedTuple):
    """before, after: the object, None where it was not there."""

    version: int
    kind: str
    before: Json | None
    after: Json | None


class _Status(Exception):  # noqa: N818  # Kubernetes' name
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


class _Store:
    """Objects with versions, as etcd and the server's cache keep them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 1000
        self.compacted = 1000  # watches may begin here, not before
        self.items: dict[str, dict[str, Json]] = {}  # kind -> uid -> object
        self.events: list[_Event] = []
        self.pages: dict[str, tuple[int, list[Json]]] = {}  # continue token -> version, what is left

    def put(self, item: Json) -> None:
        """Create or replace an object."""
        with self.changed:
            self.version += 1
            after = item | {"metadata": item["metadata"] | {"resourceVersion": str(self.version)}}
            kept = self.items.setdefault(item["kind"], {})
            before = kept.get(item["metadata"]["uid"])
            kept[item["metadata"]["uid"]] = after
            self._append(item["kind"], before, after)

    def remove(self, item: Json) -> None:
        """Delete an object."""
        with self.changed:
            self.version += 1
            before = self.items[item["kind"]].pop(item["metadata"]["uid"])
            self._append(item["kind"], before, None)

    def _append(self, kind: str, before: Json | None, after: Json | None) -> None:
        self.events.append(_Event(self.version, kind, before, after))
        self.changed.notify_all()

    def compact(self) -> None:
        """Forget all changes so far, and all lists that are under way."""
        with self.changed:
            self.events.clear()
            self.pages.clear()
            self.compacted = self.version
            self.changed.notify_all()

    def trim(self, most: int) -> None:
        """Forget the oldest changes, as a server does in time."""
        with self.changed:
            if len(self.events) > most:
                self.compacted = self.events[-most].version - 1
                del self.events[:-most]

    def bump(self) -> None:
        """Take a version for a change of a kind that nobody watches."""
        with self.changed:
            self.version += 1

    def of(self, kind: str) -> list[Json]:
        """Return all objects of a kind, in the order of names as etcd has them."""
        return sorted(
            self.items.get(kind, {}).values(),
            key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"]),
        )


class _HttpServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections are cut on purpose, in the middle of a handshake too."""


class _Server:
    """An HTTP server on loopback that can go away and come back on the same port."""

    def __init__(self, *, token: str, tls: Tls | None) -> None:
        self.port = free_port()
        self.token = token
        self.faults = Faults()
        self.requests: list[str] = []
        """Path and query of all requests, in order."""
        self.agents: set[str] = set()
        """What programs asked."""
        self.authorizations: list[str] = []
        """What requests said of who asks, in order; empty for nothing."""
        self.hook: Callable[[str], None] = lambda _: None
        """Called with path and query of each request, before it is answered."""
        self._tls = tls
        self._http: ThreadingHTTPServer | None = None
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._tls else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def up(self) -> bool:
        """Whether it listens."""
        return self._http is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        double = self

        class Handler(_Handler):
            server_double = double

        http = _HttpServer((LOOPBACK, self.port), Handler)
        http.daemon_threads = True
        http.block_on_close = False
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
            # The handshake is left to the connection's thread, so that one that hangs holds up no other.
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        self._http = http
        threading.Thread(target=http.serve_forever, args=(_TICK_S,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and cut those that are there."""
        http, self._http = self._http, None
        if http:
            http.shutdown()
            http.server_close()
            self.cut()

    def cut(self) -> None:
        """Cut all connections, in the middle of what they carry."""
        with self._guard:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def connection(self, opened: socket.socket) -> Iterator[None]:
        """Note a connection while it is open."""
        with self._guard:
            self._sockets.add(opened)
        try:
            yield
        finally:
            with self._guard:
                self._sockets.discard(opened)

    def admit(self, authorization: str) -> None:
        """Refuse whoever has no token, and do what `faults` ask for."""
        faults = self.faults
        while faults.silent and self.up:
            time.sleep(_TICK_S)
        time.sleep(faults.slow_s)
        if faults.code and faults.times:
            faults.times -= 1
            raise _Status(faults.code, "InternalError", "made to fail")
        if self.token and authorization != f"Bearer {self.token}":
            raise _Status(401, "Unauthorized", "Unauthorized")

    def answer(self, path: str, query: dict[str, str], reply: _Handler) -> None:
        """Answer a request that was admitted."""
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    server_double: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a head goes out with what follows it

    def handle(self) -> None:
        with self.server_double.connection(self.connection), contextlib.suppress(OSError, ValueError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as it is inherited
        """Say nothing."""

    def do_GET(self) -> None:
        double = self.server_double
        double.requests.append(self.path)
        double.agents.add(self.headers.get("User-Agent", ""))
        double.authorizations.append(self.headers.get("Authorization", ""))
        double.hook(self.path)
        split = urlsplit(self.path)
        try:
            double.admit(self.headers.get("Authorization", ""))
            double.answer(split.path, dict(parse_qsl(split.query)), self)
        except _Status as status:
            self.send(status.body, status.code)

    def metadata_only(self) -> bool:
        """Whether objects without spec and status are asked for."""
        return "as=PartialObjectMetadata" in self.headers.get("Accept", "")

    def send(self, body: Json, code: int = 200) -> None:
        """Answer with one JSON object."""
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code != 200 and self.server_double.faults.retry_after:
            self.send_header("Retry-After", self.server_double.faults.retry_after)
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        """Begin an answer of chunks."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def chunk(self, data: bytes) -> None:
        """Send a chunk; one without bytes is the last."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


class ApiServer(_Server):
    """The double. Objects stay while it is away, as in etcd.

    token: that clients must have, none if empty. streams: whether the first list can come as a watch.
    bookmark_s: between two bookmarks of a watch.
    """

    def __init__(
        self, *, token: str = "", tls: Tls | None = None, streams: bool = True, bookmark_s: float = 60
    ) -> None:
        super().__init__(token=token, tls=tls)
        self.streams = streams
        self.bookmark_s = bookmark_s
        self.store = _Store()
        self.metadata_only = 0
        """How many requests asked for metadata only."""

    def put(self, *items: Json) -> None:
        """Create or replace objects, which must have their kind's shape."""
        for item in items:
            check(item)
            self.store.put(item)

    def remove(self, *items: Json) -> None:
        """Delete objects."""
        for item in items:
            self.store.remove(item)

    def compact(self) -> None:
        """Make all versions up to now too old to watch from."""
        self.store.compact()

    def break_off(self, count: int) -> None:
        """Cut the connection if `faults` ask for it after so many objects."""
        if 0 < self.faults.cut_after <= count:
            raise ConnectionAbortedError
        if 0 < self.faults.end_after <= count:
            raise _Status(500, "InternalError", "made to end")

    def kubeconfig(self, directory: Path) -> Path:
        """Write a kubeconfig for this server and return its path."""
        cluster: Json = {"server": self.url}
        if self._tls:
            cluster["certificate-authority"] = str(self._tls.certificate)
        path = directory / "kubeconfig"
        # JSON is YAML.
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "double",
                    "clusters": [{"name": "double", "cluster": cluster}],
                    "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
                    "users": [{"name": "double", "user": {"token": self.token} if self.token else {}}],
                }
            )
        )
        return path

    def service_account(self, directory: Path) -> Path:
        """Write what a pod finds of its service account, and return the directory."""
        for name, text in {"token": self.token, "namespace": "default"}.items():
            (directory / name).write_text(text)
        if self._tls:
            (directory / "ca.crt").write_bytes(self._tls.certificate.read_bytes())
        return directory

    def answer(self, path: str, query: dict[str, str], reply: _Handler) -> None:
        """List or watch."""
        kind = _RESOURCES.get(path)
        if kind is None:
            raise _Status(404, "NotFound", "the server could not find the requested resource")
        if kind in self.faults.forbidden:
            raise _Status(403, "Forbidden", f"{path.rpartition('/')[2]} is forbidden: User cannot list it")
        self.metadata_only += reply.metadata_only()
        if query.get("watch") in {"true", "1"}:
            self._watch(kind, query, reply)
        else:
            reply.send(self._list(kind, query, metadata=reply.metadata_only()))

    def _list(self, kind: str, query: dict[str, str], *, metadata: bool) -> Json:
        store = self.store
        with store.changed:
            if token := query.get("continue", ""):
                self.break_off(_MANY)
                if token not in store.pages:
                    raise _Status(410, "Expired", "The provided continue parameter is too old")
                version, items = store.pages.pop(token)
            else:
                version, items = store.version, list(filter(_selection(query), store.of(kind)))
            meta: Json = {"resourceVersion": str(version)}
            # A list of version 0 comes from the cache, which knows no pages.
            limit = 0 if query.get("resourceVersion") == "0" else int(query.get("limit", "0"))
            if limit and len(items) > limit:
                meta["continue"] = base64.b64encode(f"{version}:{kind}:{id(items)}:{limit}".encode()).decode()
                store.pages[meta["continue"]] = (version, items[limit:])
                items = items[:limit]
        shown = [_shown(item, metadata=metadata, listed=True) for item in items]
        return _head(kind, "List", metadata=metadata) | {"metadata": meta, "items": shown}

    def _watch(self, kind: str, query: dict[str, str], reply: _Handler) -> None:
        initial = query.get("sendInitialEvents") == "true"
        if initial and (not self.streams or query.get("resourceVersionMatch") != "NotOlderThan"):
            raise _Status(422, "Invalid", "sendInitialEvents: Forbidden: is forbidden for watch")
        watch = _Watch(self, kind, query, reply)
        with contextlib.suppress(_Status):
            watch.run(initial=initial)
        reply.chunk(b"")


class _Watch:
    """One watch, in its connection's thread."""

    def __init__(self, double: ApiServer, kind: str, query: dict[str, str], reply: _Handler) -> None:
        self._double = double
        self._store = double.store
        self._kind = kind
        self._passes = _selection(query)
        self._reply = reply
        self._metadata = reply.metadata_only()
        self._bookmarks = query.get("allowWatchBookmarks") == "true"
        self._version = int(query.get("resourceVersion") or 0)
        self._end = time.monotonic() + int(query.get("timeoutSeconds", "1800"))
        self._next_bookmark = time.monotonic() + double.bookmark_s

    def run(self, *, initial: bool) -> None:
        self._reply.begin()
        if initial:
            self._send_initial()
        elif not self._version:
            self._version = self._store.version
        while self._double.up and time.monotonic() < self._end and not self._double.faults.brief:
            self._send_garbage()
            for event in self._wait():
                self._send_event(event)
            self._bookmark()

    def _send_initial(self) -> None:
        with self._store.changed:
            items, self._version = self._store.of(self._kind), self._store.version
        for count, item in enumerate(filter(self._passes, items), 1):
            self._send("ADDED", _shown(item, metadata=self._metadata))
            self._double.break_off(count)
        self._send_bookmark({"k8s.io/initial-events-end": "true"})

    def _wait(self) -> list[_Event]:
        """Return the next events, none after a moment."""
        store = self._store
        with store.changed:
            if self._version < store.compacted:
                self._send(
                    "ERROR", _Status(410, "Expired", f"too old resource version: {self._version}").body
                )
                raise _Status(410, "Expired", "")
            if store.version <= self._version or self._double.faults.silent:
                store.changed.wait(_TICK_S)
            if self._double.faults.silent:
                return []
            # From the end, because that is where the new ones are.
            fresh = []
            for event in reversed(store.events):
                if event.version <= self._version:
                    break
                fresh.append(event)
            self._version = max(self._version, store.version)
        return [event for event in reversed(fresh) if event.kind == self._kind]

    def _send_event(self, event: _Event) -> None:
        before = event.before is not None and self._passes(event.before)
        after = event.after is not None and self._passes(event.after)
        item = event.after if after else event.before
        if item is None or not (before or after):
            return
        # What leaves a selection is sent as it was, with the version of the change.
        meta = item["metadata"] | {"resourceVersion": str(event.version)}
        kind = ("MODIFIED" if before else "ADDED") if after else "DELETED"
        self._send(kind, _shown(item | {"metadata": meta}, metadata=self._metadata))

    def _bookmark(self) -> None:
        if self._bookmarks and time.monotonic() >= self._next_bookmark and not self._double.faults.silent:
            self._send_bookmark()

    def _send_bookmark(self, annotations: Json | None = None) -> None:
        self._next_bookmark = time.monotonic() + self._double.bookmark_s
        meta: Json = {"resourceVersion": str(self._version), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        self._send("BOOKMARK", _head(self._kind, "", metadata=self._metadata) | {"metadata": meta})

    def _send_garbage(self) -> None:
        if garbage := self._double.faults.garbage:
            self._double.faults.garbage = b""
            self._reply.chunk(garbage)

    def _send(self, kind: str, item: Json) -> None:
        self._reply.chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")


class Kubelet(_Server):
    """A double of the kubelet: the pods of its node at `/pods`."""

    def __init__(self, *, token: str = "", tls: Tls | None = None) -> None:
        super().__init__(token=token, tls=tls)
        self.pods: list[Json] = []

    def answer(self, path: str, query: dict[str, str], reply: _Handler) -> None:
        """Give the list."""
        if path != "/pods" or query:
            raise _Status(404, "NotFound", "404 page not found")
        for each in self.pods:
            check(each)
        reply.send({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods or None})


def _selection(query: dict[str, str]) -> Callable[[Json], bool]:
    """Return what a field selector lets pass: `a=x,b!=y`."""
    terms = []
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = term.partition("=")
        wanted = not name.endswith("!")
        name = name.removesuffix("!")
        if name not in _FIELDS:
            raise _Status(400, "BadRequest", f"field label not supported: {name}")
        terms.append((_FIELDS[name], value, wanted))
    return lambda item: all((get(item) == value) is wanted for get, value, wanted in terms)


def _head(kind: str, suffix: str, *, metadata: bool) -> Json:
    if metadata:
        return {"kind": f"PartialObjectMetadata{suffix}", "apiVersion": "meta.k8s.io/v1"}
    group = {"ReplicaSet": "apps/v1", "Job": "batch/v1"}.get(kind, "v1")
    return {"kind": f"{kind}{suffix}", "apiVersion": group}


def _shown(item: Json, *, metadata: bool, listed: bool = False) -> Json:
    """Return an object as it is sent. Objects in lists have neither kind nor apiVersion."""
    if metadata:
        return _head("", "", metadata=True) | {"metadata": item["metadata"]}
    return (
        {key: value for key, value in item.items() if key not in {"kind", "apiVersion"}} if listed else item
    )
