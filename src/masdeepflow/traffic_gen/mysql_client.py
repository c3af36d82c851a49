"""A small MySQL client: the real handshake, one statement, its answer as text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from masdeepflow.traffic_gen import mysql_wire as wire
from masdeepflow.traffic_gen import net
from masdeepflow.traffic_gen.mysql_wire import Capability, Command, Packet

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Iterator

__all__ = ["ServerError", "answer_lines", "run_client"]

_CAPABILITIES = (
    Capability.LONG_PASSWORD
    | Capability.LONG_FLAG
    | Capability.PROTOCOL_41
    | Capability.TRANSACTIONS
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_STATEMENTS
    | Capability.MULTI_RESULTS
    | Capability.PLUGIN_AUTH
    | Capability.PLUGIN_AUTH_LENENC_DATA
)

ANSWER_TIMEOUT_S = 300.0
"""Seconds a statement may take."""

_RECEIVE_BYTES = 65536
_AUTH_MORE_DATA = 0x01
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})


class ServerError(net.TrafficError):
    """The server answered with an ERR packet; the text is its code, SQLSTATE and message."""


class _Stream:
    """Packets over a blocking socket, each asked for when it is needed."""

    def __init__(self, sock: socket.socket, where: str) -> None:
        self._sock = sock
        self._where = where
        self._reader = wire.PacketReader()
        self._packets: Iterator[Packet] = iter(())

    def __iter__(self) -> Iterator[Packet]:
        return self

    def __next__(self) -> Packet:
        while (packet := next(self._packets, None)) is None:
            self._packets = self._reader.feed(self._receive())
        return packet

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise net.TrafficError(_no_answer(self._where)) from error
        except OSError as error:
            raise net.TrafficError(_closed(self._where)) from error
        if not data:
            raise net.TrafficError(_closed(self._where))
        return data

    def send(self, payload: bytes, sequence: int) -> None:
        try:
            self._sock.sendall(wire.frame(payload, sequence))
        except OSError as error:
            raise net.TrafficError(_closed(self._where)) from error


def _log_in(stream: _Stream, user: str, password: str) -> None:
    """Take the greeting and log in with mysql_native_password.

    Raises:
        ServerError: the server refuses.
        TrafficError: it wants another method.
        WireError: it speaks another protocol.

    """
    greeting = wire.Greeting.parse(_checked(next(stream)).payload)
    login = wire.Login(user, wire.scramble(password, greeting.salt), _CAPABILITIES & greeting.capabilities)
    stream.send(login.encode(), 1)
    packet = _checked(next(stream))
    if packet.payload[0] == wire.EOF_HEADER:
        switch = wire.AuthSwitch.parse(packet.payload)
        if switch.plugin != wire.NATIVE:
            raise net.TrafficError(_other_method(user, switch.plugin))
        stream.send(wire.scramble(password, switch.salt), packet.sequence + 1)
        packet = _checked(next(stream))
    if packet.payload[0] == _AUTH_MORE_DATA:
        raise net.TrafficError(_other_method(user, greeting.plugin))
    if packet.payload[0] != wire.OK_HEADER:
        raise wire.WireError(_UNEXPECTED)


_UNEXPECTED = "an unexpected packet"


def _other_method(user: str, plugin: str) -> str:
    return (
        f"User {user!r} logs in with {plugin}, traffic_gen speaks {wire.NATIVE} only: "
        "choose another --user or change the method with ALTER USER."
    )


def _checked(packet: Packet) -> Packet:
    """Hand the packet on unless it is empty or carries an error."""
    if not packet.payload:
        raise wire.WireError(_UNEXPECTED)
    if packet.payload[0] == wire.ERR_HEADER:
        raise ServerError(str(wire.Err.parse(packet.payload)))
    return packet


def answer_lines(packets: Iterator[Packet]) -> Iterator[str]:
    """Turn the answer to a COM_QUERY into lines, result after result (page_protocol_com_query_response).

    Raises:
        ServerError: a statement failed.
        WireError: the packets are not an answer.

    """
    status = wire.MORE_RESULTS
    while status & wire.MORE_RESULTS:
        payload = _checked(next(packets)).payload
        if payload[0] == wire.OK_HEADER:
            answer = wire.Ok.parse(payload)
            yield f"OK, {answer.affected_rows} rows affected"
            status = answer.status
        else:
            status = yield from _result_set(payload, packets)


def _result_set(first: bytes, packets: Iterator[Packet]) -> Generator[str, None, int]:
    """Yield names and rows; return the status flags."""
    count = wire.Fields(first).lenenc_int()
    if count is None:
        raise wire.WireError(_UNEXPECTED)
    names = [wire.column_name(next(packets).payload) for _ in range(count)]
    yield "\t".join(name.translate(_ESCAPES) for name in names)
    if not wire.is_eof(next(packets).payload):
        raise wire.WireError(_UNEXPECTED)
    while not wire.is_eof(payload := _checked(next(packets)).payload):
        yield "\t".join(map(_text, wire.text_row(payload)))
    return wire.eof_status(payload)


def _text(value: bytes | None) -> str:
    """Write a value the way ``mysql --batch`` does."""
    return "NULL" if value is None else value.decode(errors="backslashreplace").translate(_ESCAPES)


def run_client(host: str, port: int, statement: str, user: str, password: str) -> None:
    """Log in, send one statement, print its answer, and on stderr the time it took.

    Raises:
        ServerError: the server refused the login or the statement.
        TrafficError: no connection, or no MySQL server behind it.

    """
    where = net.endpoint(host, port)
    with net.connect(host, port) as sock:
        stream = _Stream(sock, where)
        try:
            _log_in(stream, user, password)
            sock.settimeout(ANSWER_TIMEOUT_S)
            latency_ms = _ask(stream, statement)
        except wire.WireError as error:
            raise net.TrafficError(_no_mysql(where, error)) from error
        stream.send(bytes([Command.QUIT]), 0)
    click.echo(f"Latency: {latency_ms:.2f} ms", err=True)


def _ask(stream: _Stream, statement: str) -> float:
    start = time.perf_counter_ns()
    stream.send(bytes([Command.QUERY]) + statement.encode(errors="surrogateescape"), 0)
    lines = answer_lines(stream)
    first = next(lines)
    latency_ms = (time.perf_counter_ns() - start) / 1e6
    click.echo(first)
    for line in lines:
        click.echo(line)
    return latency_ms


def _no_answer(where: str) -> str:
    return f"{where} sent no MySQL packet in time: check the server or change --port."


def _closed(where: str) -> str:
    return f"{where} closed the connection before its answer was whole: check the server or change --port."


def _no_mysql(where: str, error: Exception) -> str:
    return f"{where} does not answer like a MySQL server ({error}): check the server or change --port."
