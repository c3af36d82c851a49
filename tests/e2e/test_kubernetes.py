"""Peers named by a cluster, of which a double of the API server tells; the traffic is real."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.containers.namespaces import Namespaces
from tests.support.kubernetes import ApiServer
from tests.support.kubernetes_objects import now, pod, replica_set, service
from tests.support.ports import free_port
from tests.support.programs import TRAFFIC_GEN, Program, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent

pytestmark = [pytest.mark.root, pytest.mark.server("curl", "ip", "nsenter", "unshare")]

_POD, _SERVICE, _NODE = "10.244.7.1", "10.96.7.1", "192.0.2.7"
_PORT, _NODE_PORT = 8080, 30080


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """Run the double."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Namespaces]:
    """Give a network in which one server answers at a pod's, a Service's and a node's address."""
    with Namespaces(tmp_path) as namespaces:
        for address in (_POD, _SERVICE, _NODE):
            done = run(*namespaces.enter, "ip", "address", "add", f"{address}/32", "dev", "lo")
            assert done.code == 0, done.stderr
        servers = [_serve(tmp_path, namespaces, port) for port in (_PORT, _NODE_PORT)]
        yield namespaces
        for server in servers:
            server.kill()


def _serve(directory: Path, network: Namespaces, port: int) -> Program:
    """Start a server at all addresses of a network of its own."""
    everywhere = "0.0.0.0"  # noqa: S104  # which nobody else is in
    command = (TRAFFIC_GEN, "http-server", "--host", everywhere, "--port", port)
    server = Program(directory, *network.enter, *command)
    until(lambda: run(*_curl(network, _POD, port)).code == 0, lambda: server.errors)
    return server


def _curl(network: Namespaces, address: str, port: int) -> tuple[str, ...]:
    return (*network.enter, "curl", "--silent", "--output", "/dev/null", f"http://{address}:{port}/")


def _ask(agent: Agent, network: Namespaces, address: str, port: int = _PORT) -> dict[str, Any]:
    """Make a request and return the client's record of it."""
    seen = len(_of(agent, address))
    done = run(*_curl(network, address, port))
    assert done.code == 0, done.stderr
    agent.wait_for(lambda _: len(_of(agent, address)) > seen)
    return _of(agent, address)[-1]


def _of(agent: Agent, address: str) -> list[dict[str, Any]]:
    return [one for one in agent.transactions if (one["role"], one["server.address"]) == ("client", address)]


def _start(start_agent: StartAgent, api: ApiServer, directory: Path, *args: object) -> Agent:
    config = api.kubeconfig(directory)
    options = ("--log", "json", "--kubeconfig", config, "--node-name", "n1")
    return start_agent(*options, *args, ports=[_PORT, _NODE_PORT])


def test_peers_are_pods_services_and_nodes(
    api: ApiServer, network: Namespaces, start_agent: StartAgent, tmp_path: Path
) -> None:
    """By pod address with the Deployment, by ClusterIP, by node port, and else by the node."""
    web = replica_set("web-5d9", "shop", deployment="web")
    api.put(
        pod("web-5d9-x", _POD, namespace="shop", node="n2", owner=web, labels={"pod-template-hash": "5d9"}),
        service("front", _SERVICE, ports=[{"port": _PORT, "nodePort": _NODE_PORT}]),
        pod("proxy", _NODE, node="n2", host_network=True),
    )
    agent = _start(start_agent, api, tmp_path)
    until(lambda: "peer.k8s.service.name" in _ask(agent, network, _SERVICE))
    until(lambda: "peer.k8s.pod.name" in _ask(agent, network, _POD))
    by_pod = _ask(agent, network, _POD)
    assert by_pod["peer.k8s.pod.name"] == "web-5d9-x"
    assert by_pod["peer.k8s.namespace.name"] == "shop"
    assert by_pod["peer.k8s.node.name"] == "n2"
    assert by_pod["peer.k8s.deployment.name"] == "web"
    assert _ask(agent, network, _SERVICE)["peer.k8s.service.name"] == "front"
    until(lambda: "peer.k8s.node.name" in _ask(agent, network, _NODE))
    assert _ask(agent, network, _NODE, _NODE_PORT)["peer.k8s.service.name"] == "front"
    at_node = _ask(agent, network, _NODE)
    assert at_node["peer.k8s.node.name"] == "n2"
    assert "peer.k8s.service.name" not in at_node


def test_records_before_and_after_an_address_moves_name_each_pod(
    api: ApiServer, network: Namespaces, start_agent: StartAgent, tmp_path: Path
) -> None:
    """The one that had it then."""
    first = pod("first", _POD, node="n2", start=now() - 100)
    api.put(first)
    agent = _start(start_agent, api, tmp_path)
    until(lambda: _ask(agent, network, _POD).get("peer.k8s.pod.name") == "first")
    before = len(_of(agent, _POD))
    api.remove(first)
    api.put(pod("second", _POD, node="n3", start=now()))
    until(lambda: _ask(agent, network, _POD).get("peer.k8s.pod.name") == "second")
    names = [one.get("peer.k8s.pod.name") for one in _of(agent, _POD)]
    assert names[before - 1] == "first"
    assert names[-1] == "second"
    assert names == sorted(names, key=lambda name: ("", "first", "second").index(name or ""))


def test_a_server_that_is_away_is_told_and_names_go_on(
    api: ApiServer, network: Namespaces, start_agent: StartAgent, tmp_path: Path
) -> None:
    """In /healthz, with a sentence, while the agent is well; it catches up when the server is back."""
    api.put(pod("first", _POD, node="n2"))
    port = free_port()
    agent = _start(start_agent, api, tmp_path, "--listen", f"127.0.0.1:{port}")

    def health() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            return dict(json.load(answer))

    until(lambda: _ask(agent, network, _POD).get("peer.k8s.pod.name") == "first")
    until(lambda: "problems" not in health())
    api.stop()
    until(lambda: "problems" in health())
    assert api.url in health()["problems"]["kubernetes"]
    assert _ask(agent, network, _POD)["peer.k8s.pod.name"] == "first"
    api.put(service("front", _SERVICE))
    api.start()
    until(lambda: _ask(agent, network, _SERVICE).get("peer.k8s.service.name") == "front", timeout_s=60)
    until(lambda: "problems" not in health())
