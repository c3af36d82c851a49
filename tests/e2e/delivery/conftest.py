"""A Docker daemon, an image built there by run-in-docker.sh, and the container that it starts."""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.delivery.engine import NAME, Engine, in_memory
from tests.support.programs import Program, clean_environment, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator


_BASE = "masdeepflow-test-base:1"


@pytest.fixture(scope="package")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a directory for all that is large and need not outlive the tests."""
    with in_memory(tmp_path_factory.mktemp("delivery")) as directory:
        yield directory


@pytest.fixture(scope="package")
def docker(scratch: Path) -> Iterator[Engine]:
    """Run a Docker daemon without networks of its own, so that builds and containers are on the host's."""
    directory = scratch / "docker"
    directory.mkdir()
    socket = directory / "docker.sock"
    config = directory / "daemon.json"
    config.write_text("{}")
    engine = Engine("docker", DOCKER_HOST=f"unix://{socket}")
    daemon = Program(
        directory,
        # What it mounts goes with it.
        *("unshare", "--mount", "dockerd"),
        f"--config-file={config}",
        f"--host=unix://{socket}",
        f"--data-root={directory / 'data'}",
        f"--exec-root={directory / 'exec'}",
        f"--pidfile={directory / 'pid'}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    )
    with daemon:
        until(lambda: engine.command("version").code == 0, lambda: daemon.errors[-2000:], 60)
        yield engine
        engine.command("rm", "--force", NAME)
        daemon.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="package")
def distribution(scratch: Path) -> Path:
    """Return a directory for BUILDER_ROOT: what this host's apt and pip need to reach their servers."""
    root = scratch / "builder-root"
    (root / "etc" / "apt" / "sources.list.d").mkdir(parents=True)
    (root / "etc" / "apt" / "apt.conf.d").mkdir()
    _copy_apt_settings(root / "etc" / "apt")
    _copy_pip_settings(root / "etc")
    return root


def _codename() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _copy_apt_settings(target: Path) -> None:
    here = Path("/etc/apt")
    for path in [*here.glob("sources.list"), *here.glob("sources.list.d/*")]:
        # Others' repositories name themselves in the suite, and need keys that the base has not.
        if path.suffix in {".list", ".sources"} and re.search(rf"\s{_codename()}\s", path.read_text()):
            shutil.copy(path, target / path.relative_to(here))
    (target / "apt.conf.d" / "90host").write_text(run("apt-config", "dump", "Acquire").stdout)


def _copy_pip_settings(target: Path) -> None:
    settings = []
    certificates = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))
    if certificates.exists():
        shutil.copy(certificates, target / "host-certificates.crt")
        settings.append("cert = /etc/host-certificates.crt")
    for line in run(sys.executable, "-m", "pip", "config", "list").stdout.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in {"index" + "-url", "proxy", "trusted-host", "timeout"}:
            settings.append(f"{key} = {ast.literal_eval(value)}")
    (target / "pip.conf").write_text("\n".join(["[global]", *settings, ""]))


@pytest.fixture(scope="package")
def base(docker: Engine, distribution: Path, scratch: Path) -> str:
    """Return the name of an image with this distribution's essential packages: no registry is asked."""
    archive = scratch / "base.tar"
    apt = distribution / "etc" / "apt"
    made = run(
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        "--include=apt",
        f"--aptopt={apt / 'apt.conf.d' / '90host'}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
        _codename(),
        archive,
        *apt.glob("sources.list"),
        *apt.glob("sources.list.d/*"),
        env=clean_environment(TMPDIR=str(scratch)),
        timeout_s=300,
    )
    assert made.code == 0, made.stderr[-2000:]
    docker.done("import", archive, _BASE)
    archive.unlink()
    return _BASE


@pytest.fixture(scope="package")
def demo(docker: Engine, base: str, distribution: Path) -> Engine:
    """Run run-in-docker.sh once as a user does; the container is there afterwards."""
    docker.environment |= {
        "BASE_IMAGE": base,
        "BUILDER_ROOT": str(distribution),
        "BUILD_NETWORK": "host",
    }
    started = docker.start(*docker.quiet)
    assert started.code == 0, started.stderr
    assert f"docker logs -f {NAME}" in started.stdout
    return docker
