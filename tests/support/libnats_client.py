"""A client of NATS over its C library: asks a service of its own, publishes, and asks nobody.

Run with the server's URL and the number of requests.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

_OK, _NO_RESPONDERS = 0, 34  # natsStatus
_TIMEOUT_MS = 5000

_library = ctypes.CDLL(ctypes.util.find_library("nats") or "libnats.so")
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def _answer(connection: int, _subscription: int, message: int, _closure: int) -> None:
    _library.natsMsg_GetReply.restype = ctypes.c_char_p
    reply = _library.natsMsg_GetReply(ctypes.c_void_p(message))
    _library.natsConnection_PublishString(ctypes.c_void_p(connection), reply, b"a secret answer")
    _library.natsMsg_Destroy(ctypes.c_void_p(message))


_HANDLER = _Handler(_answer)


def _check(status: int, expected: int = _OK) -> None:
    if status != expected:
        raise SystemExit(f"libnats: status {status}")


def _connect(url: bytes) -> ctypes.c_void_p:
    connection = ctypes.c_void_p()
    _check(_library.natsConnection_ConnectTo(ctypes.byref(connection), url))
    return connection


def _request(connection: ctypes.c_void_p, subject: bytes, expected: int = _OK) -> None:
    reply, timeout = ctypes.c_void_p(), ctypes.c_int64(_TIMEOUT_MS)
    status = _library.natsConnection_RequestString(
        ctypes.byref(reply), connection, subject, b"a secret", timeout
    )
    _check(status, expected)
    _library.natsMsg_Destroy(reply)


def main(url: str, count: int) -> None:
    """Do it; exit with a message if the library says that something failed."""
    service, client = _connect(url.encode()), _connect(url.encode())
    subscription = ctypes.c_void_p()
    _check(
        _library.natsConnection_Subscribe(ctypes.byref(subscription), service, b"billing.*", _HANDLER, None)
    )
    _check(_library.natsConnection_Flush(service))
    for number in range(count):
        _request(client, b"billing.%d" % number)
    _request(client, b"nobody.1", _NO_RESPONDERS)
    _check(_library.natsConnection_PublishString(client, b"invoices.7", b"a secret"))
    _check(_library.natsConnection_Flush(client))
    for connection in (client, service):
        _library.natsConnection_Destroy(connection)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
