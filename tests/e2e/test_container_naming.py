"""Containers and pods by name, at both ends of a record: real Docker and containerd, a double of the API."""

from __future__ import annotations

import contextlib
import http.client
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.containers import Container, image, pod_container, pod_sandbox, run_container
from tests.support.kubernetes import ApiServer
from tests.support.kubernetes_objects import epoch_ns, replica_set, service
from tests.support.kubernetes_objects import pod as pod_object
from tests.support.ports import free_port
from tests.support.programs import run, until
from tests.support.servers import nginx as nginx_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import StartAgent
    from tests.support.containers import Cri, Docker, Pod
    from tests.support.programs import Agent

pytestmark = [
    pytest.mark.root,
    pytest.mark.server("dockerd", "containerd", "runc", "iptables", "busybox", "nginx", "curl"),
    pytest.mark.timeout(180),
]

SERVICE = "10.96.77.1"
_EPOCH_S = epoch_ns(0) // 1_000_000_000
NGINX = "masdeepflow.test/nginx:1"
_CONFIGURATION = b"""
user root;
daemon off;
pid /run/nginx.pid;
error_log /dev/null;
events { worker_connections 64; }
http { access_log off; server { listen 80; location / { return 200 "hello"; } } }
"""
_LOOP = "while true; do curl --silent --output /dev/null {url}; sleep 0.1; done"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an image with nginx and curl of this host."""
    directory = tmp_path_factory.mktemp("image")
    files = {"etc/nginx/nginx.conf": _CONFIGURATION}
    return image(directory, {NGINX: ["nginx", "-c", "/etc/nginx/nginx.conf"]}, ["nginx", "curl"], files)


def _of(agent: Agent, **wanted: object) -> list[dict[str, Any]]:
    """Return the HTTP transactions that have these values, keys with underscores for dots."""
    keys = {key.replace("_", "."): value for key, value in wanted.items()}
    return [
        found
        for found in agent.transactions
        if found["protocol"] == "http" and all(found.get(key) == value for key, value in keys.items())
    ]


def _last(agent: Agent, **wanted: object) -> dict[str, Any]:
    """Wait for such a transaction and return the last."""
    return until(lambda: _of(agent, **wanted), lambda: str(agent.transactions[-2:]))[-1]


def _is(found: dict[str, Any], container: Container, prefix: str = "") -> None:
    assert found[f"{prefix}container.id"] == container.id
    assert found[f"{prefix}container.name"] == container.name


def test_two_docker_containers_name_each_other(
    docker: Docker, archive: Path, start_agent: StartAgent
) -> None:
    """Records of both sides carry id, name, runtime and image, and each the other's as its peer's."""
    docker.load(archive)
    agent = start_agent("--log", "json", "--runtime-socket", f"docker={docker.socket}", ports=[80])
    with (
        run_container(docker, image=NGINX, options=["--name=web"]) as web,
        run_container(
            docker,
            *("/bin/sh", "-c", _LOOP.format(url=f"http://{web.address}/")),
            image=NGINX,
            options=["--name=loop"],
        ) as loop,
    ):
        client = _last(agent, role="client", container_name="loop", peer_container_name="web")
        server = _last(agent, role="server", container_name="web", peer_container_name="loop")
    for found, own, other in (client, loop, web), (server, web, loop):
        _is(found, own)
        _is(found, other, "peer.")
        assert found["container.runtime"] == "docker"
        assert found["container.image.name"] == NGINX
        assert found["service.name"] == own.name
        assert found["peer.service.name"] == other.name
        assert found["server.address"] == web.address
    assert client["process.executable.name"] == server["peer.process.executable.name"] == "curl"


def test_without_the_runtime_the_path_tells_the_container(
    docker: Docker, archive: Path, start_agent: StartAgent
) -> None:
    """Its id, and the runtime by the form of the path; the short id stands for the name."""
    docker.load(archive)
    agent = start_agent("--log", "json", "--no-runtimes", ports=[80])
    with run_container(docker, image=NGINX) as web:
        until(lambda: docker.command("exec", web.id, "curl", "--silent", "http://127.0.0.1/").code == 0)
        server = _last(agent, role="server", container_id=web.id)
    assert server["container.name"] == web.id[:12]
    assert server["container.runtime"] == "docker"
    assert server["peer.container.id"] == web.id


@contextlib.contextmanager
def _web_and_loop(cri: Cri) -> Iterator[tuple[Pod, Container, Pod, Container]]:
    """Run a pod with nginx, and one that asks it."""
    with (
        pod_sandbox(cri, "web-5d9-x2x", "shop") as web,
        pod_sandbox(cri, "loop-0", "test") as loop,
        pod_container(cri, web, "nginx", image=NGINX) as nginx,
        pod_container(
            cri, loop, "asker", "/bin/sh", "-c", _LOOP.format(url=f"http://{web.address}/"), image=NGINX
        ) as asker,
    ):
        yield web, nginx, loop, asker


def test_pods_of_containerd_name_each_other(cri: Cri, archive: Path, start_agent: StartAgent) -> None:
    """Pod name, namespace and uid, and the container's name there, on both sides: without an API server."""
    cri.load(archive)
    agent = start_agent("--log", "json", "--runtime-socket", f"containerd={cri.socket}", ports=[80])
    with _web_and_loop(cri) as (web, nginx, loop, asker):
        client = _last(agent, role="client", k8s_pod_name="loop-0", peer_k8s_pod_name="web-5d9-x2x")
        server = _last(agent, role="server", k8s_pod_name="web-5d9-x2x", peer_k8s_pod_name="loop-0")
    for found, pod, container, other in (client, loop, asker, web), (server, web, nginx, loop):
        assert found["k8s.namespace.name"] == pod.namespace
        assert found["k8s.pod.uid"] == pod.uid
        assert found["k8s.container.name"] == found["container.name"] == container.name
        assert found["container.id"] == container.id
        assert found["container.runtime"] == "containerd"
        assert found["peer.k8s.namespace.name"] == other.namespace
        assert found["peer.k8s.pod.uid"] == other.uid


