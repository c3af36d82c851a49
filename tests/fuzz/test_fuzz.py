"""The coverage-guided fuzzers, each for a short run; longer by hand: `python tests/fuzz/fuzz_http.py`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from masdeepflow.protocols.registry import load

_RUNS = 1000
_ROOT = Path(__file__).parents[2]
_HARNESSES = sorted(Path(__file__).parent.glob("fuzz_*.py"))


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or processor"
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("harness", _HARNESSES, ids=lambda path: path.stem)
def test_invariant_holds(harness: Path, tmp_path: Path) -> None:
    """No input breaks the invariant that a harness opens with."""
    done = subprocess.run(
        [sys.executable, str(harness), f"-runs={_RUNS}", "-seed=1"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=f"{_ROOT / 'src'}:{_ROOT}"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {_RUNS} runs" in done.stderr


def test_every_protocol_has_a_harness() -> None:
    """A protocol without a fuzzer is not done."""
    named = {protocol.name for protocol in load()}
    assert named == {path.stem.removeprefix("fuzz_") for path in _HARNESSES}
