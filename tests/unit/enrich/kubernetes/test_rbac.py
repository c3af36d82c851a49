"""What the agent must be allowed."""

from __future__ import annotations

from pathlib import Path

from masdeepflow.enrich.kubernetes import rbac


def test_nothing_may_be_changed() -> None:
    """Reading only, of named resources only."""
    for rule in (*rbac.CLUSTER, *rbac.KUBELET):
        assert set(rule.verbs) <= {"get", "list", "watch"}
        assert "*" not in (*rule.resources, *rule.api_groups)
        assert "secrets" not in rule.resources


def test_the_documentation_says_the_same() -> None:
    """Each resource with its verbs."""
    text = (Path(__file__).parents[4] / "docs" / "kubernetes.md").read_text()
    for rule in (*rbac.CLUSTER, *rbac.KUBELET):
        for resource in rule.resources:
            row = next(line for line in text.splitlines() if line.startswith(f"| `{resource}`"))
            assert all(verb in row for verb in rule.verbs)
