"""The pod of deploy/manifests under a real containerd: it starts with what it asks for, and is probed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.delivery.engine import IMAGE, ROOT, Engine
from tests.e2e.delivery.kubelet import run_pod
from tests.support.containers import Cri, containerd_cri
from tests.support.programs import Finished, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.containers import Container

pytestmark = [
    pytest.mark.root,
    pytest.mark.server("containerd", "curl", "dockerd", "docker", "mmdebstrap", "nsenter"),
    pytest.mark.timeout(600),
]

TOKEN = "not-a-secret"  # noqa: S105  # made here for the test


@pytest.fixture(scope="module")
def cri(demo: Engine, scratch: Path) -> Iterator[Cri]:
    """Run a containerd that has the agent's image."""
    directory = scratch / "cri"
    directory.mkdir()
    with containerd_cri(directory) as daemon:
        archive = directory / "image.tar"
        demo.done("save", "--output", archive, IMAGE)
        daemon.load(archive)
        archive.unlink()
        yield daemon


@pytest.fixture(scope="module")
def manifest() -> list[dict[str, Any]]:
    """Return the documents that users apply."""
    return list(yaml.safe_load_all((ROOT / "deploy" / "manifests" / "masdeepflow.yaml").read_text()))


@pytest.fixture
def agent(cri: Cri, manifest: list[dict[str, Any]], tmp_path: Path) -> Iterator[Container]:
    """Run the DaemonSet's pod until its readiness probe succeeds."""
    secrets = {("masdeepflow-token", "token"): TOKEN}
    with run_pod(cri, manifest, tmp_path, f"docker.io/library/{IMAGE}", secrets) as container:
        until(lambda: _get(cri, container, "/healthz").stdout.endswith("200"), lambda: _log(cri), 60)
        yield container


def _log(cri: Cri) -> str:
    return "\n".join(path.read_text() for path in (cri.directory / "logs").rglob("*.log"))


def _get(cri: Cri, container: Container, path: str, *options: str) -> Finished:
    """Ask as the kubelet does, from the node, at the pod's address; the status comes last."""
    url = f"http://{container.address}:9419{path}"
    return run(*cri.namespaces.enter, "curl", "--silent", "--write-out", "\n%{http_code}", *options, url)


def test_probes_need_no_token_and_metrics_do(cri: Cri, agent: Container) -> None:
    """Open to the kubelet, though the API server is away; the rest is for who has the Secret."""
    assert _get(cri, agent, "/healthz").stdout.endswith("200")
    assert _get(cri, agent, "/metrics").stdout.endswith("401")
    bearer = ("--header", f"Authorization: Bearer {TOKEN}")
    answer = _get(cri, agent, "/metrics", *bearer).stdout
    assert answer.endswith("200")
    assert "masdeepflow_events_total" in answer


def test_check_in_the_pod_misses_nothing(cri: Cri, agent: Container) -> None:
    """Under containerd's default seccomp profile, with the chart's capabilities alone."""
    told = json.loads(cri.execute(agent, "masdeepflow", "check", "--json").stdout)
    assert told["ready"]
    states = {finding["name"]: finding["state"] for finding in told["findings"]}
    assert {states[name] for name in ("BTF", "capabilities", "PID namespace", "cgroup")} == {"ok"}
    assert not {name for name in states if name.startswith("CAP_")}


def test_the_pod_sees_what_other_processes_of_the_node_do(cri: Cri, agent: Container) -> None:
    """The probe's own request is one: curl asked it, outside of the pod, in another network namespace."""

    def client() -> bool:
        answer = _get(cri, agent, "/metrics", "--header", f"Authorization: Bearer {TOKEN}").stdout
        series = [line for line in answer.splitlines() if line.startswith("http_client_request_duration")]
        return any('"curl"' in line for line in series)

    until(client, lambda: _get(cri, agent, "/metrics").stdout[-2000:])
