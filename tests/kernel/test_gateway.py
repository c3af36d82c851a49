"""The gateway on this kernel: who is redirected, who is not, and how sockets leave."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from masdeepflow.gateway import awake, pins
from masdeepflow.gateway.awake import CannotError, PowerQos, Spinners
from masdeepflow.gateway.conformance import BEHAVIOURS
from masdeepflow.gateway.kernel import Gateway
from masdeepflow.gateway.pairs import Awake
from masdeepflow.gateway.selftest import Track
from masdeepflow.gateway.service import Service
from masdeepflow.gateway.watchdog import waits_for
from tests.support.exchange import exchange
from tests.support.namespaces import Cable
from tests.support.programs import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from masdeepflow.gateway.awake import Keeper
    from masdeepflow.gateway.conformance.table import Behaviour
    from masdeepflow.gateway.pairs import Totals
    from tests.support.exchange import Received

pytestmark = pytest.mark.root

MANY = 9_000
"""Connections at once. Two processes share them: their descriptors would pass the limit of one."""


def _cgroup() -> Path:
    root = pins.cgroup_root()
    assert root is not None
    return root


@pytest.fixture(scope="module", params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def track(request: pytest.FixtureRequest) -> Iterator[Track]:
    """Yield plain and accelerated listeners on loopback."""
    with Track(_cgroup(), request.param) as ready:
        yield ready


@pytest.fixture
def fresh() -> Iterator[Track]:
    """Yield a track of the test's own."""
    with Track(_cgroup()) as ready:
        yield ready


def _totals(track: Track) -> Totals:
    return track.gateway.pairs.totals()


def _gone(track: Track) -> None:
    """Wait until no connection is known and nothing is in the hash."""
    until(lambda: not len(track.gateway.pairs.used()), lambda: str(_totals(track)))
    track.gateway.evict()
    assert track.gateway.members() == 0


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=[behaviour.name for behaviour in BEHAVIOURS])
def test_applications_see_no_difference(track: Track, behaviour: Behaviour) -> None:
    """A redirected pair behaves as a plain one does; where it can't, the guard has noticed."""
    result = track.try_out(behaviour)
    assert result.verdict in (("same", "excluded") if behaviour.guarded else ("same",)), result


def test_bytes_are_redirected_from_the_first_on(track: Track) -> None:
    """In both directions, and none goes by TCP."""
    before = _totals(track)
    client, server = track.connect(accelerated=True)
    with client, server:
        client.sendall(b"x" * 1000)
        server.sendall(b"y" * 300)
        assert (len(server.recv(2000)), len(client.recv(2000))) == (1000, 300)
        after = _totals(track)
    assert after.redirected_bytes - before.redirected_bytes == 1300
    assert after.tcp_bytes == before.tcp_bytes
    _gone(track)


def test_other_ports_are_left_alone(track: Track) -> None:
    """Their sockets never come near the hash."""
    before = _totals(track)
    client, server = track.connect(accelerated=False)
    with client, server:
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        assert not len(track.gateway.pairs.used())
    assert _totals(track) == before


def test_connections_older_than_the_gateway_stay_plain() -> None:
    """Their bytes may be on their way by TCP already."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server, Gateway([listener.getsockname()[1]], _cgroup(), kept=False) as gateway:
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            assert gateway.pairs.totals().pairs == 0
            assert gateway.evict() == gateway.members() == 0


def test_a_server_that_defers_its_accept_is_left_to_tcp(fresh: Track) -> None:
    """TCP_DEFER_ACCEPT: the first bytes come before the server's socket is there; both leave the hash."""
    port = fresh.gateway
    with socket.socket() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port.trust(listener.getsockname()[1])
        client = socket.create_connection(listener.getsockname())
        client.sendall(b"first")
        server, _ = listener.accept()
        with client, server:
            assert server.recv(10) == b"first"
            server.sendall(b"answer")
            assert client.recv(10) == b"answer"
            totals = _totals(fresh)
            assert (totals.pairs, totals.redirected_bytes) == (0, 0)
            assert totals.left == {"first byte sent before both ends were in the hash": 1}
            fresh.gateway.evict()
            assert fresh.gateway.members() == 0
    _gone(fresh)


