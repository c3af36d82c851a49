"""Protocols from the user's own files: what fits is used, what does not is told, and the agent goes on."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow import filters, schema
from masdeepflow.enrich.directory import Directory
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.protocols.plugins import PluginsError, load
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masdeepflow.protocols.base import Protocol

DOCUMENT = Path(__file__).parents[3] / "docs" / "new-protocol.md"
WHOLE = """
import numpy as np
from masdeepflow.table import Encoded, Parsed

class Toy:
    name = "toy"

    def recognise(self, slots):
        return np.zeros(len(slots), np.uint8)

    def parse(self, slots):
        raise NotImplementedError

    def forget(self, cookies):
        pass

PROTOCOL = Toy
"""


@pytest.fixture(autouse=True)
def _same_schema(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attributes and modules that a plugin adds are gone behind the test."""
    monkeypatch.setattr(schema, "ATTRIBUTES", dict(schema.ATTRIBUTES))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _load(directory: Path) -> tuple[list[str], list[str]]:
    found, reasons = load(directory, registry.load())
    return [protocol.name for protocol in found], reasons


def _reason(directory: Path, source: str | bytes) -> str:
    """Return why this is not used, without the part that is always there."""
    path = directory / "x.py"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    found, (reason,) = _load(directory)
    assert found == []
    assert "masdeepflow_plugins.x" not in sys.modules
    assert reason.isprintable()
    start, is_not_used, why = reason.partition(f" {path} is not used: ")
    assert (start, bool(is_not_used)) == ("the plugin", True)
    return why


