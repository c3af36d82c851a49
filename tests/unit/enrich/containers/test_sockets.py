"""Where runtimes are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from masdeepflow.enrich.containers.sockets import Socket, default_sockets, parse_socket


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker=/run/user/1000/docker.sock", ("docker", "docker", "/run/user/1000/docker.sock")),
        ("podman=/a/b.sock", ("docker", "podman", "/a/b.sock")),
        ("containerd=unix:///a/b.sock", ("cri", "containerd", "/a/b.sock")),
        ("cri-o=/a=b.sock", ("cri", "cri-o", "/a=b.sock")),
        ("/run/k3s/containerd/containerd.sock", ("cri", "containerd", "/run/k3s/containerd/containerd.sock")),
        ("unix:///run/crio/crio.sock", ("cri", "cri-o", "/run/crio/crio.sock")),
        ("/run/user/1000/podman/podman.sock", ("docker", "podman", "/run/user/1000/podman/podman.sock")),
        ("/srv/a=b.sock", ("docker", "docker", "/srv/a=b.sock")),
    ],
)
def test_a_socket_is_named_with_its_runtime_or_by_its_path(text: str, expected: tuple[str, str, str]) -> None:
    """It is amiss if it is not there: somebody has asked for it."""
    kind, runtime, path = expected
    found = parse_socket(text)
    assert (found.kind, found.runtime, found.path, found.expected) == (kind, runtime, Path(path), True)


@pytest.mark.parametrize(
    "text", ["", "docker", "docker=", "docker=relative", "rkt=/run/rkt.sock", "tcp://host:2375"]
)
def test_what_is_no_socket_is_refused_with_what_to_give(text: str) -> None:
    """The sentence is for whoever typed it."""
    with pytest.raises(ValueError, match="give RUNTIME=/PATH, with one of docker, podman, containerd, cri-o"):
        parse_socket(text)


def test_the_usual_sockets_are_below_the_hosts_root() -> None:
    """An agent in a container has it mounted elsewhere. None of them is missed if it is not there."""
    found = default_sockets(Path("/host"))
    assert Socket("docker", "docker", Path("/host/run/docker.sock")) in found
    assert all(str(socket.path).startswith("/host/") and not socket.expected for socket in found)
    assert {socket.runtime for socket in found} == {"docker", "podman", "containerd", "cri-o"}


def test_a_path_that_may_not_be_looked_at_is_not_there(tmp_path: Path) -> None:
    """Neither is one that is too long or goes through a file."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "no", tmp_path / "file" / "no", tmp_path / ("x" * 5000)):
        assert not Socket("docker", "docker", path).is_there()
