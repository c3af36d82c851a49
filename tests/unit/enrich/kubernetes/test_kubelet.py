"""The pods of a node, asked of a double of its kubelet over real sockets."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from masdeepflow.enrich.kubernetes.backoff import Backoff
from masdeepflow.enrich.kubernetes.connection import ConfigurationError
from masdeepflow.enrich.kubernetes.kubelet import Kubelet
from tests.support.kubernetes import Kubelet as Double
from tests.support.kubernetes import make_tls
from tests.support.kubernetes_objects import pod, replica_set
from tests.support.kubernetes_watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[..., Watcher]

_TOKEN = "a-token"  # noqa: S105  # the double's


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Give a function that asks a double often; all end with the test."""
    with contextlib.ExitStack() as stack:
        (tmp_path / "token").write_text(_TOKEN)

        def start(double: Double, **options: Any) -> Watcher:  # noqa: ANN401  # of Kubelet
            token_file = str(tmp_path / "token")
            kubelet = Kubelet(
                double.url, token_file=token_file, every_s=0.02, backoff=Backoff(0.02, 0.1), **options
            )
            return stack.enter_context(Watcher(kubelet))

        yield start


def test_pods_come_and_go(ask: Ask) -> None:
    """With containers, and with a Deployment where the hash proves it."""
    with Double() as double:
        web = replica_set("web-5d9", deployment="web")
        labels = {"pod-template-hash": "5d9"}
        double.pods = [
            pod("web-5d9-x", "10.0.0.1", containers={"nginx": "c1"}, owner=web, labels=labels),
            pod("old", "10.0.0.2"),
        ]
        watcher = ask(double)
        watcher.until_connected()
        found = watcher.index.pod_of_container("c1")
        assert found is not None
        assert found.owners[-1] == ("Deployment", "web")
        double.pods = [double.pods[0], pod("new", "10.0.0.2", start=60)]
        watcher.until(lambda: watcher.name_at("10.0.0.2", 61) == "new")
        assert watcher.name_at("10.0.0.2", 59) == "old"
        assert watcher.state().sentence == f"the kubelet {double.url} tells of 2 pods"


def test_the_secure_port_takes_a_token(ask: Ask, tmp_path: Path) -> None:
    """The certificate is checked against a CA, or not at all if so told."""
    tls = make_tls(tmp_path)
    with Double(token=_TOKEN, tls=tls) as double:
        double.pods = [pod("a", "10.0.0.1")]
        for options in ({"ca_file": str(tls.certificate)}, {"insecure": True}):
            watcher = ask(double, **options)
            watcher.until_connected()
            assert watcher.name_at("10.0.0.1") == "a"
        watcher = ask(double)
        watcher.until(lambda: "certificate" in watcher.state().sentence.lower())


def test_the_read_only_port_is_not_given_the_token(ask: Ask) -> None:
    """It would cross the network in the open."""
    with Double() as double:
        watcher = ask(double)
        watcher.until_connected()
        assert set(double.authorizations) == {""}


def test_a_kubelet_that_is_away_leaves_what_is_known(ask: Ask) -> None:
    """And is caught up with when it is back; an empty node is no error."""
    with Double() as double:
        double.pods = [pod("a", "10.0.0.1")]
        watcher = ask(double)
        watcher.until_connected()
        double.stop()
        watcher.until(lambda: "is not reached" in watcher.state().sentence)
        assert watcher.name_at("10.0.0.1") == "a"
        double.pods = []
        double.start()
        watcher.until(lambda: watcher.state().connected and watcher.state().pods == 0)


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_a_refusal_is_told(ask: Ask, code: int) -> None:
    """In the kubelet's own words."""
    with Double() as double:
        double.faults.code = code
        watcher = ask(double)
        watcher.until(lambda: f"answers {code} to the pods of this node" in watcher.state().sentence)
        assert not watcher.state().connected


def test_what_is_no_address_is_refused_at_once() -> None:
    """Before anything is started."""
    with pytest.raises(ConfigurationError, match="https://NODE:10250"):
        Kubelet("node:10250")
