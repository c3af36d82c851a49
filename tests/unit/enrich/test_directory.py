"""All that is known of who is who."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.enrich import directory as module
from masdeepflow.enrich import process
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.facts import (
    ContainerFact,
    PodFact,
    ProcessFact,
    ServiceFact,
    ServicePort,
    UsersFact,
)
from tests.support.slots import cgroup, execute, make_slots

if TYPE_CHECKING:
    import pytest

    from masdeepflow.enrich.identity import Identity

ID = "0123456789abcdef" * 4
SECOND = 1_000_000_000


def _directory(*records: dict[str, object]) -> Directory:
    directory = Directory(label_keys=("tier",))
    directory.processes.follow(make_slots(*records), np.zeros(len(records), np.intp))
    directory.processes.end_batch()
    return directory


def _nginx_in_a_container(user: int = 0) -> Directory:
    return _directory(cgroup(7, f"docker/{ID}"), execute(7, b"nginx", user=user))


def _identity(directory: Directory, pid: int = 7, comm: str = "nginx") -> Identity:
    return directory.identity(pid, comm, 0)


def test_an_unknown_process_is_wanted_once() -> None:
    """It is named by its comm meanwhile, and looked up by whoever takes what is wanted."""
    directory = _directory()
    assert _identity(directory).service == "nginx"
    _identity(directory)
    wanted = directory.take_wanted()
    assert (wanted.pids, wanted.containers) == ([7], [])
    assert directory.take_wanted().pids == []


def test_a_process_whose_comm_changed_is_looked_up_again() -> None:
    """What /proc told of it may be about another by now, and the ring may have lost an exec; once each."""
    directory = _directory(cgroup(8, "a"), execute(8, b"nginx"))
    directory.learn([ProcessFact(7, "sh", "dash")])
    assert _identity(directory, comm="nginx").executable == "dash"
    assert directory.take_wanted().pids == [7]
    _identity(directory, 8)
    assert directory.take_wanted().pids == []
    renamed = _identity(directory, 8, "worker")
    assert directory.take_wanted().pids == [8]
    assert directory.learn([ProcessFact(8, "worker", "nginx", ("x",))]) == set()
    assert directory.learn([ProcessFact(8, "worker", "curl")]) == {"pid:8"}
    assert renamed.executable == "nginx"
    assert directory.again(renamed, "worker").executable == "curl"
    _identity(directory, 8, "worker")
    assert directory.take_wanted().pids == []


def test_a_process_that_is_gone_is_not_the_next_one_with_its_pid() -> None:
    """Its open connections keep its name when more becomes known."""
    directory = _directory()
    directory.learn([ProcessFact(7, "nginx", "nginx", cgroup=f"0::/docker/{ID}\n")])
    before = _identity(directory)
    directory.processes.follow(make_slots(cgroup(7, "a"), execute(7, b"curl")), np.zeros(2, np.intp))
    directory.processes.end_batch()
    directory.learn([ContainerFact(ID, "web")])
    after = directory.again(before, "nginx")
    assert (after.executable, after.container) == ("nginx", "web")


def test_a_process_that_was_forgotten_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are kept: one that lives on is found out about as often as that happens."""
    monkeypatch.setattr(process, "_LIMIT", 4)
    directory = _directory()
    for _ in range(2):
        _identity(directory)
        assert directory.take_wanted().pids == [7]
        directory.learn([ProcessFact(7, "nginx", "nginx")])
        directory.learn([ProcessFact(pid, "a", "a") for pid in range(10, 20)])


def test_what_is_told_twice_changes_nothing() -> None:
    """Runtimes list all their containers whenever they are connected to."""
    directory = _nginx_in_a_container()
    assert directory.learn([ContainerFact(ID, "web")]) == {ID}
    assert directory.learn([ContainerFact(ID, "web")]) == set()


def test_an_unknown_container_is_wanted_with_its_runtime() -> None:
    """Once: what nobody knows is not asked for again and again."""
    directory = _nginx_in_a_container()
    for _ in range(3):
        assert _identity(directory).container == ID[:12]
    assert directory.take_wanted().containers == [(ID, "docker")]
    assert directory.take_wanted().containers == []


def test_facts_change_what_is_known_and_say_of_whom() -> None:
    """The same process has another identity afterwards, whoever asks."""
    directory = _nginx_in_a_container()
    before = _identity(directory)
    assert directory.learn([ContainerFact(ID, "web", "docker")]) == {ID}
    assert _identity(directory).container == "web"
    assert directory.again(before, "nginx") is _identity(directory)
    pod = PodFact("u", "web-0", "shop", containers={ID: "nginx"}, addresses=("10.0.0.9",), from_ns=1)
    assert directory.learn([pod]) >= {ID, "10.0.0.9"}
    assert _identity(directory).pod == "web-0"


def test_an_identity_is_made_once() -> None:
    """Every connection of a process shares it."""
    directory = _nginx_in_a_container()
    assert _identity(directory) is _identity(directory)


