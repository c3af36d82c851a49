"""`masdeepflow check`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from masdeepflow.kernel.host import Finding

__all__ = ["command"]


@click.command("check")
@click.option("--json", "as_json", is_flag=True, default=False, help="For machines.")
def command(*, as_json: bool) -> int:
    """Tell what this host offers; exit 0 if `run` would work, 1 with the remedy if not."""
    from masdeepflow.kernel import host  # noqa: PLC0415  # NumPy and all: not for --help

    findings = host.examine()
    ready = all(finding.state != "missing" for finding in findings)
    if as_json:
        click.echo(
            json.dumps({"ready": ready, "findings": [dataclasses.asdict(finding) for finding in findings]})
        )
    else:
        click.echo(_table(findings))
        click.echo("run will work here" if ready else "run will not work here")
    return 0 if ready else 1


def _table(findings: list[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        lines.append(f"{finding.name:<{width}}  {finding.state:<7}  {finding.detail}{remedy}")
    return "\n".join(lines)
