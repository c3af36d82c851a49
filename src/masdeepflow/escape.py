"""Text off the network or out of a process, made safe to print: one line, nothing that a terminal obeys."""

from __future__ import annotations

import re
from json.encoder import encode_basestring, encode_basestring_ascii

__all__ = ["TEXT_LIMIT", "escape", "json_string"]

TEXT_LIMIT = 15 * 1024
"""Bytes of UTF-8 that an escaped text takes at most, so that the line around it stays below 16 KiB."""

_CUT = "..."
_UTF8_MOST = 4  # bytes of a character
_BYTE_MOST = 0xFF
_BMP_MOST = 0xFFFF
_RAW_BYTES = range(0xDC80, 0xDD00)  # how surrogateescape stands for bytes that are not UTF-8 (PEP 383)
_ASCII_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def escape(text: str, limit: int = TEXT_LIMIT) -> str:
    r"""Return `text` with everything unprintable as `\xNN`, `\uNNNN` or `\UNNNNNNNN`, cut to `limit` bytes.

    Unprintable is what `str.isprintable` says: controls, line separators, bidirectional overrides, exotic
    spaces, unassigned characters, surrogates. A byte that was not UTF-8 shows as that byte, `\xff`.
    """
    safe = text if text.isprintable() else _escaped(text)
    return safe if len(safe) * _UTF8_MOST <= limit else _cut(safe, limit)


def json_string(text: str) -> str:
    r"""Return `text` as a JSON string, quotes included: UTF-8 on one line, parsed back to the same text.

    Only surrogates, which JSON's readers may refuse, come back differently: as `escape` shows them.
    """
    if text.isprintable():
        return encode_basestring(text)
    # The standard encoder leaves DEL as it is, and a terminal does not.
    return encode_basestring_ascii(_SURROGATE.sub(_code, text)).replace("\x7f", "\\u007f")


def _escaped(text: str) -> str:
    # Line breaks in statements are what is common here, and the expression is quicker than a loop in Python.
    text = _ASCII_CONTROL.sub(_code, text)
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else _code(char) for char in text])


def _code(char: str | re.Match[str]) -> str:
    number = ord(char if isinstance(char, str) else char[0])
    if number in _RAW_BYTES:
        number -= _RAW_BYTES.start - 0x80
    if number <= _BYTE_MOST:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= _BMP_MOST else f"\\U{number:08x}"


def _cut(text: str, limit: int) -> str:
    data = text.encode()
    if len(data) <= limit:
        return text
    return data[: limit - len(_CUT)].decode(errors="ignore") + _CUT