def _documented() -> str:
    """Return the example of docs/new-protocol.md."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return str(example)


def _beanstalkd(directory: Path) -> Protocol:
    (directory / "beanstalkd.py").write_text(_documented(), encoding="utf-8")
    (protocol,), reasons = load(directory, registry.load())
    assert reasons == []
    return protocol


def test_the_documented_example_works(tmp_path: Path) -> None:
    """As it stands in docs/new-protocol.md: beside our own protocols, with attributes of its own."""
    protocols = [*registry.load(), _beanstalkd(tmp_path)]
    pipeline = Pipeline(protocols, Directory(), filters.parse([], []))
    slots = make_slots(
        turn(b"put 0 0 60 5\r\nhello\r\n", b"INSERTED 17\r\n"),
        turn(b"delete 99\r\n", b"NOT_FOUND\r\n"),
        turn(b"\xff\xff", b"\xff"),
        turn(b"use mail\r\n", b"HTTP/1.1 400 Bad Request\r\n", cookie=2),
        turn(b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", cookie=3),
    )
    tables = {table.protocol: table for table in pipeline.process(slots, 0)[0]}
    assert pipeline.registry.errors == {}
    mine = tables["beanstalkd"]
    assert mine.request_text.to_list() == [
        "Beanstalkd Command: put 0 0 60 5",
        "Beanstalkd Command: delete 99",
        "Beanstalkd Command",
    ]
    assert mine.response_text.to_list()[:2] == [
        "Beanstalkd Response: INSERTED",
        "Beanstalkd Response: NOT_FOUND",
    ]
    assert mine.error.tolist() == [False, True, False]
    job = mine.attributes["beanstalkd.job.id"]
    assert isinstance(job, np.ndarray)
    assert job.tolist() == [17, -1, -1]
    assert {name: len(table) for name, table in tables.items()} == {"beanstalkd": 3, "http": 2}
    assert {"beanstalkd.command", "beanstalkd.job.id"} <= set(schema.ATTRIBUTES)


def test_files_are_loaded_by_name_and_others_passed_over(tmp_path: Path) -> None:
    """The order, in which ties are broken, is that of the names; what is no plugin is not looked at."""
    for name in "b", "a":
        (tmp_path / f"{name}.py").write_text(WHOLE.replace('"toy"', f'"{name}"'))
    for name in ("_shared.py", ".hidden.py", "README.md", "old.py~"):
        (tmp_path / name).write_text("1 / 0")
    (tmp_path / "__pycache__").mkdir()
    assert _load(tmp_path) == (["a", "b"], [])


def test_one_that_is_broken_does_not_keep_others_out(tmp_path: Path) -> None:
    """Neither those before it nor those behind."""
    for name in "a", "c":
        (tmp_path / f"{name}.py").write_text(WHOLE.replace('"toy"', f'"{name}"'))
    (tmp_path / "b.py").write_text("def")
    found, reasons = _load(tmp_path)
    assert found == ["a", "c"]
    assert len(reasons) == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\ndef f(:\n", r"line 2: invalid syntax"),
        (b"\xff\xfe", r".*(codec|encod|UTF-8|unicode).*"),
        ("\0", r".*null bytes.*"),
        ("x = 1\nimport nothing_of_that_name\n", r"line 2: ModuleNotFoundError: No module named .*"),
        ("raise RuntimeError('\\x1b[31m\\nred')", r"line 1: RuntimeError: \\x1b\[31m\\x0ared"),
        ("raise SystemExit(3)", "line 1: SystemExit: 3"),
        ("raise ValueError('x' * 5000)", "line 1: ValueError: x{300,400}[.]{3}"),
        ("", "it binds no PROTOCOL"),
        ("PROTOCOL = 5", "its PROTOCOL is no class"),
        (WHOLE.replace("class Toy:", "class Toy:\n    def __init__(self, x): pass"), "TypeError: .*"),
        (WHOLE.replace('"toy"', "5"), "the name of its protocol is 5: .*"),
        (WHOLE.replace('"toy"', '"a\\nb"'), r"the name of its protocol is 'a\\nb': .*"),
        (WHOLE.replace('"toy"', '"tcp"'), "the name of its protocol is 'tcp': .*"),
        (WHOLE.replace('"toy"', '"http"'), "there is a protocol http already"),
        (WHOLE.replace("def parse", "def pause"), "its protocol has no method parse"),
        (WHOLE.replace("parse(self, slots)", "parse(self)"), "its parse does not take one argument"),
        (
            WHOLE.replace("(self, cookies)", "(self, a, b)"),
            "its forget does not take one argument",
        ),
        (WHOLE.replace("np.uint8", "int"), "TypeError: recognise returns int64, not uint8"),
        (WHOLE.replace("np.zeros(len(slots)", "np.zeros(len(slots) + 1"), "ValueError: .*"),
        (WHOLE.replace("return np", "return nothing"), "line 9: NameError: .*"),
        (WHOLE + "ATTRIBUTES = 5", "its ATTRIBUTES can't be used: .*"),
        (WHOLE + "ATTRIBUTES = ['a.b']", "its ATTRIBUTES can't be used: .*"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(tmp_path: Path, source: str | bytes, reason: str) -> None:
    """One sentence, safe to print, and no exception: the agent starts without it."""
    assert re.fullmatch(reason, _reason(tmp_path, source))


def test_attributes_are_added_only_with_the_protocol(tmp_path: Path) -> None:
    """Those of a plugin that is not used are not there."""
    column = "\nfrom masdeepflow.schema import Column\nATTRIBUTES = [Column('toy.size', 'int', 'Size')]\n"
    (tmp_path / "x.py").write_text(WHOLE.replace('"toy"', '"http"') + column)
    assert _load(tmp_path)[0] == []
    assert "toy.size" not in schema.ATTRIBUTES
    (tmp_path / "x.py").write_text(WHOLE + column)
    for _ in range(2):
        assert _load(tmp_path)[0] == ["toy"]
    assert schema.ATTRIBUTES["toy.size"].type == "int"


def test_two_of_the_same_name_clash(tmp_path: Path) -> None:
    """The first by file name is used."""
    for name in "a", "b":
        (tmp_path / f"{name}.py").write_text(WHOLE)
    found, (reason,) = _load(tmp_path)
    assert found == ["toy"]
    assert "b.py is not used: there is a protocol toy already" in reason


def test_bytecode_beside_a_file_is_not_run(tmp_path: Path) -> None:
    """What was looked at is what runs."""
    (tmp_path / "x.py").write_text(WHOLE)
    _load(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.py"]


@pytest.mark.parametrize("mode", [0o666, 0o646, 0o602])
def test_a_file_that_everybody_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Anybody could become root by it."""
    path = tmp_path / "x.py"
    path.write_text(WHOLE)
    path.chmod(mode)
    found, (reason,) = _load(tmp_path)
    assert found == []
    assert reason.endswith("everybody may write to it (chmod go-w)")