def test_users_are_the_hosts_except_in_containers() -> None:
    """A container has its own users; only root is the same everywhere."""
    users = UsersFact({0: "root", 33: "www-data"})
    for directory, owner in (
        (_directory(execute(7, b"nginx", user=33)), "www-data"),
        (_directory(execute(7, b"nginx", user=34)), "34"),
        (_nginx_in_a_container(33), "33"),
        (_nginx_in_a_container(0), "root"),
    ):
        directory.learn([users])
        assert dict(_identity(directory).attributes)["process.owner"] == owner


def test_an_address_is_its_owners_at_that_time() -> None:
    """A pod's before a Service's; nobody's before and after."""
    directory = _directory()
    old = PodFact("u1", "old", "shop", addresses=("10.0.0.9",), from_ns=10 * SECOND, gone_ns=20 * SECOND)
    new = PodFact(
        "u2", "new", "shop", addresses=("10.0.0.9",), owners=(("Deployment", "web"),), from_ns=30 * SECOND
    )
    service = ServiceFact("s", "front", "shop", ("10.96.0.1",), (ServicePort(80),), from_ns=1)
    directory.learn([old, new, service])
    assert dict(directory.remote("10.0.0.9", 80, "tcp", 15 * SECOND))["peer.k8s.pod.name"] == "old"
    found = dict(directory.remote("10.0.0.9", 80, "tcp", 35 * SECOND))
    assert (found["peer.service.name"], found["peer.k8s.deployment.name"]) == ("web", "web")
    found = dict(directory.remote("10.96.0.1", 80, "tcp", 35 * SECOND))
    assert (found["peer.service.name"], found["peer.k8s.service.name"]) == ("front", "front")
    assert directory.remote("192.0.2.1", 80, "tcp", 35 * SECOND) == ()


def test_a_node_is_named_by_its_address_and_what_it_leads_to_by_port() -> None:
    """A pod by its port of the host, a Service by its node port, else the node alone."""
    directory = _directory()
    address = "192.168.0.1"
    exporter = PodFact(
        "u1",
        "exporter-x",
        "ops",
        node="n1",
        addresses=(address,),
        host_network=True,
        host_ports=((address, 9100, "tcp"),),
    )
    front = ServiceFact("s1", "front", "shop", ports=(ServicePort(80, node_port=30080),))
    assert address in directory.learn([exporter, front])
    assert dict(directory.remote(address, 9100, "tcp", SECOND))["peer.k8s.pod.name"] == "exporter-x"
    assert dict(directory.remote(address, 30080, "tcp", SECOND))["peer.k8s.service.name"] == "front"
    assert dict(directory.remote(address, 22, "tcp", SECOND)) == {"peer.k8s.node.name": "n1"}


def test_an_address_has_the_name_it_was_resolved_from() -> None:
    """The last one, until some time after its end; what the cluster tells is the better service name."""
    directory = _directory()
    names = [("192.0.2.1", "a.example", 10 * SECOND), ("10.0.0.9", "web.shop.svc", 10 * SECOND)]
    assert directory.learn_names(names, offset_ns=SECOND) == {"192.0.2.1", "10.0.0.9"}
    assert directory.learn_names(names, offset_ns=SECOND) == set()
    assert directory.remote("192.0.2.1", 443, "tcp", 12 * SECOND) == (
        ("peer.service.name", "a.example"),
        ("peer.dns.name", "a.example"),
    )
    assert directory.remote("192.0.2.1", 443, "tcp", 2 * 3600 * SECOND) == ()
    assert directory.learn_names([("192.0.2.1", "b.example", 20 * SECOND)], 0) == {"192.0.2.1"}
    assert dict(directory.remote("192.0.2.1", 443, "tcp", SECOND))["peer.dns.name"] == "b.example"
    directory.learn([PodFact("u", "web-0", "shop", addresses=("10.0.0.9",), from_ns=1)])
    found = dict(directory.remote("10.0.0.9", 80, "tcp", 5 * SECOND))
    assert (found["peer.service.name"], found["peer.dns.name"]) == ("web-0", "web.shop.svc")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and containers come and go; what is kept of them does not grow."""
    for limit in ("_IDENTITIES", "_CONTAINERS", "_WANTED", "_NAMES"):
        monkeypatch.setattr(module, limit, 16)
    directory = _directory()
    for pid in range(1, 500):
        _identity(directory, pid)
        directory.learn([ContainerFact(f"{pid:064x}")])
        directory.learn_names([(f"10.0.{pid // 250}.{pid % 250}", "x", pid)], 0)
    assert len(directory._identities) <= 16
    assert len(directory._by_subject) <= 16
    assert len(directory._containers) <= 16
    assert len(directory._asked) <= 16
    assert directory.evictions() == {"containers": 499 - 16, "names": 499 - 16}
    for pid in range(1, 500):  # their pod is never heard of again, their container is
        member = cgroup(pid, f"kubepods/pod0123456789abcdef0123456789abcdef/{ID}")
        directory.processes.follow(make_slots(member, execute(pid, b"a")), np.zeros(2, np.intp))
        _identity(directory, pid, "a")
        directory.learn([ContainerFact(ID, str(pid))])
    assert sum(map(len, directory._by_subject.values())) <= 32
    assert len(directory._names) <= 16
    assert len(directory.take_wanted().pids) <= 16
