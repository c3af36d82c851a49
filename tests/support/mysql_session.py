"""A MySQL connection that sends any command, those of prepared statements in the binary protocol included."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Self

from masdeepflow.traffic_gen import mysql_wire as wire
from masdeepflow.traffic_gen.mysql_wire import Capability, Command
from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masdeepflow.traffic_gen.mysql_wire import Packet

__all__ = ["MySqlSession"]

_CAPABILITIES = (
    Capability.LONG_PASSWORD
    | Capability.LONG_FLAG
    | Capability.PROTOCOL_41
    | Capability.TRANSACTIONS
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_STATEMENTS
    | Capability.MULTI_RESULTS
    | Capability.PS_MULTI_RESULTS
    | Capability.PLUGIN_AUTH
)
_LONGLONG = 8


class MySqlSession:
    """Logged in as `root` without a password. Methods return once the whole answer is there.

    Those that the server may refuse return None or the error's code.
    """

    def __init__(self, port: int, host: str = LOOPBACK) -> None:
        self._sock = socket.create_connection((host, port), 10)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = wire.PacketReader()
        self._packets = self._receive()
        greeting = wire.Greeting.parse(next(self._packets).payload)
        self._send(wire.Login("root", b"", _CAPABILITIES & greeting.capabilities).encode(), 1)
        packet = next(self._packets)
        if packet.payload[0] == wire.EOF_HEADER:
            self._send(b"", packet.sequence + 1)
            packet = next(self._packets)
        assert packet.payload[0] == wire.OK_HEADER, packet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._send(bytes([Command.QUIT]))
        self._sock.close()

    def query(self, statement: str) -> int | None:
        """COM_QUERY: run one or several statements."""
        self._send(bytes([Command.QUERY]) + statement.encode())
        return self._results()

    def prepare(self, statement: str) -> int:
        """COM_STMT_PREPARE: return the statement's id, or minus the error's code."""
        self._send(bytes([Command.STMT_PREPARE]) + statement.encode())
        payload = next(self._packets).payload
        if payload[0] == wire.ERR_HEADER:
            return -wire.Err.parse(payload).code
        number, columns, parameters = struct.unpack_from("<IHH", payload, 1)
        for count in parameters, columns:
            if count:
                self._until_eof()
        return int(number)

    def execute(self, number: int, *values: int) -> int | None:
        """COM_STMT_EXECUTE with integers for the parameters."""
        payload = struct.pack("<BIBI", Command.STMT_EXECUTE, number, 0, 1)
        if values:
            payload += bytes((len(values) + 7) // 8) + b"\1" + bytes([_LONGLONG, 0]) * len(values)
            payload += struct.pack(f"<{len(values)}q", *values)
        self._send(payload)
        return self._results()

    def close_statement(self, number: int) -> None:
        """COM_STMT_CLOSE: there is no answer."""
        self._send(struct.pack("<BI", Command.STMT_CLOSE, number))

    def reset_statement(self, number: int) -> int | None:
        """COM_STMT_RESET."""
        return self.command(Command.STMT_RESET, number.to_bytes(4, "little"))

    def command(self, command: Command, argument: bytes = b"") -> int | None:
        """Send a command that one packet answers."""
        self._send(bytes([command]) + argument)
        payload = next(self._packets).payload
        return wire.Err.parse(payload).code if payload[0] == wire.ERR_HEADER else None

    def field_list(self, table: str) -> None:
        """COM_FIELD_LIST."""
        self._send(bytes([Command.FIELD_LIST]) + table.encode() + b"\0")
        self._until_eof()

    def _send(self, payload: bytes, sequence: int = 0) -> None:
        self._sock.sendall(wire.frame(payload, sequence))

    def _receive(self) -> Iterator[Packet]:
        while data := self._sock.recv(65536):
            yield from self._reader.feed(data)

    def _results(self) -> int | None:
        status = wire.MORE_RESULTS
        while status & wire.MORE_RESULTS:
            payload = next(self._packets).payload
            if payload[0] == wire.ERR_HEADER:
                return wire.Err.parse(payload).code
            status = wire.Ok.parse(payload).status if payload[0] == wire.OK_HEADER else self._rows()
        return None

    def _rows(self) -> int:
        self._until_eof()
        return self._until_eof()

    def _until_eof(self) -> int:
        while not wire.is_eof(payload := next(self._packets).payload):
            pass
        return wire.eof_status(payload)
