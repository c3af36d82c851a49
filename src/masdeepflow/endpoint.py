"""One end of a connection as a process uses it: addresses, role and the process's names."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Endpoint"]


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """What stays the same over the transactions of one process on one connection.

    Compared by identity and hashable, so sinks may cache what they render of it (weakly or bounded).

    transport: `tcp`, `udp` or `unix`. role: `client`, `server` or `` where unknown.
    local, remote: the text log's form, `127.0.0.1:80`, `[::1]:80`, or a Unix path.
    client_address, server_address: address without port; None where unknown.
    client_port, server_port: None for Unix.
    comm: the process's short name. executable: base name of its executable, None where unknown.
    command: its argv[0], None where unknown. service: the name that golden signals go under.
    pod, namespace, container: names, empty where unknown.
    attributes: what else is known of the process, its container and its pod: OpenTelemetry name -> value.
    peer: what is known of the other end, under names that start with `peer.`.
    """

    cookie: int
    pid: int
    comm: str
    transport: str
    role: str
    local: str
    remote: str
    client_address: str | None
    client_port: int | None
    server_address: str | None
    server_port: int | None
    executable: str | None
    command: str | None
    service: str
    pod: str = ""
    namespace: str = ""
    container: str = ""
    attributes: tuple[tuple[str, str | int], ...] = ()
    peer: tuple[tuple[str, str | int], ...] = ()
