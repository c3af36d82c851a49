"""Statements that common turns prepare and close, and what those show that execute them, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.protocols.mysql.commands import HEADER_BYTES, Code, Command, on_statement
from masdeepflow.protocols.mysql.connection import Connection
from masdeepflow.protocols.mysql.replies import OK_BYTE
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.mysql.connection import Connections
    from masdeepflow.protocols.mysql.requests import Requests

__all__ = ["Prepared"]

_ID = slice(HEADER_BYTES + 1, HEADER_BYTES + 5)
"""Of a statement, in a request; and in the reply to a COM_STMT_PREPARE."""


class Prepared:
    """What n requests of a batch do to the statements of their connections, and what they execute.

    response: uint8 (n, w), of each. commands: what they show, `ABSENT` where they execute.
    """

    def __init__(self, requests: Requests, response: NDArray[np.uint8], commands: Coded[Command]) -> None:
        self._requests, self._response, self._commands = requests, response, commands
        code = requests.payload[:, HEADER_BYTES]
        self._executes = code == Code.STMT_EXECUTE
        self._prepares = code == Code.STMT_PREPARE
        self._changes = self._prepares | (requests.closes > 0)
        self._shown = np.full(len(code), ABSENT, np.int32)
        self._values: dict[Command, int] = {}

    def learn(
        self,
        rows: NDArray[np.intp],
        owner: NDArray[np.integer],
        cookies: Sequence[int],
        connections: Connections,
    ) -> None:
        """Follow what `rows` (k,), ascending, prepare and close, and what those execute that do.

        owner: (n,), index into `cookies`.
        """
        changing = rows[self._changes[rows]]
        if not len(changing):
            return
        concerned = np.zeros(len(cookies), bool)
        concerned[owner[changing]] = True
        some = rows[concerned[owner[rows]] & (self._changes | self._executes)[rows]]
        some = some[np.argsort(owner[some], kind="stable")]
        for mine in np.split(some, np.flatnonzero(np.diff(owner[some])) + 1):
            cookie = cookies[int(owner[mine[0]])]
            connection = connections.get(cookie) or Connection()
            before = len(connection.statements)
            self._follow(connection, mine)
            connections.keep(cookie, connection, before)

    def _follow(self, connection: Connection, rows: NDArray[np.intp]) -> None:
        """Follow `rows` (k,) of one connection."""
        requests, values = self._requests, self._values
        columns = (
            rows.tolist(),
            requests.closes[rows].tolist(),
            requests.closed[rows].tolist(),
            self._executes[rows].tolist(),
            _ids(requests.payload, rows),
            self._commands.codes[rows].tolist(),
            self._answers(rows),
        )
        for row, closes, closed, executes, statement, code, answer in zip(*columns, strict=True):
            for place in range(closes):
                connection.statements.pop(closed[place], None)
            if executes:
                command = connection.statements.get(statement)
                if command is None:
                    command = connection.with_statement(on_statement(Code.STMT_EXECUTE, statement))
                self._shown[row] = values.setdefault(command, len(values))
            elif code >= 0 and (execute := self._commands.values[code].execute) is not None:
                connection.prepare(answer, execute)

    def _answers(self, rows: NDArray[np.intp]) -> list[int | None]:
        """Return the id in each reply, were it that to a COM_STMT_PREPARE; None where it is an error."""
        response = self._response
        accepted = (response[rows, HEADER_BYTES] == OK_BYTE).tolist()
        return [
            statement if good else None
            for statement, good in zip(_ids(response, rows), accepted, strict=True)
        ]

    def shown(self, rows: NDArray[np.intp]) -> Coded[Command]:
        """Return what executions show of `rows` (m,) that `learn` was told of, `ABSENT` for others."""
        return Coded(self._shown[rows], list(self._values))


def _ids(payload: NDArray[np.uint8], rows: NDArray[np.intp]) -> list[int]:
    if payload.shape[1] < _ID.stop:
        return [0] * len(rows)
    ids: list[int] = np.ascontiguousarray(payload[rows, _ID]).view("<u4")[:, 0].tolist()
    return ids
