"""run-in-docker.sh with real engines: the image, the container, what it may do, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.privileges import CAPABILITIES
from tests.e2e.delivery.engine import IMAGE, NAME, ROOT, SCRIPT, Engine
from tests.support.programs import clean_environment, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LARGEST_MB = 330


def _mysql_lines(engine: Engine) -> list[str]:
    """Run the two MySQL commands of the interface in the demo; return their lines of the log."""
    port = engine.port
    engine.done("exec", "--detach", NAME, "traffic_gen", "mysql-server", "--port", port)
    until(lambda: engine.command("exec", NAME, "traffic_gen", "mysql-client", "--port", port).code == 0)

    def lines() -> list[str]:
        found = [line for line in engine.logs() if f":{port}" in line]
        return found if any("MySQL Quit" in line for line in found) else []

    return until(lines, lambda: "\n".join(engine.logs()[-20:]))


def _assert_the_two_lines(lines: list[str]) -> None:
    comm = r"Type: TX, PID: \d+, Comm: traffic_gen, \S+ -> \S+"
    assert any(re.search(rf"{comm}, MySQL Query: SELECT 1;, , (\S*)$", line) for line in lines), lines
    latencies = [
        float(found[1])
        for line in lines
        if (found := re.search(rf"{comm}, MySQL Response: OK, , Latency: ([\d.]+)ms$", line))
    ]
    assert max(latencies) >= 50, lines


@pytest.mark.root
@pytest.mark.server("dockerd", "docker", "mmdebstrap")
@pytest.mark.timeout(600)
class TestDocker:
    """With a Docker daemon of the test's own."""

    def test_the_two_commands_give_the_two_lines(self, demo: Engine) -> None:
        """`docker exec` of the server and the client; the question and the answer are in `docker logs`."""
        _assert_the_two_lines(_mysql_lines(demo))

    def test_the_container_has_the_capabilities_it_needs_and_no_others(self, demo: Engine) -> None:
        """Never privileged; what loads programs is CAP_BPF and CAP_PERFMON, CAP_SYS_ADMIN for old engines."""
        host = demo.inspect()["HostConfig"]
        lesser = {capability.name for capability in CAPABILITIES if not capability.required}
        added = {f"CAP_{name.removeprefix('CAP_')}" for name in host["CapAdd"]}
        assert added - lesser in ({"CAP_BPF", "CAP_PERFMON"}, {"CAP_SYS_ADMIN"})
        assert (host["Privileged"], host["ReadonlyRootfs"], host["CapDrop"]) == (False, True, ["ALL"])
        assert (host["PidMode"], host["NetworkMode"], host["CgroupnsMode"]) == ("host", "host", "host")

    def test_check_in_the_container_misses_nothing(self, demo: Engine) -> None:
        """What the script gives is all that the agent asks for, but the engine's own limits."""
        told = json.loads(demo.done("exec", NAME, "masdeepflow", "check", "--json"))
        assert told["ready"]
        states = {finding["name"]: finding["state"] for finding in told["findings"]}
        assert {states[name] for name in ("BTF", "capabilities", "PID namespace", "cgroup")} == {"ok"}

    def test_check_in_a_bare_container_names_all_that_is_missing(self, demo: Engine) -> None:
        """Each capability and namespace with the option of `docker run` that gives it; exit code 1."""
        bare = demo.command("run", "--rm", "--network=none", IMAGE, "check")
        assert bare.code == 1
        for option in ("--cap-add BPF", "--cap-add PERFMON", "--cap-add SYS_PTRACE", "--pid host"):
            assert option in bare.stdout

    def test_the_image_is_small_and_has_nothing_of_the_build(self, demo: Engine, distribution: Path) -> None:
        """No compiler, no pip, no settings of the builder, nothing that makes root of others."""
        told = json.loads(demo.done("image", "inspect", IMAGE))[0]
        assert told["Size"] < _LARGEST_MB * 1_000_000
        assert len(told["RootFS"]["Layers"]) == 1
        paths = [f"/{path.relative_to(distribution)}" for path in distribution.rglob("*") if path.is_file()]
        search = f"""
            for program in clang make pip; do command -v $program; done
            cat {" ".join(paths)} 2>/dev/null
            find / -xdev -perm /6000 -type f
            ls -d /packages /build /opt/masdeepflow/lib/python3*/site-packages/pip 2>/dev/null
            true"""
        left = demo.done("run", "--rm", "--network=none", "--entrypoint=sh", IMAGE, "-c", search)
        assert left == ""

    def test_version_names_the_commit_it_was_built_from(self, demo: Engine) -> None:
        """There is no checkout in the image, so the build leaves a note."""
        commit = run("git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "rev-parse", "--short=12", "HEAD")
        assert commit.stdout.strip() in demo.done("exec", NAME, "masdeepflow", "version")

    def test_a_second_run_takes_the_place_of_the_first(self, demo: Engine) -> None:
        """The container is a new one, with the new arguments, and the only one."""
        before = demo.inspect()["Id"]
        again = demo.start(*demo.quiet, "--log", "json")
        assert again.code == 0, again.stderr
        assert demo.inspect()["Id"] != before
        assert demo.inspect()["Args"][-2:] == ["--log", "json"]
        assert len(demo.done("ps", "--all", "--quiet").split()) == 1

    def test_what_run_refuses_is_told_in_a_sentence(self, demo: Engine) -> None:
        """Wrong arguments reach the agent in the container; its answer is the script's."""
        refused = demo.start("--log", "xml", IMAGE=IMAGE)
        assert refused.code == 1
        assert "xml" in refused.stderr.splitlines()[-1]

    def test_a_build_that_fails_shows_why(self, docker: Engine) -> None:
        """The builder's own words, then a sentence."""
        failed = docker.start(BASE_IMAGE="127.0.0.1:9/none:1")
        assert failed.code == 1
        assert "127.0.0.1:9" in failed.stderr
        assert failed.stderr.endswith("the image could not be built (the reason is above)\n")


@pytest.mark.root
@pytest.mark.server("dockerd", "docker", "mmdebstrap", "podman", "runc")
@pytest.mark.timeout(600)
def test_podman_runs_it_too(demo: Engine, scratch: Path) -> None:
    """`CONTAINER_ENGINE=podman` with the same image: the same two lines."""
    directory = scratch / "podman"
    directory.mkdir()
    with _podman(directory) as podman:
        archive = scratch / "podman.tar"
        demo.done("save", "--output", archive, IMAGE)
        podman.done("load", "--input", archive)
        archive.unlink()
        started = podman.start(*podman.quiet, IMAGE="localhost/masdeepflow:demo")
        assert started.code == 0, started.stderr
        _assert_the_two_lines(_mysql_lines(podman))
        assert not podman.inspect()["HostConfig"]["Privileged"]


@contextlib.contextmanager
def _podman(directory: Path) -> Iterator[Engine]:
    """Give a Podman with storage of its own; runc, as crun refuses hosts with hybrid cgroups."""
    containers, storage = directory / "containers.conf", directory / "storage.conf"
    # The limits that Podman raises by itself are not to be had where CAP_SYS_RESOURCE is missing.
    containers.write_text(
        '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    storage.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/root"\nrunroot = "{directory}/run"\n'
    )
    podman = Engine("podman", CONTAINERS_CONF=str(containers), CONTAINERS_STORAGE_CONF=str(storage))
    try:
        yield podman
    finally:
        podman.command("rm", "--force", "--all", "--time=1")
        podman.command("rmi", "--force", "--all")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"CONTAINER_ENGINE": "lxc"}, "CONTAINER_ENGINE is docker or podman, not lxc"),
        ({"PATH": "{tools}"}, "docker is not installed: install the package docker.io"),
        (
            {"DOCKER_HOST": "unix://{tools}/docker.sock"},
            "docker doesn't answer: start its service or use sudo",
        ),
    ],
)
@pytest.mark.server("docker")
def test_without_an_engine_a_sentence_says_what_to_do(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    """No engine of that name, none installed, none that answers: exit 1 and one line."""
    for tool in ("bash", "env", "dirname", "readlink", "sed"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    given = {name: value.format(tools=tmp_path) for name, value in environment.items()}
    refused = run(SCRIPT, env=clean_environment(**given))
    assert (refused.code, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert sentence in refused.stderr
