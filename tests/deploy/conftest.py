"""Helm and what it makes of the chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.helm import helm
from tests.support.programs import Finished, clean_environment, run

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "masdeepflow"


@pytest.fixture(scope="session")
def chart_tool() -> Callable[..., Finished]:
    """Give a function that runs helm with the words given, with no cluster and no settings of the user's."""
    program = helm()

    def call(*words: object) -> Finished:
        return run(program, *words, env=clean_environment(KUBECONFIG="/dev/null", HELM_PLUGINS="/dev/null"))

    return call


@pytest.fixture(scope="session")
def render(chart_tool: Callable[..., Finished]) -> Callable[..., list[dict[str, Any]]]:
    """Give a function that renders the chart with values, `a.b=c` each; it returns the documents."""

    def rendered(*values: str, kubernetes: str = "1.30") -> list[dict[str, Any]]:
        done = chart_tool(
            *("template", "agent", CHART, "--namespace", "observability", "--kube-version", kubernetes),
            *(word for value in values for word in ("--set", value)),
        )
        assert done.code == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return rendered
