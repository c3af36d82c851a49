"""A mock MySQL server: the real handshake, then an OK packet for each statement.

``Session`` holds the protocol and knows no socket; ``handler`` gives it one.
"""

from __future__ import annotations

import itertools
import re
import secrets
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masdeepflow.traffic_gen import mysql_wire as wire
from masdeepflow.traffic_gen import net
from masdeepflow.traffic_gen.mysql_wire import Capability, Command, Err, Packet

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

__all__ = ["Reply", "Session", "handler", "parameter_count", "run_server"]

VERSION = "5.7.44-traffic_gen"
"""Clients choose features by it; 5.7 is the last whose default method is mysql_native_password."""

# Neither TLS nor compression, so that the traffic can be read; no DEPRECATE_EOF, for plain EOF packets.
_CAPABILITIES = (
    Capability.LONG_PASSWORD
    | Capability.FOUND_ROWS
    | Capability.LONG_FLAG
    | Capability.CONNECT_WITH_DB
    | Capability.ODBC
    | Capability.IGNORE_SPACE
    | Capability.PROTOCOL_41
    | Capability.INTERACTIVE
    | Capability.TRANSACTIONS
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_STATEMENTS
    | Capability.MULTI_RESULTS
    | Capability.PS_MULTI_RESULTS
    | Capability.PLUGIN_AUTH
    | Capability.CONNECT_ATTRS
    | Capability.PLUGIN_AUTH_LENENC_DATA
)

_OK = wire.Ok().encode()
_FAST_AUTH_SUCCESS = b"\x01\x03"
_MAX_STATEMENTS = 16382
_STARTED = time.monotonic()
_RECEIVE_BYTES = 65536

# Numbers and texts: MySQL Server Error Message Reference.
_BAD_HANDSHAKE = Err(1043, "08S01", "Bad handshake")
_UNKNOWN_COMMAND = Err(1047, "08S01", "Unknown command")
_TOO_LARGE = Err(1153, "08S01", "Got a packet bigger than 'max_allowed_packet' bytes")
_MALFORMED = Err(1835, "HY000", "Malformed communication packet.")
_UNKNOWN_STATEMENT = Err(1243, "HY000", "Unknown prepared statement handler")
_TOO_MANY_STATEMENTS = Err(1461, "42000", "Can't create more than max_prepared_stmt_count statements")


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes for the client; ``is_answer`` marks the answer to a statement, which is to be delayed."""

    data: bytes
    is_answer: bool = False


class Session:
    """The server's side of one connection."""

    def __init__(self, connection_id: int) -> None:
        """Draw a new salt for the connection."""
        self.closed = False
        self._connection_id = connection_id
        self._salt = _new_salt()
        self._reader = wire.PacketReader()
        self._take: Callable[[Packet], Reply] = self._login
        self._statement_ids = itertools.count(1)
        self._statements: set[int] = set()

    def greeting(self) -> bytes:
        """Return what the server says first."""
        greeting = wire.Greeting(VERSION, self._connection_id, self._salt, _CAPABILITIES)
        return wire.frame(greeting.encode(), 0)

    def receive(self, data: bytes) -> Iterator[Reply]:
        """Yield a reply for each command that ``data`` completes, except those that get none.

        Any of them may set ``closed``, after which the connection is to be closed.
        """
        try:
            for packet in self._reader.feed(data):
                reply = self._take(packet)
                if reply.data:
                    yield reply
                if self.closed:
                    return
        except wire.PacketTooLargeError:
            yield self._give_up(_TOO_LARGE)

    def _login(self, packet: Packet) -> Reply:
        try:
            login = wire.Login.parse(packet.payload)
        except wire.WireError:
            return self._give_up(_BAD_HANDSHAKE, packet)
        if login.plugin == wire.NATIVE:
            self._take = self._command
            return _reply(packet, _OK)
        # A client that started with another method waits for one of its packets, not for OK.
        sha2 = login.plugin == wire.CACHING_SHA2
        self._take = self._sha2_answer if sha2 else self._native_answer
        plugin = wire.CACHING_SHA2 if sha2 else wire.NATIVE
        return _reply(packet, wire.AuthSwitch(plugin, self._salt).encode())

    def _native_answer(self, packet: Packet) -> Reply:
        self._take = self._command
        return _reply(packet, _OK)

    def _sha2_answer(self, packet: Packet) -> Reply:
        """Let any password pass, as if it were cached.

        An empty password is a single NUL and ends the exchange (page_caching_sha2_authentication_exchanges).
        """
        self._take = self._command
        if packet.payload in (b"", b"\0"):
            return _reply(packet, _OK)
        return _reply(packet, _FAST_AUTH_SUCCESS, _OK)

    def _command(self, packet: Packet) -> Reply:
        answer = self._COMMANDS.get(packet.payload[0]) if packet.payload else None
        if answer is None:
            return _reply(packet, _UNKNOWN_COMMAND.encode())
        try:
            payloads = answer(self, packet.payload[1:])
        except wire.WireError:
            payloads = [_MALFORMED.encode()]
        return _reply(packet, *payloads, is_answer=packet.payload[0] in _STATEMENT_COMMANDS)

    def _give_up(self, error: Err, packet: Packet | None = None) -> Reply:
        self.closed = True
        return _reply(packet or Packet(0, b""), error.encode())

    def _quit(self, _body: bytes) -> list[bytes]:
        self.closed = True
        return []

    def _ok(self, _body: bytes) -> list[bytes]:
        return [_OK]

    def _eof(self, _body: bytes) -> list[bytes]:
        return [wire.EOF]

    def _nothing(self, _body: bytes) -> list[bytes]:
        return []

    def _statistics(self, _body: bytes) -> list[bytes]:
        return [
            f"Uptime: {time.monotonic() - _STARTED:.0f}  Threads: 1  Questions: 0  Slow queries: 0".encode()
        ]

    def _prepare(self, body: bytes) -> list[bytes]:
        """Announce parameters and no columns, page_protocol_com_stmt_prepare."""
        if len(self._statements) >= _MAX_STATEMENTS:
            return [_TOO_MANY_STATEMENTS.encode()]
        statement_id = next(self._statement_ids)
        self._statements.add(statement_id)
        count = parameter_count(body)
        first = struct.pack("<BIHHxH", wire.OK_HEADER, statement_id, 0, count, 0)
        return [first, *[wire.column_definition("?")] * count, *[wire.EOF] * bool(count)]

    def _use_statement(self, body: bytes) -> list[bytes]:
        known = wire.Fields(body).integer(4) in self._statements
        return [_OK if known else _UNKNOWN_STATEMENT.encode()]

    def _close_statement(self, body: bytes) -> list[bytes]:
        self._statements.discard(wire.Fields(body).integer(4))
        return []

    def _reset_connection(self, _body: bytes) -> list[bytes]:
        self._statements.clear()
        return [_OK]

    _COMMANDS: ClassVar[dict[int, Callable[[Session, bytes], list[bytes]]]] = {
        Command.QUIT: _quit,
        Command.INIT_DB: _ok,
        Command.QUERY: _ok,
        Command.FIELD_LIST: _eof,
        Command.STATISTICS: _statistics,
        Command.DEBUG: _eof,
        Command.PING: _ok,
        Command.CHANGE_USER: _reset_connection,
        Command.STMT_PREPARE: _prepare,
        Command.STMT_EXECUTE: _use_statement,
        Command.STMT_SEND_LONG_DATA: _nothing,
        Command.STMT_CLOSE: _close_statement,
        Command.STMT_RESET: _use_statement,
        Command.SET_OPTION: _eof,
        Command.RESET_CONNECTION: _reset_connection,
    }


