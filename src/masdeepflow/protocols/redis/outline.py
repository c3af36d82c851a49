"""What of a command or a reply makes a difference to how it is read: not its values, of its key the words."""

from __future__ import annotations

from masdeepflow.outlines import Outline
from masdeepflow.protocols.redis.commands import read_command
from masdeepflow.protocols.redis.resp import elements, read_frame

__all__ = ["reply_outline", "request_outline"]

_KEY = 2  # element of a command: its head, its name, its first argument
_ERROR, _INTEGER = ord("!"), ord(":")


def request_outline(data: bytes) -> Outline | None:
    """Return the outline of what was captured of requests; None where more than names and keys matter."""
    free: list[tuple[int, int]] = []
    masked: list[tuple[int, int]] = []
    at = 0
    while 0 <= at < len(data):
        frame = read_frame(data, at, requests=True)
        if frame is None:
            return None
        texts = [(start, end) for _, start, end in elements(data, frame, requests=True)]
        if not read_command(data[at : texts[_KEY][1]] if len(texts) > _KEY else data[at:]).whole:
            return None
        masked += [text for text in texts[_KEY : _KEY + 1] if text[0] < text[1]]
        free += [text for text in texts[_KEY + 1 :] if text[0] < text[1]]
        at = frame.end
    return Outline(data, free, masked)


def reply_outline(data: bytes) -> Outline | None:
    """Return the outline of what was captured of replies; None where their text matters."""
    free: list[tuple[int, int]] = []
    masked: list[tuple[int, int]] = []
    at = 0
    while 0 <= at < len(data):
        frame = read_frame(data, at, requests=False)
        if frame is None:
            return None
        for kind, start, end in elements(data, frame, requests=False):
            if kind == _ERROR:
                return None
            if start < end:
                (masked if kind == _INTEGER else free).append((start, end))
        at = frame.end
    return Outline(data, free, masked)
