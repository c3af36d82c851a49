"""The way to an API server or kubelet: where it is, who we are there, and what went wrong, as a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import msgspec
import yaml
from lightkube import KubeConfig
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.core.exceptions import ConfigError

from masdeepflow import __version__

if TYPE_CHECKING:
    from collections.abc import Generator

    from lightkube.config.kubeconfig import SingleConfig

__all__ = [
    "SERVICE_ACCOUNT",
    "AwayError",
    "ConfigurationError",
    "GoneError",
    "Server",
    "TokenFile",
    "configuration",
]

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Directory with `token`, `ca.crt` and `namespace`, as it is in a pod."""

_HOST = "KUBERNETES_SERVICE_HOST"
_CONNECT_S = 10.0
_MESSAGE = 300  # characters of what a server says that are repeated


class ConfigurationError(Exception):
    """Nothing tells where the API server is."""


class AwayError(Exception):
    """The server does not answer as it should. retry_after_s: what it asked for, 0 if nothing."""

    def __init__(self, sentence: str, retry_after_s: float = 0) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class GoneError(Exception):
    """The version asked for is not kept any more: list anew."""


class TokenFile(httpx2.Auth):
    """A bearer token that is read for each request: the kubelet writes a new one before the old one ends."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Put the token into the request."""
        try:
            token = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise AwayError(f"cannot read the token in {self._path}: {error}") from error
        request.headers["Authorization"] = f"Bearer {token}"
        yield request


def configuration(kubeconfig: str = "", service_account: str = SERVICE_ACCOUNT) -> SingleConfig:
    """Return how to reach the API server: by a kubeconfig file, else as a pod of the cluster.

    Raises:
        ConfigurationError: neither is there, or the file is not a kubeconfig.
    """
    try:
        if kubeconfig:
            return _selected(KubeConfig.from_file(kubeconfig))
        if not os.environ.get(_HOST):
            raise ConfigurationError(
                f"no Kubernetes API server is known: {_HOST} is not set, as it is in pods; "
                "name a kubeconfig file"
            )
        return _selected(KubeConfig.from_service_account(service_account))
    except (ConfigError, OSError, UnicodeError) as error:
        raise ConfigurationError(f"cannot read {kubeconfig or service_account}: {error}") from error
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError, yaml.YAMLError) as error:
        where = kubeconfig or service_account
        raise ConfigurationError(f"{where} is not a Kubernetes configuration: {error!r}") from error


def _selected(config: KubeConfig) -> SingleConfig:
    selected = config.get()
    if selected is None:
        raise ConfigurationError("the kubeconfig file has no current-context: set one with kubectl config")
    return selected


class Server:
    """An API server or kubelet. where: what to call it in sentences."""

    def __init__(self, config: SingleConfig, where: str) -> None:
        self.where = f"{where} {config.cluster.server}"
        self._config = config

    def connect(self, silence_s: float) -> httpx2.AsyncClient:
        """Return a client; CA and client certificates are read now, tokens at each request.

        silence_s: how long an answer may say nothing before it counts as lost.
        """
        timeout = httpx2.Timeout(_CONNECT_S, read=silence_s)
        client = AsyncClient(self._config, ConnectionParams(timeout=timeout))
        client.headers["User-Agent"] = f"masdeepflow/{__version__}"  # so that audit logs tell who asks
        if self._config.user and self._config.user.token_file:
            client.auth = TokenFile(str(self._config.abs_file(self._config.user.token_file)))
        return client

    def explain(self, error: Exception, what: str) -> str:
        """Return what went wrong while `what` was asked for."""
        if isinstance(error, AwayError):
            return str(error)
        if isinstance(error, httpx2.ReadTimeout):
            return f"{self.where} says nothing any more of {what}"
        if isinstance(error, httpx2.TimeoutException):
            return f"{self.where} does not answer: no connection within {_CONNECT_S:.0f} s"
        if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError):
            return f"{self.where} broke off {what}: {str(error)[:_MESSAGE] or type(error).__name__}"
        return f"{self.where} is not reached: {str(error)[:_MESSAGE] or type(error).__name__}"
