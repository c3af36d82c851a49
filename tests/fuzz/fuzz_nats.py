"""The NATS parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_nats.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

from masdeepflow.protocols.nats import PROTOCOL
from tests.support.fuzzing import check_pipelined, check_recalled, fuzz
from tests.unit.protocols.nats_reference import check_equal

FRAGMENTS = [
    b'CONNECT {"verbose":false}\r\n',
    b"PING\r\n",
    b"PONG\r\n",
    b"SUB svc.* 1\r\n",
    b"sub orders.> workers 2\r\n",
    b"UNSUB 1 5\r\n",
    b"PUB orders.12 5\r\nhello\r\n",
    b"PUB orders.7  5\r\nhello\r\n",
    b"PUB svc.add _INBOX.9f86d081.1 2\r\nhi\r\n",
    b"PUB svc.add _INBOX.9f86d081.2 2\r\nhi\r\n",
    b"PUB svc.add answers 0\r\n\r\n",
    b"PUB svc.big _INBOX.9f86d081.3 300\r\n",
    b"HPUB svc.add _INBOX.9f86d081.4 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    b"HPUB orders.new 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    b"PUB orders.new 1x\r\nh\r\n",
    b"PUB \r\n",
    b"PUB svc",
    b'INFO {"server_id":"N"}\r\n',
    b"MSG _INBOX.9f86d081.1 1 2\r\nok\r\n",
    b"MSG _INBOX.9f86d081.2 1 2\r\nok\r\n",
    b"MSG answers 1 0\r\n\r\n",
    b"MSG _INBOX.9f86d081.3 1 300\r\n",
    b"MSG orders.12 2 _INBOX.x 5\r\nhello\r\n",
    b"HMSG _INBOX.9f86d081.4 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
    b"HMSG _INBOX.9f86d081.1 1 12 14\r\nNATS/1.0\r\n\r\nok\r\n",
    b"HMSG _INBOX.9f86d081.2 1 reply 28 30\r\nNATS/1.0 100 Heartbeat ..\r\n\r\nok\r\n",
    b"+OK\r\n",
    b"-ERR 'Authorization Violation'\r\n",
    b"-ERR 'Permissions Violation for Publish to \"orders\"'\r\n",
    b"-ERR",
    b"hello\r\n",
    b"\r\n",
    b"x" * 302,
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_pipelined(data, PROTOCOL, FRAGMENTS, check_equal)


def check_again(data: bytes) -> None:
    """Hold that what is known from earlier turns changes nothing."""
    check_recalled(data, PROTOCOL, FRAGMENTS)


if __name__ == "__main__":
    fuzz(check)