_STATEMENT_COMMANDS = frozenset({Command.QUERY, Command.STMT_EXECUTE})


def _reply(packet: Packet, *payloads: bytes, is_answer: bool = False) -> Reply:
    return Reply(wire.frames(payloads, packet.sequence + 1), is_answer)


def _new_salt() -> bytes:
    """Draw 20 bytes without NUL, which ends the salt on the wire."""
    return bytes(1 + secrets.randbelow(255) for _ in range(wire.SALT_BYTES))


_NOT_A_PARAMETER = re.compile(
    rb"""'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `[^`]*` | /\*.*?\*/ | --\s[^\n]* | \#[^\n]*""",
    re.DOTALL | re.VERBOSE,
)


def parameter_count(statement: bytes) -> int:
    """Count the ``?`` of a statement outside strings, quoted names and comments."""
    return min(_NOT_A_PARAMETER.sub(b"", statement).count(b"?"), 0xFFFF)


def handler(delay_s: float) -> net.Handle:
    """Speak MySQL on each connection; statements are answered ``delay_s`` seconds after they were read."""
    connection_ids = itertools.count(1)

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        _converse(sock, Session(next(connection_ids)), delay_s)

    return handle


def _converse(sock: socket.socket, session: Session, delay_s: float) -> None:
    sock.sendall(session.greeting())
    while not session.closed and (data := sock.recv(_RECEIVE_BYTES)):
        for reply in session.receive(data):
            if reply.is_answer:
                time.sleep(delay_s)
            sock.sendall(reply.data)


def run_server(host: str, port: int, delay_s: float) -> None:
    """Serve MySQL until a signal.

    Raises:
        TrafficError: the address cannot be bound.

    """
    net.serve("MySQL server", host, port, handler(delay_s))
