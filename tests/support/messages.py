"""Messages of pipelined protocols as the column code has them, made by hand."""

from __future__ import annotations

import numpy as np

from masdeepflow.pipelined import Messages

__all__ = ["HIDDEN", "messages", "side"]

HIDDEN = ("?", "!")
"""What stands for a request and a reply that were not captured."""


def side(*rows: list[tuple[int, int, str]]) -> Messages[str]:
    """Return the messages (start, end, value) of each turn."""
    flat = [(row, *message) for row, messages in enumerate(rows) for message in messages]
    ended = [max([message[1] for message in messages], default=0) for messages in rows]
    return Messages(
        np.array([row for row, *_ in flat], np.intp),
        np.array([start for _, start, _, _ in flat], np.int64),
        np.array([end for _, _, end, _ in flat], np.int64),
        np.arange(len(flat), dtype=np.int32),
        [value for *_, value in flat],
        np.array(ended, np.int64),
        np.ones(len(rows), bool),
    )


def messages(size: int, *values: str) -> list[tuple[int, int, str]]:
    """Return messages of one size, one behind the other."""
    return [(size * number, size * (number + 1), value) for number, value in enumerate(values)]
