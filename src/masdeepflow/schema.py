"""Names, types and units of everything the agent knows: sinks render from here, not protocol by protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ATTRIBUTES",
    "CLOSED_BY",
    "ERROR_TYPE",
    "MAX_SERVICES",
    "WAITED",
    "Column",
    "Flag",
    "Kind",
    "Role",
    "Transport",
    "extend",
]


MAX_SERVICES = 512
"""Indices of services in slots and golden signals, as in bpf/ring.h."""


class Kind(IntEnum):
    """`enum slot_kind` of bpf/wire.h."""

    TURN = 1
    OPEN = 2
    CONNECT = 3
    CONNECT_FAILED = 4
    ACCEPT = 5
    CLOSE = 6
    FORK = 7
    CGROUP = 8
    EXEC = 9
    DATAGRAM = 10
    SILENT = 11


class Role(IntEnum):
    """`enum slot_role` of bpf/wire.h."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2


class Transport(IntEnum):
    """`enum slot_transport` of bpf/wire.h."""

    TCP = 1
    UDP = 2
    UNIX = 3


class Flag(IntFlag):
    """`enum slot_flag` of bpf/wire.h."""

    OLD_CONNECTION = 1
    SERVER_FIRST = 2
    NO_PAYLOAD = 4
    CONTINUED = 8
    OPENED = 16
    IDLE = 32
    CLOSED = 64
    ROLE_GUESSED = 128
    ACCELERATED = 256
    PEER_CLOSED = 512
    SELF_CLOSED = 1024
    FAILED = 2048
    UNREAD = 4096
    WATCHED = 8192


@dataclass(frozen=True, slots=True)
class Column:
    """A transaction attribute.

    name: OpenTelemetry semantic convention.
    type: `string` (an `Encoded` column), `int` (int64, `ABSENT` = none) or `bool` (int64, 1 = true).
    metric_label: whether golden-signal metrics are split by it (few distinct values only).
    label_values: the values that are labels as they are; others count as `_OTHER`. None: all are.
    """

    name: str
    type: Literal["string", "int", "bool"]
    help: str
    unit: str = ""
    metric_label: bool = False
    label_values: frozenset[str] | None = None


# OpenTelemetry: any other token is `_OTHER` in metrics, or clients could fill them with series.
_METHODS = frozenset(
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"]
)

# Of 65,536 types; clients may ask for any.
_RECORDS = frozenset(
    [
        *("A", "AAAA", "ANY", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NAPTR", "NS", "NSEC", "PTR"),
        *("RRSIG", "SOA", "SRV", "SVCB", "TLSA", "TXT"),
    ]
)


_OPERATIONS = frozenset(["CONNECT", "HPUB", "PING", "PUB", "SUB", "UNSUB"])


def _by_name(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


WAITS = "masdeepflow.db.blocking"
"""The attribute of transactions whose duration is no latency of the server."""
ERROR_TYPE = "error.type"
"""The attribute that tells why a request was never answered."""
WAITED = "masdeepflow.waited_ns"
"""The attribute that tells how long such a request waited."""
CLOSED_BY = "masdeepflow.closed_by"
"""The attribute that tells which end closed or reset the connection of such a request."""
ATTRIBUTES = _by_name(
    Column("http.request.method", "string", "Request method", metric_label=True, label_values=_METHODS),
    Column("url.path", "string", "Path of the request target"),
    Column("url.query", "string", "Query of the request target, without the question mark"),
    Column("http.response.status_code", "int", "Status code of the final response", metric_label=True),
    Column("network.protocol.version", "string", "Version of the protocol, 1.0 or 1.1 for HTTP/1"),
    Column("server.name", "string", "Host header of the request"),
    Column("user_agent.original", "string", "User-Agent header of the request"),
    Column("db.system.name", "string", "Database product", metric_label=True),
    Column(
        "db.query.text", "string", "Statement as the client sent it, or with literals replaced under --redact"
    ),
    Column("db.query.summary", "string", "Operation and target of the statement, free of literals"),
    Column("db.operation.name", "string", "Command or first keyword of the statement", metric_label=True),
    Column("db.collection.name", "string", "Collection that the command is for"),
    Column("db.namespace", "string", "Database in use"),
    Column("db.response.status_code", "string", "Error code of the database", metric_label=True),
    Column("db.response.message", "string", "Error message of the database"),
    Column("dns.question.name", "string", "Name that was asked for"),
    Column("dns.question.type", "string", "Type asked for", metric_label=True, label_values=_RECORDS),
    Column("dns.response_code", "string", "Response code", metric_label=True),
    Column("dns.answer_count", "int", "Records in the answer section"),
    Column("dns.extended_error", "string", "What RFC 8914 says of a response, and the server's own words"),
    Column("messaging.system", "string", "Messaging product", metric_label=True),
    Column(
        "messaging.operation.name",
        "string",
        "Operation as the protocol calls it, such as PUB",
        metric_label=True,
        label_values=_OPERATIONS,
    ),
    Column(
        "messaging.destination.template", "string", "Subject, with a star for what makes each of many its own"
    ),
    Column(
        ERROR_TYPE,
        "string",
        "Why the request was never answered: `timeout`, `closed` or `reset` (the connection was, before it), "
        "`retried` (it was asked again), `answered_elsewhere` (another server was asked too, and has "
        "answered: no error), an errno such as ECONNREFUSED; or what messaging was refused with",
    ),
    Column(
        WAITED,
        "int",
        "How long a request waited that was never answered, up to then; it has no `duration_ns`",
        unit="ns",
    ),
    Column(CLOSED_BY, "string", "Which end closed or reset the connection: `client` or `server`"),
    Column(
        WAITS,
        "string",
        "`true` where the operation waits by design (BLPOP, XREAD BLOCK, WAIT): not a latency of the server",
    ),
    Column("network.accelerated", "bool", "Whether the bytes went from socket to socket, past TCP"),
)
"""Attribute name -> column, in the order in which sinks show them."""

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_TAKEN = frozenset(["client", "container", "error", "k8s", "network", "process", "server", "tcp"])
"""First words of names that every transaction has, whatever its protocol."""


def extend(columns: Iterable[Column]) -> None:
    """Add attributes of a protocol that brings its own, so that sinks show them, behind all others.

    They split no metric: only those that stand above do, of few values as they are known to be. What is there
    already may be given again as it is. Raises ValueError, and adds nothing, for names that are taken or are
    no attribute's.
    """
    added = [replace(column, metric_label=False) for column in columns]
    for column in added:
        known = ATTRIBUTES.get(column.name, column)
        if replace(known, metric_label=False) != column:
            raise ValueError(f"{column.name} is another attribute already")
        if not _NAME.fullmatch(column.name):
            raise ValueError(f"{column.name!r} is no dotted name in lower case")
        if column.name not in ATTRIBUTES and column.name.partition(".")[0] in _TAKEN:
            raise ValueError(f"{column.name} begins like what every transaction has")
        if column.type not in {"string", "int"}:
            raise ValueError(f"{column.name} is of type {column.type!r}: string and int are due")
    for column in added:
        ATTRIBUTES.setdefault(column.name, column)