def test_a_directory_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    """Even with the sticky bit: files can be added. Nothing of it is run."""
    (tmp_path / "x.py").write_text("raise KeyboardInterrupt")
    tmp_path.chmod(0o1777)
    with pytest.raises(PluginsError, match=r"is not safe: everybody may write to it \(chmod go-w\)$"):
        load(tmp_path, [])


@pytest.mark.root
@pytest.mark.parametrize("part", [".", "x.py"])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, part: str) -> None:
    """Its owner may change it, whatever its mode."""
    (tmp_path / "x.py").write_text(WHOLE)
    os.chown(tmp_path / part, 65534, 65534)
    told = "it belongs to user 65534, who could change it \\(chown root\\)$"
    if part == ".":
        with pytest.raises(PluginsError, match=told):
            load(tmp_path, [])
    else:
        assert re.search(told, _load(tmp_path)[1][0])


@pytest.mark.root
def test_a_group_that_may_write_is_refused(tmp_path: Path) -> None:
    """Unless it is root's own."""
    path = tmp_path / "x.py"
    path.write_text(WHOLE)
    path.chmod(0o664)
    os.chown(path, 0, 65534)
    assert _load(tmp_path)[1][0].endswith("group 65534 may write to it (chmod g-w)")
    os.chown(path, 0, 0)
    assert _load(tmp_path)[0] == ["toy"]


def test_on_a_read_only_mount_modes_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pod with a ConfigMap: its directory is open to all, and nobody can write there."""
    (tmp_path / "x.py").write_text(WHOLE)
    tmp_path.chmod(0o777)

    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "fstatvfs", lambda _fd: ReadOnly)
    assert _load(tmp_path)[0] == ["toy"]


def test_links_are_followed_to_what_is_looked_at(tmp_path: Path) -> None:
    """A ConfigMap's files are links; where one leads is held to the same rules."""
    target = tmp_path / "elsewhere"
    target.write_text(WHOLE)
    directory = tmp_path / "plugins"
    directory.mkdir()
    (directory / "x.py").symlink_to(target)
    assert _load(directory)[0] == ["toy"]
    target.chmod(0o666)
    assert _load(directory)[0] == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("directory", "it is no regular file"),
        ("fifo", "it is no regular file"),
        ("dangling", "it can't be read: No such file or directory"),
        ("large", f"it has more than {1 << 22} bytes"),
    ],
)
def test_what_is_no_file_of_source_is_told(tmp_path: Path, kind: str, reason: str) -> None:
    """And neither waited for nor read whole."""
    path = tmp_path / "x.py"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"#" * ((1 << 22) + 1))
    found, (told,) = _load(tmp_path)
    assert found == []
    assert told.endswith(reason)


@pytest.mark.parametrize("name", ["gone", "file"])
def test_what_is_no_directory_is_an_error(tmp_path: Path, name: str) -> None:
    """Whoever names it wants his protocols: to start without them would not be noticed."""
    (tmp_path / "file").touch()
    with pytest.raises(PluginsError, match=f"{name} can't be read: (No such file|Not a directory)"):
        load(tmp_path / name, [])


def test_being_told_to_stop_is_no_defect(tmp_path: Path) -> None:
    """Ctrl-C while a plugin is read ends the program."""
    (tmp_path / "x.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, [])


@pytest.mark.parametrize("names", [[], ["README", "_shared.py", ".hidden.py", "toy.py.txt"]])
def test_a_directory_without_plugins_is_told(tmp_path: Path, names: list[str]) -> None:
    """It is most likely another one than was meant."""
    for name in names:
        (tmp_path / name).write_text(WHOLE)
    found, (reason,) = _load(tmp_path)
    assert found == []
    assert reason.startswith(f"there is no plugin in {tmp_path}: ")
