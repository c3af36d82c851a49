"""The connection phase: the server's greeting and the client's login.

Sources: MySQL Source Code Documentation, page_protocol_connection_phase; MariaDB Knowledge Base, "Connection
Phase". Nothing here raises or keeps state, whatever the bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from masdeepflow.protocols.mysql.commands import HEADER_BYTES, Answer, Command, Kind, user_command

__all__ = ["Greeting", "Login", "compressed", "is_refusal", "read_greeting", "read_login"]

_CONNECT_WITH_DB = 1 << 3
_COMPRESS, _ZSTD = 1 << 5, 1 << 26
_PROTOCOL_41 = 1 << 9
_SSL = 1 << 11
_SECURE_CONNECTION = 1 << 15
_LENENC_AUTH = 1 << 21

_TLS_REQUEST_BYTES = 32
_TLS_REQUEST_320_BYTES = 5
_LOGIN = Kind("Login", "LOGIN", Answer.LOGIN)
_LENENC_WIDTHS = {0xFC: 2, 0xFD: 3, 0xFE: 8}

# Version, NUL, thread id (4), salt (8), 0, capabilities (2); then, from 4.1 on, character set (1), status
# (2), upper capabilities (2), length of the salt (1), 6 zeros; MySQL has 4 more, MariaDB its own flags.
_GREETING = re.compile(
    rb"\x0a(?P<version>[\x20-\x7e]{1,99})\0.{4}[^\0]{8}\0(?P<low>..)(?:...(?P<high>..).\0{6}|\Z)", re.DOTALL
)
_GREETING_9 = re.compile(rb"\x09(?P<version>[\x20-\x7e]{1,99})\0.{4}[^\0]{8}\0?\Z", re.DOTALL)
_REFUSAL = re.compile(rb"\xff(?P<code>..)(?:#[0-9A-Z]{5})?[\x20-\x7e\x80-\xff]{4,}\Z", re.DOTALL)
_REFUSAL_CODES = range(1000, 5000)


class Greeting(NamedTuple):
    """system: `mysql` or `mariadb`. capabilities: what the server offers."""

    system: str
    capabilities: int


class Login(NamedTuple):
    """command: as shown. capabilities: what the client chose. tls: TLS follows, and there is no user yet."""

    command: Command
    capabilities: int
    tls: bool


def read_greeting(response: bytes, response_bytes: int) -> Greeting | None:
    """Return the greeting that is all of a response, as far as captured; None if it is something else."""
    body = _only_packet(response, response_bytes, sequences=b"\0")
    found = _GREETING.match(body) or _GREETING_9.match(body)
    if not found:
        return None
    fields = found.groupdict()
    low, high = fields.get("low") or b"", fields.get("high") or b""
    system = "mariadb" if b"mariadb" in found["version"].lower() else "mysql"
    return Greeting(system, int.from_bytes(low + high, "little"))


def is_refusal(response: bytes, response_bytes: int) -> bool:
    """Whether a response is the ERR packet that a server sends in place of its greeting."""
    found = _REFUSAL.match(_only_packet(response, response_bytes, sequences=b"\0\1"))
    return found is not None and int.from_bytes(found["code"], "little") in _REFUSAL_CODES


def _only_packet(data: bytes, total: int, sequences: bytes) -> bytes:
    """Return the body of the packet that is all of `data`; nothing if there is none such."""
    whole = len(data) > HEADER_BYTES and int.from_bytes(data[:3], "little") + HEADER_BYTES == total
    return data[HEADER_BYTES:] if whole and data[3] in sequences else b""


def read_login(packet: bytes) -> Login | None:
    """Return the login, or the request for TLS, of a packet with its header, as far as captured.

    ::

        | capabilities (4) | largest packet (4) | character set (1) | zeros (19), MariaDB's capabilities (4)
        | user, NUL | authentication data | database, NUL | method, NUL | attributes

    A request for TLS ends before the user.
    Source: page_protocol_connection_phase_packets_protocol_handshake_response.
    """
    length, body = int.from_bytes(packet[:3], "little"), packet[HEADER_BYTES:]
    capabilities = int.from_bytes(body[:2], "little")
    if not capabilities & _PROTOCOL_41:
        return _read_login_320(body, length, capabilities)
    capabilities = int.from_bytes(body[:4], "little")
    if body[9:28] != bytes(19):
        return None
    if capabilities & _SSL and length == _TLS_REQUEST_BYTES:
        return Login(user_command(_LOGIN, b"", b"", cut=False), capabilities, tls=True)
    user, nul, rest = body[32:length].partition(b"\0")
    database, cut = _database(rest, capabilities) if nul else (b"", True)
    cut = cut and length > len(body)
    return Login(user_command(_LOGIN, user, database, cut=cut), capabilities, tls=False)


def _database(rest: bytes, capabilities: int) -> tuple[bytes, bool]:
    """Return the database of what follows the user, and whether its end is missing."""
    if not capabilities & _CONNECT_WITH_DB:
        return b"", False
    database, nul, _ = rest[_auth_end(rest, capabilities) :].partition(b"\0")
    return database, not nul


def _auth_end(rest: bytes, capabilities: int) -> int:
    if not capabilities & (_LENENC_AUTH | _SECURE_CONNECTION):
        return rest.find(b"\0") + 1 or len(rest)
    width = _LENENC_WIDTHS.get(rest[0], 0) if rest and capabilities & _LENENC_AUTH else 0
    number = rest[1 : 1 + width] if width else rest[:1]
    return 1 + width + int.from_bytes(number, "little")


def _read_login_320(body: bytes, length: int, capabilities: int) -> Login | None:
    """Before MySQL 4.1: capabilities (2), largest packet (3), user, NUL, data, NUL, database."""
    if capabilities & _SSL and length == _TLS_REQUEST_320_BYTES:
        return Login(user_command(_LOGIN, b"", b"", cut=False), capabilities, tls=True)
    user, nul, rest = body[5:length].partition(b"\0")
    if not nul or not user.isascii() or not user.decode("ascii").isprintable():
        return None
    database = rest.partition(b"\0")[2].partition(b"\0")[0] if capabilities & _CONNECT_WITH_DB else b""
    return Login(user_command(_LOGIN, user, database, cut=False), capabilities, tls=False)


def compressed(offered: int | None, chosen: int) -> bool:
    """Whether what follows the login is compressed; `offered` is None where the greeting was not seen."""
    agreed = chosen if offered is None else chosen & offered
    return bool(agreed & (_COMPRESS | _ZSTD))
