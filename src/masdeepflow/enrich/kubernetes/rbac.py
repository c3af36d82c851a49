"""What the agent's ServiceAccount must be allowed: nothing that changes or shows more than it watches."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CLUSTER", "KUBELET", "Rule"]


class Rule(NamedTuple):
    """A rule of a ClusterRole (rbac.authorization.k8s.io/v1)."""

    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


CLUSTER = (
    Rule(("",), ("pods", "services"), ("list", "watch")),
    Rule(("apps",), ("replicasets",), ("list", "watch")),
    Rule(("batch",), ("jobs",), ("list", "watch")),
)
"""For the API server."""

KUBELET = (Rule(("",), ("nodes/proxy",), ("get",)),)
"""For a kubelet's port 10250; its port 10255 asks for nothing."""
