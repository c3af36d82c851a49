"""Hosts and users that the agent can't run for: one sentence with the remedy, and exit code 1."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import MASDEEPFLOW, Finished, run
from tests.support.users import ordinary_user, without_capabilities

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.server("setpriv", "unshare")]

_RUN = (MASDEEPFLOW, "run", "--listen", "off", "--duration", 1)


def _refused(done: Finished) -> str:
    """Hold the form of a refusal; return the sentence."""
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("command", ["run", "record"])
def test_an_ordinary_user_is_told_to_become_root(command: str, tmp_path: Path) -> None:
    """Neither `run` nor `record` works without rights; the remedy is sudo, and no file is made."""
    output = ("-o", tmp_path / "recording") if command == "record" else ()
    done = run(*ordinary_user(), MASDEEPFLOW, command, *output, "--listen", "off", "--duration", 1, cwd="/")
    assert "sudo" in _refused(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("capability", ["bpf", "perfmon"])
def test_a_missing_capability_is_named(capability: str) -> None:
    """Root with one capability less is told which one."""
    # CAP_SYS_ADMIN stands for both of them, capabilities(7).
    said = _refused(run(*without_capabilities(capability, "sys_admin"), *_RUN))
    assert f"CAP_{capability.upper()}" in said


def test_the_two_capabilities_are_enough() -> None:
    """Root with nothing but CAP_BPF and CAP_PERFMON runs the agent."""
    only = ("setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all")
    done = run(*only, *_RUN)
    assert done.code == 0, done.stderr
    assert "ready: hooks=" in done.stderr


def test_no_btf_is_named_with_its_kernel_option() -> None:
    """A kernel without BTF: the option that it has to be built with."""
    hidden = 'mount -t tmpfs tmpfs /sys/kernel/btf && exec "$@"'
    done = run("unshare", "--mount", "sh", "-c", hidden, "sh", *_RUN)
    assert "CONFIG_DEBUG_INFO_BTF" in _refused(done)


def test_check_tells_a_user_what_run_would_miss() -> None:
    """`check` exits 0 for root and 1 for others, where it names what is missing; `--json` says the same."""
    assert run(MASDEEPFLOW, "check").code == 0
    done = run(*ordinary_user(), MASDEEPFLOW, "check", cwd="/")
    assert done.code == 1
    assert "missing" in done.stdout
    found = run(*ordinary_user(), MASDEEPFLOW, "check", "--json", cwd="/")
    assert found.code == 1
    report = json.loads(found.stdout)
    assert report["ready"] is False
    assert [finding for finding in report["findings"] if finding["state"] == "missing"]


def test_version_needs_nothing() -> None:
    """Anybody gets the version."""
    done = run(*ordinary_user(), MASDEEPFLOW, "version", cwd="/")
    assert done.code == 0
    assert done.stdout.startswith("masdeepflow ")
