"""Which lookups a run has, from its options: who is asked for the names of containers and pods."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from masdeepflow.cli.errors import UsageError
from masdeepflow.enrich.lookups import Lookups

if TYPE_CHECKING:
    from masdeepflow.cli.options import Options
    from masdeepflow.enrich.lookups import Cluster, Runtimes

__all__ = ["lookups"]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def lookups(options: Options) -> Lookups:
    """Return what the options ask for, not started. Raises UsageError for what can't be meant."""
    return Lookups(_runtimes(options), _cluster(options))


def _runtimes(options: Options) -> Runtimes | None:
    if not options.runtimes:
        return None
    from masdeepflow.enrich.containers.runtimes import Runtimes  # noqa: PLC0415  # not for replays
    from masdeepflow.enrich.containers.sockets import parse_socket  # noqa: PLC0415  # likewise

    try:
        sockets = [parse_socket(text) for text in options.runtime_socket]
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Runtimes(sockets, root=options.host_root)


def _cluster(options: Options) -> Cluster | None:
    if not _wants_cluster(options):
        return None
    try:
        from masdeepflow.enrich.kubernetes.cluster import Cluster  # noqa: PLC0415  # an extra, and large
        from masdeepflow.enrich.kubernetes.connection import ConfigurationError  # noqa: PLC0415  # likewise
        from masdeepflow.enrich.kubernetes.kubelet import Kubelet  # noqa: PLC0415  # likewise
    except ImportError as error:
        raise UsageError(
            f"--kubernetes needs the extra `kubernetes` ({error.name} is missing): "
            "pip install 'masdeepflow[kubernetes]', or --kubernetes off"
        ) from error
    try:
        if options.kubernetes == "kubelet":
            insecure = options.insecure_kubelet
            return Kubelet(options.kubelet_url, insecure=insecure, labels=options.pod_label)
        return Cluster(_node(options), kubeconfig=options.kubeconfig, labels=options.pod_label)
    except ConfigurationError as error:
        raise UsageError(f"{error}; or use --kubernetes off") from error


def _wants_cluster(options: Options) -> bool:
    if options.kubernetes == "auto":
        return bool(options.kubeconfig) or _SERVICE_ACCOUNT.exists()
    return options.kubernetes != "off"


def _node(options: Options) -> str:
    # The name that manifests give by convention, from spec.nodeName.
    return options.node_name or os.environ.get("NODE_NAME", "")