def _pods(web: Pod, nginx: Container, loop: Pod, asker: Container) -> list[dict[str, Any]]:
    """Return the API server's objects of both pods, of which one has a Deployment."""
    replicas = replica_set("web-5d9", "shop", deployment="web")
    common: dict[str, Any] = {"node": "node-1"}
    server = pod_object(
        *(web.name, web.address),
        namespace=web.namespace,
        labels={"tier": "front"},
        owner=replicas,
        containers={"nginx": nginx.id},
        **common,
    )
    client = pod_object(
        loop.name, loop.address, namespace=loop.namespace, containers={"asker": asker.id}, **common
    )
    return [replicas, server, client]


@contextlib.contextmanager
def _translated(asker: Container, service_address: str, address: str) -> Iterator[None]:
    """Lead a Service's address to a pod's, as kube-proxy does, for one pod while the block lasts."""
    enter = ("nsenter", f"--net=/proc/{asker.pid}/ns/net", "iptables", "--wait", "--table", "nat")
    rule = ("OUTPUT", "--destination", service_address, "--protocol", "tcp", "--jump", "DNAT")
    done = run(*enter, "--append", *rule, "--to-destination", address)
    assert done.code == 0, done.stderr
    yield  # the rule goes with the pod's namespace


def test_the_api_server_adds_workloads_services_and_labels(
    cri: Cri, archive: Path, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Deployment, node and labels of this node's pod, also as a peer; the Service that a client asks for."""
    cri.load(archive)
    with ApiServer() as api, _web_and_loop(cri) as (web, nginx, loop, asker):
        api.put(*_pods(web, nginx, loop, asker), service("front", SERVICE, namespace="shop"))
        options = ("--kubeconfig", api.kubeconfig(tmp_path), "--node-name", "node-1", "--pod-label", "tier")
        agent = start_agent("--log", "json", "--no-runtimes", *options, ports=[80])
        server = _last(agent, role="server", k8s_deployment_name="web")
        client = _last(agent, role="client", peer_k8s_deployment_name="web", k8s_pod_name="loop-0")
        with _translated(asker, SERVICE, web.address):
            done = cri.execute(asker, "curl", "--silent", f"http://{SERVICE}/through")
            assert done.stdout == "hello", done.stderr
            through = {role: _last(agent, role=role, url_path="/through") for role in ("client", "server")}
    assert server["service.name"] == client["peer.service.name"] == "web"
    assert server["k8s.replicaset.name"] == "web-5d9"
    assert server["k8s.node.name"] == "node-1"
    assert server["k8s.pod.label.tier"] == "front"
    assert server["k8s.container.name"] == "nginx"
    assert client["peer.k8s.namespace.name"] == "shop"
    # The client knows the Service's address only, and its peer is the pod behind it all the same.
    assert through["client"]["server.address"] == SERVICE
    assert through["client"]["peer.k8s.service.name"] == "front"
    assert through["client"]["peer.k8s.pod.name"] == web.name
    assert through["server"]["peer.k8s.pod.name"] == loop.name


@pytest.fixture
def pod_address() -> Iterator[str]:
    """Give this host an address as a pod has one."""
    address = "10.213.77.9"
    assert run("ip", "address", "add", f"{address}/32", "dev", "lo").code == 0
    yield address
    run("ip", "address", "del", f"{address}/32", "dev", "lo")


def test_an_address_that_goes_to_another_pod_names_each_for_its_own_time(
    pod_address: str, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Connections from before the move are the first pod's, later ones the second's."""
    with ApiServer() as api, nginx_server(tmp_path, (pod_address, free_port())) as server:
        first = pod_object("first", pod_address, node="node-2", start=int(time.time()) - _EPOCH_S - 60)
        api.put(first)
        agent = start_agent(
            *("--log", "json", "--no-runtimes", "--kubeconfig", api.kubeconfig(tmp_path)), ports=[server.port]
        )

        def named(path: str, pod: str) -> bool:
            """Ask until a new connection is the pod's: the news takes a moment to come."""
            assert run("curl", "--silent", f"{server.url}/{path}").code == 0
            found = _of(agent.settle(), role="client", url_path=f"/{path}")
            return bool(found) and found[-1].get("peer.k8s.pod.name") == pod

        kept = http.client.HTTPConnection(pod_address, server.port)
        until(lambda: named("before", "first"))
        kept.request("GET", "/kept")
        kept.getresponse().read()
        assert _of(agent.settle(), role="client", url_path="/kept")[0]["peer.k8s.pod.name"] == "first"
        api.remove(first)
        time.sleep(1.1)  # Kubernetes gives times in whole seconds
        api.put(pod_object("second", pod_address, node="node-2", start=int(time.time()) - _EPOCH_S))
        until(lambda: named("after", "second"))
        kept.request("GET", "/still")
        kept.getresponse().read()
        assert _of(agent.settle(), role="client", url_path="/still")[0]["peer.k8s.pod.name"] == "first"
        kept.close()
    before = {one.get("peer.k8s.pod.name") for one in _of(agent, role="client", url_path="/before")}
    assert before <= {None, "first"}