def test_a_client_of_another_host_never_enters_the_hash(fresh: Track) -> None:
    """No listener of this host has seen its SYN: here one whose gateway watches the client's cgroup only."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        inside = _cgroup() / f"masdeepflow-test-{os.getpid()}"
        inside.mkdir()
        try:
            with Gateway([port], inside, kept=False) as gateway:
                child = os.fork()
                if not child:
                    _connect_from(inside, port)
                server, _ = listener.accept()
                with server:
                    assert server.recv(1) == b"x"
                    assert gateway.evict() == gateway.members() == 0
                    totals = gateway.pairs.totals()
                    assert (totals.pairs, totals.not_local) == (0, 1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            until(lambda: not (inside / "cgroup.procs").read_text())
            inside.rmdir()
    assert _totals(fresh).pairs == 0


def _connect_from(cgroup: Path, port: int) -> None:
    """Be a client in that cgroup; never returns."""
    code = 1
    try:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"x")
            code = 0 if client.recv(1) == b"" else 1
    finally:
        os._exit(code)


def test_containers_of_one_host_are_redirected(fresh: Track) -> None:
    """Across network namespaces: the sequence numbers of both ends prove that they are one connection."""
    with Cable() as cable, cable.socket(0) as client, cable.socket(1) as listener:
        listener.bind((cable.addresses[1], 8080))
        listener.listen()
        fresh.gateway.trust(8080)
        client.connect((cable.addresses[1], 8080))
        server, _ = listener.accept()
        with server:
            client.sendall(b"across")
            assert server.recv(10) == b"across"
            server.sendall(b"back")
            assert client.recv(10) == b"back"
            assert (_totals(fresh).pairs, _totals(fresh).redirected_bytes) == (1, 10)


def test_what_is_held_back_in_a_container_is_pushed(fresh: Track) -> None:
    """As soon as its reader has left the hash: TCP itself would try again after 0.2 s, then 0.4 s."""
    with Cable() as cable, cable.socket(0) as client, cable.socket(1) as listener:
        listener.bind((cable.addresses[1], 8080))
        listener.listen()
        fresh.gateway.trust(8080)
        fresh.gateway.limit(1 << 20)
        client.connect((cable.addresses[1], 8080))
        server, _ = listener.accept()
        with server:
            client.sendall(bytes(1 << 20))
            client.sendall(b"behind")
            assert _totals(fresh).left == {"slow reader": 1}
            server.settimeout(10)
            got = b""
            while len(got) < (1 << 20) + 6:
                got += server.recv(1 << 18)
            assert got.endswith(b"behind")
            until(lambda: not fresh.gateway.evict() and fresh.gateway.members() == 0)


def test_the_same_addresses_in_other_namespaces_are_other_connections(fresh: Track) -> None:
    """Two loopbacks have the same addresses and ports; bytes stay in their own."""
    fresh.gateway.trust(8080)
    with Cable() as cable:
        ends = []
        for number in range(2):
            listener = cable.socket(number)
            listener.bind(("127.0.0.1", 8080))
            listener.listen()
            client = cable.socket(number)
            client.bind(("127.0.0.1", 40000))
            client.connect(("127.0.0.1", 8080))
            ends.append((client, listener.accept()[0], listener))
        for number, (client, _, _) in enumerate(ends):
            client.sendall(b"%d" % number)
        assert [server.recv(10) for _, server, _ in ends] == [b"0", b"1"]
        assert _totals(fresh).pairs == 2
        for sock in (sock for group in ends for sock in group):
            sock.close()


def test_a_slow_reader_bounds_what_is_queued(fresh: Track) -> None:
    """Its writer is blocked by TCP's own buffers, and both ends leave the hash once it has read."""
    room = 1 << 20
    fresh.gateway.limit(room)
    client, server = fresh.connect(accelerated=True)
    with client, server:
        client.setblocking(False)  # noqa: FBT003  # the socket module's signature
        sent, most = 0, 0
        chunk = bytes(1 << 16)
        for _ in range(4096):
            try:
                sent += client.send(chunk)
            except BlockingIOError:
                break
            rows = fresh.gateway.pairs.rows[fresh.gateway.pairs.used()]
            most = max(most, int(fresh.gateway.pairs.queued(rows).max()))
        assert most <= room
        assert sent < len(chunk) * 4096
        assert _totals(fresh).left == {"slow reader": 1}
        server.settimeout(10)
        while sent:
            sent -= len(server.recv(min(sent, 1 << 18)))
        until(lambda: not fresh.gateway.evict() and fresh.gateway.members() == 0)


def test_all_readers_share_a_budget(fresh: Track) -> None:
    """Many slow ones together do not use up the memory that the kernel has for TCP."""
    budget, chunk = 4 << 20, bytes(1 << 16)
    fresh.gateway.limit(budget=budget)
    pairs = [fresh.connect(accelerated=True) for _ in range(16)]
    expected = []
    for client, _ in pairs:
        client.setblocking(False)  # noqa: FBT003  # the socket module's signature
        expected.append(sum(client.send(chunk) for _ in range(20)))
    rows = fresh.gateway.pairs.rows[fresh.gateway.pairs.used()]
    assert fresh.gateway.pairs.queued(rows).sum() <= budget
    assert _totals(fresh).left == {"slow reader": 16}
    for (client, server), sent in zip(pairs, expected, strict=True):
        server.settimeout(10)
        got = 0
        while got < sent:
            got += len(server.recv(sent - got))
        client.close()
        server.close()


