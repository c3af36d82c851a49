"""Who is asked for names, by the options."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from masdeepflow import discovery
from masdeepflow.cli.errors import UsageError
from masdeepflow.cli.options import Options
from masdeepflow.enrich.kubernetes.kubelet import Kubelet

if TYPE_CHECKING:
    from pathlib import Path

    from masdeepflow.enrich.lookups import Lookups

_KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {token: secret}}]
current-context: here
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    """Give a file that tells how to reach an API server."""
    path = tmp_path / "config"
    path.write_text(_KUBECONFIG)
    return str(path)


@pytest.fixture(autouse=True)
def _no_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_SERVICE_ACCOUNT", tmp_path / "token")


def _asked(lookups: Lookups) -> tuple[bool, bool]:
    """Return whether runtimes and whether a cluster are asked."""
    return lookups._runtimes is not None, lookups._cluster is not None


def test_runtimes_are_asked_unless_forbidden() -> None:
    """A host without any has nobody to ask, which costs nothing."""
    assert _asked(discovery.lookups(Options())) == (True, False)
    assert _asked(discovery.lookups(Options(runtimes=False))) == (False, False)


def test_a_cluster_is_asked_where_there_is_a_way_to(kubeconfig: str, tmp_path: Path) -> None:
    """By a file, or inside a pod by its service account; or when told to."""
    assert _asked(discovery.lookups(Options(kubeconfig=kubeconfig)))[1]
    assert not _asked(discovery.lookups(Options(kubeconfig=kubeconfig, kubernetes="off")))[1]
    assert not discovery._wants_cluster(Options())
    (tmp_path / "token").write_text("x")
    assert discovery._wants_cluster(Options())


def test_the_kubelet_is_asked_instead_when_told_to() -> None:
    """For clusters whose API server is to be left alone."""
    asked = discovery.lookups(Options(kubernetes="kubelet", kubelet_url="http://127.0.0.1:10255"))
    assert isinstance(asked._cluster, Kubelet)


def test_the_node_is_named_by_option_or_by_the_manifests_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins."""
    monkeypatch.setenv("NODE_NAME", "node-1")
    assert discovery._node(Options()) == "node-1"
    assert discovery._node(Options(node_name="node-2")) == "node-2"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(runtime_socket=("rkt=/run/rkt.sock",)), r"rkt=/run/rkt.sock.*docker"),
        (Options(runtime_socket=("relative",)), "relative"),
        (Options(kubernetes="api", kubeconfig="/nowhere/config"), r"/nowhere/config.*--kubernetes off"),
        (Options(kubernetes="api"), r"--kubernetes off"),
        (Options(kubernetes="kubelet", kubelet_url="node:10250"), r"node:10250.*--kubernetes off"),
    ],
)
def test_what_can_not_be_meant_is_a_sentence(options: Options, sentence: str) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError, match=sentence):
        discovery.lookups(options)


def test_a_missing_extra_is_named(kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("masdeepflow.enrich.kubernetes.c")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(UsageError, match=r"masdeepflow\[kubernetes\]"):
        discovery.lookups(Options(kubeconfig=kubeconfig))
