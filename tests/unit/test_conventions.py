"""What every file of the project keeps to."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from masdeepflow.kernel.privileges import CAPABILITIES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "masdeepflow"
UNIT = ROOT / "tests" / "unit"
MODULES = sorted(PACKAGE.rglob("*.py"))
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
TESTS = sorted(path for path in UNIT.rglob("test_*.py") if path != Path(__file__))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("test", TESTS, ids=_name)
def test_a_unit_test_has_the_name_and_place_of_its_code(test: Path) -> None:
    """`tests/unit/kernel/test_ring.py` is about `kernel/ring.py`, or the package `kernel/ring/`."""
    code = PACKAGE / test.parent.relative_to(UNIT) / test.stem.removeprefix("test_")
    assert code.with_suffix(".py").is_file() or (code / "__init__.py").is_file()


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_every_public_name_is_explained(module: Path) -> None:
    """Functions and classes of `__all__` have a docstring, other names one behind their assignment."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert set(_public(tree)) <= _explained(tree)


def _public(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ):
            return list(ast.literal_eval(node.value))
    return []


def _explained(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    assigned: set[str] = set()
    for node in tree.body:
        if isinstance(node, _DEFINITIONS) and ast.get_docstring(node):
            names.add(node.name)
        if _is_text(node):  # of all that was assigned since something else
            names |= assigned
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        new = {
            name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)
        }
        assigned = assigned | new if new else set()
    return names


def _is_text(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_with_public_names_lists_them(module: Path) -> None:
    """Whoever reads it sees first what it is for."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    defined = [node for node in tree.body if isinstance(node, _DEFINITIONS)]
    assert _public(tree) or all(node.name.startswith("_") for node in defined)


SOURCES = sorted(
    path
    for directory in ("src", "bpf", "tests", "bench", "requirements")
    for path in (ROOT / directory).rglob("*")
    if path.suffix in {".py", ".h", ".c", ".txt", ".lock"}
)
# Put together here, so that this file does not hold what it looks for.
INDEX = re.compile(
    "|".join(("index" + "-url", "INDEX" + "_URL", r"pypi\." + "org", "python" + "hosted", "/simple" + "/"))
)


def test_no_file_says_where_packages_come_from() -> None:
    """Which package index is used is the machine's own business: lock files hold hashes, not addresses."""
    assert SOURCES
    assert [_name(path) for path in SOURCES if INDEX.search(path.read_text(encoding="utf-8"))] == []


def test_the_marker_of_root_names_the_capabilities_that_the_agent_needs() -> None:
    """Those that `run` fails without, and no others."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    (text,) = (marker for marker in options["ini_options"]["markers"] if marker.startswith("root:"))
    needed = {capability.name for capability in CAPABILITIES if capability.required}
    assert set(re.findall(r"CAP_[A-Z_]+", text)) == needed