def test_many_short_messages_are_bounded_too(fresh: Track) -> None:
    """Each takes kernel memory beside its bytes: their writer goes by TCP long before the room is full."""
    client, server = fresh.connect(accelerated=True)
    with client, server:
        sent = 0
        while not (left := _totals(fresh).left) and sent < 100_000:
            for _ in range(100):
                sent += client.send(b"x")
        assert left == {"slow reader": 1}
        assert 1000 < sent < 20_000
        server.settimeout(10)
        while sent:
            sent -= len(server.recv(sent))


def test_a_program_that_needs_tcp_is_found_out(fresh: Track) -> None:
    """One receive with MSG_WAITALL, and its server's next connections stay plain."""
    client, server = fresh.connect(accelerated=True)
    with client, server:
        client.sendall(b"0123456789")
        until(lambda: select.select([server], [], [], 0)[0])
        assert server.recv(10, socket.MSG_WAITALL) == b"0123456789"
        assert fresh.gateway.distrusted().popitem()[1] == "MSG_WAITALL"
        client.sendall(b"more")
        assert server.recv(4) == b"more"
    after = fresh.connect(accelerated=True)
    with after[0], after[1]:
        assert not fresh.is_redirected(after[0])
    assert _totals(fresh).pairs == 1


def test_the_first_such_call_of_a_reader_asleep_is_served_by_tcp(fresh: Track) -> None:
    """What it sleeps in is seen before the first byte: MSG_WAITALL gets all that it asked for."""
    client, server = fresh.connect(accelerated=True)
    with client, server, ThreadPoolExecutor(1) as beside:
        server.settimeout(None)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
        got = beside.submit(server.recv, 10, socket.MSG_WAITALL)
        until(lambda: waits_for(os.getpid(), os.fstat(server.fileno()).st_ino))
        for part in (b"01234", b"56789"):
            client.sendall(part)
            time.sleep(0.01)
        assert got.result() == b"0123456789"
    assert _totals(fresh).left["MSG_WAITALL"] == 1
    assert not _totals(fresh).redirected_bytes


def test_a_splice_of_redirected_bytes_ends_in_an_error(fresh: Track) -> None:
    """It can't see them: an error is what the application can handle, waiting for ever is not."""
    client, server = fresh.connect(accelerated=True)
    out, into = os.pipe()
    with client, server:
        client.sendall(b"unseen")
        until(lambda: select.select([server], [], [], 0)[0])
        server.settimeout(None)
        with pytest.raises(OSError, match=r"abort|reset"):
            _splice_to_the_end(server, into)
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    os.close(out)
    os.close(into)
    assert _totals(fresh).reset == 1


def _splice_to_the_end(sock: socket.socket, into: int) -> None:
    while os.splice(sock.fileno(), into, 10):
        pass
    sock.recv(1)


def _exchanged(track: Track, count: int, messages: int, *, accelerated: bool) -> list[object]:
    pairs = [track.connect(accelerated=accelerated) for _ in range(count)]
    results: list[tuple[Received | None, Received | None]] = [(None, None)] * count

    def one(seed: int) -> None:
        results[seed] = exchange(*pairs[seed], seed, messages)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [result for pair in results for result in pair]


def test_random_messages_arrive_as_they_were_sent(fresh: Track) -> None:
    """1 byte to 1 MiB both ways, half-closes and resets: digests are those of plain connections."""
    plain = _exchanged(fresh, 12, 40, accelerated=False)
    assert None not in plain
    assert _exchanged(fresh, 12, 40, accelerated=True) == plain
    assert _totals(fresh).pairs == 12
    _gone(fresh)


def test_connections_that_leave_in_midstream_lose_nothing(fresh: Track) -> None:
    """With little room every one of them falls back to TCP while both sides send."""
    plain = _exchanged(fresh, 12, 40, accelerated=False)
    fresh.gateway.limit(128 << 10)
    assert _exchanged(fresh, 12, 40, accelerated=True) == plain
    totals = _totals(fresh)
    assert totals.left["slow reader"] > 6
    assert totals.redirected_bytes > 0
    _gone(fresh)


def test_a_gateway_that_stops_in_midstream_loses_nothing(fresh: Track) -> None:
    """All ends go back to TCP while both sides send."""
    plain = _exchanged(fresh, 6, 60, accelerated=False)
    stopping = threading.Timer(0.05, fresh.gateway.stop, [20.0])
    stopping.start()
    assert _exchanged(fresh, 6, 60, accelerated=True) == plain
    stopping.join()
    until(lambda: not fresh.gateway.evict() and fresh.gateway.members() == 0)


