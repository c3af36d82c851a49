"""What the protocol buffer compiler made."""

from __future__ import annotations

from pathlib import Path

from masdeepflow.enrich.containers.wire import cri_pb2
from tests.support.programs import run

ROOT = Path(__file__).parents[4]
PLACES = ("src/masdeepflow/enrich/containers/wire", "tests/support/containers")


def _generated(root: Path) -> dict[str, str]:
    files = [path for place in PLACES for path in (root / place).glob("*_pb2.py*")]
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in files}


def test_the_generated_files_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """Who changes a .proto file runs scripts/generate-wire.sh."""
    made = run(ROOT / "scripts" / "generate-wire.sh", tmp_path)
    assert made.code == 0, made.stderr
    assert _generated(tmp_path) == _generated(ROOT)


def test_fields_that_are_not_used_are_skipped() -> None:
    """A message of a runtime has far more fields than the copies here."""
    container = cri_pb2.Container(id="a", labels={"b": "c"})
    more = b"\x30\x01" + b"\x38\x05" + b"\x52\x03sha"  # state, created_at, image_id
    assert cri_pb2.Container.FromString(container.SerializeToString() + more).labels == {"b": "c"}
