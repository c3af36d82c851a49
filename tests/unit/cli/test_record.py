"""`masdeepflow record`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.cli import record, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Done, Session

    Run = Callable[..., Done]


@pytest.mark.parametrize("option", ["-o", "--output"])
def test_output_goes_to_the_session(masdeepflow: Run, sessions: list[Session], option: str) -> None:
    """With all that `run` would be told."""
    assert masdeepflow("record", option, "x.rec", "--duration", "2", "--log", "off").code == 0
    (session,) = sessions
    assert session.more["record_to"] == Path("x.rec")
    assert (session.options.duration, session.options.log) == (2.0, "off")
    assert callable(session.more["reload"])


def test_every_option_of_run_is_offered() -> None:
    """To record changes nothing else."""
    offered = {parameter.name for parameter in record.command.params}
    assert offered - {parameter.name for parameter in run.command.params} == {"output"}
    assert {parameter.name for parameter in run.command.params} <= offered


def test_output_is_asked_for(masdeepflow: Run) -> None:
    """There is no default name that could overwrite something."""
    done = masdeepflow("record", "--duration", "1")
    assert done.code == 2
    assert "--output" in done.sentence()
