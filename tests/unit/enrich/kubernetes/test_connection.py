"""The way to an API server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx2
import pytest

from masdeepflow.enrich.kubernetes.connection import (
    AwayError,
    ConfigurationError,
    Server,
    TokenFile,
    configuration,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def test_outside_of_a_cluster_a_kubeconfig_must_be_named() -> None:
    """The sentence says so."""
    with pytest.raises(ConfigurationError, match="name a kubeconfig file"):
        configuration()


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", "\x00", "clusters: 3", "{clusters: [], contexts: []}", "a: b", "'x'"],
)
def test_a_file_that_is_no_kubeconfig_is_told(tmp_path: Path, text: str) -> None:
    """With its name, whatever is wrong with it."""
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="kubeconfig"):
        configuration(str(path))


def test_a_kubeconfig_must_name_a_context_that_it_has(tmp_path: Path) -> None:
    """Not guess one."""
    config = {"clusters": [{"name": "c", "cluster": {"server": "http://x"}}], "contexts": []}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config | {"current-context": "gone"}))
    with pytest.raises(ConfigurationError, match="gone"):
        configuration(str(path))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        configuration(str(tmp_path / "nowhere"))


def test_in_a_pod_the_service_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the address from the environment, of either family."""
    for name in ("token", "namespace"):
        (tmp_path / name).write_text(name)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for host, server in (("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        assert configuration(service_account=str(tmp_path)).cluster.server == server


def test_a_service_account_without_a_token_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with automountServiceAccountToken: false."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ConfigurationError, match="token"):
        configuration(service_account=str(tmp_path))


def test_a_token_is_read_for_each_request(tmp_path: Path) -> None:
    """The kubelet renews it in place."""
    path = tmp_path / "token"
    for token in ("first", "second\n"):
        path.write_text(token)
        request = httpx2.Request("GET", "http://x")
        next(TokenFile(str(path)).auth_flow(request))
        assert request.headers["Authorization"] == f"Bearer {token.strip()}"


@pytest.mark.parametrize("token", [None, b"\xff"])
def test_a_token_that_cannot_be_read_is_told(tmp_path: Path, token: bytes | None) -> None:
    """It may be there again at the next try."""
    path = tmp_path / "token"
    if token:
        path.write_bytes(token)
    with pytest.raises(AwayError, match="cannot read the token in"):
        next(TokenFile(str(path)).auth_flow(httpx2.Request("GET", "http://x")))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx2.ReadTimeout("x"), "the server http://x says nothing any more of pods"),
        (httpx2.ConnectTimeout("x"), "the server http://x does not answer: no connection within 10 s"),
        (httpx2.RemoteProtocolError("cut"), "the server http://x broke off pods: cut"),
        (httpx2.ConnectError("refused"), "the server http://x is not reached: refused"),
        (OSError(), "the server http://x is not reached: OSError"),
        (AwayError("as it is"), "as it is"),
    ],
)
def test_what_went_wrong_is_a_sentence(tmp_path: Path, error: Exception, said: str) -> None:
    """Whatever it was."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://x"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    assert Server(configuration(str(path)), "the server").explain(error, "pods") == said