@contextmanager
def _echo_server(listener: socket.socket) -> Iterator[None]:
    """Run a process that sends back what it gets, on as many connections as there are."""
    child = os.fork()
    if not child:
        try:
            _serve_echo(listener)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve_echo(listener: socket.socket) -> None:
    held: dict[int, socket.socket] = {}
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                accepted, _ = listener.accept()
                held[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
            elif data := held[number].recv(4096):
                held[number].send(data)
            else:
                held.pop(number).close()


def test_thousands_of_connections_at_once(fresh: Track) -> None:
    """Each has its own bytes, and all are gone when they are closed."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, _echo_server(listener):
        fresh.gateway.trust(listener.getsockname()[1])
        clients = [socket.create_connection(listener.getsockname()) for _ in range(MANY)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        for number, client in enumerate(clients):
            assert client.recv(100) == b"%d" % number
        assert _totals(fresh).pairs == MANY
        for client in clients:
            client.close()
        _gone(fresh)


def test_churn_leaves_nothing_behind(fresh: Track) -> None:
    """Connections that come and go give their rows back."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, _echo_server(listener):
        fresh.gateway.trust(listener.getsockname()[1])
        fresh.gateway.limit(brief=0)
        for _ in range(2000):
            _ping(listener.getsockname())
        _gone(fresh)
    assert _totals(fresh).pairs == 2000


def _ping(address: tuple[str, int], times: int = 1) -> None:
    with socket.create_connection(address) as client:
        for _ in range(times):
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_connections_too_brief_to_gain_are_left_to_tcp(fresh: Track) -> None:
    """After many that lived for one exchange a port's new ones are left to TCP, but for some as samples."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, _echo_server(listener):
        fresh.gateway.trust(listener.getsockname()[1])
        fresh.gateway.limit(brief=4)
        for _ in range(100):
            _ping(listener.getsockname())
        totals = _totals(fresh)
        assert totals.left["brief connections"] == 100 - totals.pairs > 0
        assert totals.pairs >= 4


def test_connections_that_last_stay_redirected_however_many(fresh: Track) -> None:
    """A port whose connections live for many exchanges is never left to TCP for those that do not."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, _echo_server(listener):
        fresh.gateway.trust(listener.getsockname()[1])
        fresh.gateway.limit(brief=40)
        for number in range(100):
            _ping(listener.getsockname(), 1 if number % 10 else 20)
    assert _totals(fresh).pairs == 100


def test_bytes_that_flow_again_are_told_once(fresh: Track) -> None:
    """If that was asked for: a wait ends at the first message, and a flag is there until it is read."""
    fresh.pause()
    gateway = fresh.gateway
    client, server = fresh.connect(accelerated=True)
    with client, server:
        gateway.tell_of_flow()
        assert not gateway.flowed()
        start = time.monotonic()
        sending = threading.Timer(0.1, client.sendall, [b"x"])
        sending.start()
        assert not gateway.wait(30)
        assert time.monotonic() - start < 20
        sending.join()
        assert gateway.flowed()
        assert not gateway.flowed()
        client.sendall(b"x")
        assert gateway.flowed()
        assert not gateway.wait(0)


@pytest.mark.parametrize("make", [PowerQos, Spinners])
def test_cpus_stay_awake_for_redirected_bytes_only(
    make: Callable[[], Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held by the first byte, let go after the last, counted; in both ways that there are."""
    try:
        make().close()
    except CannotError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(awake, "find", make)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Service([listener.getsockname()[1]], pytest.fail, prove=False, keep_awake=True) as service,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        assert service.totals().awake is None
        until(lambda: _exchanged_once(client, server) and (service.totals().awake or NOT).cpus)
        until(lambda: _exchanged_once(client, server) and (service.totals().awake or NOT).cpu_seconds > 0)
        until(lambda: not (service.totals().awake or NOT).cpus)
        before = service.totals().awake
        time.sleep(0.3)
        assert service.totals().awake == before


NOT = Awake(0, 0.0, 0.0)


def _exchanged_once(client: socket.socket, server: socket.socket) -> bool:
    client.sendall(b"x")
    return server.recv(1) == b"x"


def test_without_its_user_space_no_new_pairs_are_made(fresh: Track) -> None:
    """What was killed and left its programs behind accelerates nothing new."""
    fresh.pause()
    time.sleep(3.2)
    client, server = fresh.connect(accelerated=True)
    with client, server:
        assert not fresh.is_redirected(client)
        client.sendall(b"x")
        assert server.recv(1) == b"x"
