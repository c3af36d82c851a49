"""Containers of real runtimes: what their cgroups tell, and what Docker and containerd tell of them."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.enrich.cgroup import Membership, parse_proc
from masdeepflow.enrich.containers.runtimes import Runtimes
from masdeepflow.enrich.containers.sockets import parse_socket
from masdeepflow.enrich.containers.worker import Pace
from masdeepflow.enrich.facts import ContainerFact
from tests.support.containers import (
    BUSYBOX,
    Container,
    busybox_image,
    containerd_cri,
    docker_daemon,
    plain_container,
    pod_container,
    pod_sandbox,
    podman_service,
    run_container,
)
from tests.support.programs import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.containers import Cri, Docker
    from tests.support.containers.namespaces import Cgroups

pytestmark = [
    pytest.mark.root,
    pytest.mark.server("dockerd", "containerd", "runc", "iptables", "busybox"),
]

SLEEP = ("sleep", "1000")
PACE = Pace(first=0.05, most=0.2, look=0.05, again=0.2, check=0.2)


class _Known:
    """What has been taken from runtimes so far; the later of two facts about a container counts."""

    def __init__(self, runtimes: Runtimes) -> None:
        self.runtimes = runtimes
        self._facts: dict[str, ContainerFact] = {}

    def get(self, container: Container, found: Callable[[ContainerFact], object] = bool) -> ContainerFact:
        """Wait until a container is known, and `found` is true of it; ask for nothing."""

        def look() -> ContainerFact | None:
            self._facts.update({fact.id: fact for fact in self.runtimes.take()})
            fact = self._facts.get(container.id)
            return fact if fact and found(fact) else None

        fact = until(look, lambda: f"{self._facts}, {self.runtimes.problems()}")
        assert fact is not None
        return fact

    def forget(self) -> None:
        """Forget all of them."""
        self._facts.clear()


@contextlib.contextmanager
def _asking(*sockets: str, root: Path | None = None) -> Iterator[_Known]:
    runtimes = Runtimes(map(parse_socket, sockets), usual=root is not None, root=root or Path("/"), pace=PACE)
    runtimes.start()
    try:
        yield _Known(runtimes)
    finally:
        runtimes.close()


def _membership(container: Container) -> Membership:
    return parse_proc(Path(f"/proc/{container.pid}/cgroup").read_text(encoding="utf-8"))


def test_a_docker_container_is_known_by_its_cgroup_and_its_name(docker: Docker) -> None:
    """Id and runtime from the path; name, image and labels from the daemon, without being asked."""
    labels = ("--label=com.example.team=shop", "--label=empty=")
    with (
        run_container(docker, *SLEEP, options=["--name=web", *labels]) as web,
        _asking(f"docker={docker.socket}") as known,
    ):
        assert _membership(web) == Membership(web.id, "docker")
        assert known.get(web) == ContainerFact(
            id=web.id,
            name="web",
            runtime="docker",
            image=BUSYBOX,
            labels={"com.example.team": "shop", "empty": ""},
        )


@pytest.mark.skipif(not Path("/sys/fs/cgroup/unified").exists(), reason="this host's cgroups are not hybrid")
@pytest.mark.parametrize("cgroups", ["v1", "v2"])
def test_a_container_is_known_on_hosts_with_one_kind_of_cgroups(tmp_path: Path, cgroups: Cgroups) -> None:
    """The other tests have what this host has, and the daemon may see only a part of it."""
    with docker_daemon(tmp_path, cgroups) as docker, run_container(docker, *SLEEP) as container:
        lines = Path(f"/proc/{container.pid}/cgroup").read_text(encoding="utf-8").splitlines()
        joined = {line.split(":")[0] for line in lines if container.id in line}
        assert joined == {"0"} if cgroups == "v2" else "0" not in joined
        assert _membership(container) == Membership(container.id, "docker")


@pytest.mark.server("podman")
def test_a_container_of_podman_is_known_as_such(tmp_path: Path) -> None:
    """It speaks the Docker API; its path says that it is another's."""
    with (
        podman_service(tmp_path) as podman,
        run_container(podman, *SLEEP, options=["--name=web", "--label=a=b"]) as web,
        _asking(f"podman={podman.socket}") as known,
    ):
        assert _membership(web) == Membership(web.id, "podman")
        fact = known.get(web)
        assert (fact.name, fact.runtime, fact.image, fact.labels["a"]) == ("web", "podman", BUSYBOX, "b")
        with run_container(podman, *SLEEP, options=["--name=later"]) as later:
            known.runtimes.ask(later.id, "podman")
            assert known.get(later).name == "later"


def test_what_docker_starts_and_renames_is_followed(docker: Docker) -> None:
    """A name is there before somebody asks, and never an old one."""
    with _asking(f"docker={docker.socket}") as known, run_container(docker, *SLEEP) as container:
        assert known.get(container).name == container.name
        docker.done("rename", container.name, f"{container.name}-again")
        assert (
            known.get(container, lambda fact: fact.name != container.name).name == f"{container.name}-again"
        )
        assert known.runtimes.counters["asked"] == 0


def test_a_container_that_docker_made_but_does_not_run_is_told_when_asked(docker: Docker) -> None:
    """Its first process may be gone before anybody looks."""
    made = docker.inspect(docker.done("create", "--name=short", BUSYBOX, "true"))
    try:
        with _asking(f"docker={docker.socket}") as known:
            known.runtimes.ask(made.id, "docker")
            assert known.get(made).name == "short"
            assert known.runtimes.counters["answered"] == 1
    finally:
        docker.done("rm", made.id)


def test_a_label_of_ten_kilobytes_is_cut_and_counted(docker: Docker) -> None:
    """Control characters are kept: whoever prints them escapes them."""
    options = [f"--label=long={'x' * 10_000}", "--label=bell=\a\x1b[31m", f"--label={'n' * 10_000}=1"]
    with (
        run_container(docker, *SLEEP, options=options) as container,
        _asking(f"docker={docker.socket}") as known,
    ):
        assert known.get(container).labels == {"long": "x" * 256, "bell": "\a\x1b[31m"}
        assert known.runtimes.counters["cut"] >= 2


def test_a_container_in_a_pod_carries_the_pods_names(cri: Cri) -> None:
    """Pod, namespace, uid and container name on both sides of a pod with two containers."""
    with (
        pod_sandbox(cri, "web-5d9", "shop", labels={"app": "web"}) as pod,
        pod_container(cri, pod, "nginx", *SLEEP, labels={"tier": "front"}) as nginx,
        _asking(f"containerd={cri.socket}") as known,
    ):
        assert _membership(nginx) == Membership(nginx.id, "", pod.uid)
        fact = known.get(nginx)
        assert _names(fact) == ("nginx", "containerd", BUSYBOX, pod.uid, "web-5d9", "shop")
        assert fact.labels["tier"] == "front"
        with pod_container(cri, pod, "sidecar", *SLEEP) as sidecar:
            known.runtimes.ask(sidecar.id, _membership(sidecar).runtime)
            assert _names(known.get(sidecar)) == (
                "sidecar",
                "containerd",
                BUSYBOX,
                pod.uid,
                "web-5d9",
                "shop",
            )
        assert known.runtimes.problems() == {}


def _names(fact: ContainerFact) -> tuple[str, ...]:
    return (fact.name, fact.runtime, fact.image, fact.pod_uid, fact.pod_name, fact.pod_namespace)


def test_the_pods_own_container_is_the_pod(cri: Cri) -> None:
    """What holds the namespaces has the sandbox's id in its path, and no name."""
    with pod_sandbox(cri, "web", "shop") as pod, _asking(f"containerd={cri.socket}") as known:
        known.runtimes.ask(pod.id, "containerd")
        fact = known.get(Container(pod.id, "", 0, ""))
        assert _names(fact) == ("", "containerd", "", pod.uid, "web", "shop")


def test_an_image_asked_for_by_number_is_told_by_name(cri: Cri) -> None:
    """As kubelets do."""
    names = cri.command("images", "list", "--quiet").stdout.splitlines()
    number = next(name for name in names if name.startswith("sha256:"))
    with (
        pod_sandbox(cri, "web") as pod,
        pod_container(cri, pod, "nginx", *SLEEP, image=number) as container,
        _asking(f"containerd={cri.socket}") as known,
    ):
        assert known.get(container).image.startswith("masdeepflow.test/")


def test_a_container_that_no_kubelet_started_is_told_by_containerd(cri: Cri, tmp_path: Path) -> None:
    """As nerdctl makes them, in a namespace of containerd's own."""
    cri.load(busybox_image(tmp_path), "default")
    options = ["--label=nerdctl/name=db"]
    with (
        plain_container(cri, secrets.token_hex(32), *SLEEP, options=options) as container,
        _asking(f"containerd={cri.socket}") as known,
    ):
        assert _membership(container) == Membership(container.id, "containerd")
        assert _names(known.get(container)) == ("db", "containerd", BUSYBOX, "", "", "")
        known.forget()
        known.runtimes.ask(container.id, "containerd")
        assert known.get(container).name == "db"


def test_the_hosts_sockets_are_found_below_another_root(docker: Docker, tmp_path: Path) -> None:
    """For an agent in a container that has the host's /run mounted."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "docker.sock").symlink_to(docker.socket)
    with run_container(docker, *SLEEP) as container, _asking(root=tmp_path) as known:
        assert known.get(container).name == container.name


def test_docker_may_die_and_come_back(tmp_path: Path) -> None:
    """Meanwhile there is a sentence for /healthz; afterwards names again, without being asked."""
    with docker_daemon(tmp_path) as docker, _asking(f"docker={docker.socket}") as known:
        with run_container(docker, *SLEEP, options=["--name=before"]) as before:
            assert known.get(before).name == "before"
            docker.crash()
            problem = until(known.runtimes.problems)
            assert problem[str(docker.socket)].startswith(f"docker: {docker.socket} ")
            docker.start()
        with run_container(docker, *SLEEP, options=["--name=after"]) as after:
            assert known.get(after).name == "after"
        until(lambda: not known.runtimes.problems())


def test_containerd_may_die_and_come_back(tmp_path: Path) -> None:
    """Its pods run on, and are told again."""
    with (
        containerd_cri(tmp_path) as cri,
        pod_sandbox(cri, "web") as pod,
        pod_container(cri, pod, "nginx", *SLEEP) as container,
        _asking(f"containerd={cri.socket}") as known,
    ):
        assert known.get(container).name == "nginx"
        cri.crash()
        try:
            problem = until(known.runtimes.problems)
            assert problem[str(cri.socket)].startswith(f"containerd: {cri.socket} ")
            known.forget()
        finally:
            cri.start()
        assert known.get(container).pod_name == "web"
        until(lambda: not known.runtimes.problems())


def test_a_containerd_without_cri_is_no_trouble(docker: Docker) -> None:
    """As Docker's own: its containers are asked of Docker, and its socket is no problem."""
    inner = docker.directory / "exec" / "containerd" / "containerd.sock"
    with (
        run_container(docker, *SLEEP) as container,
        _asking(f"docker={docker.socket}", f"containerd={inner}") as known,
    ):
        assert known.get(container).name == container.name
        known.runtimes.ask("0" * 64, "")
        until(lambda: known.runtimes.counters["unknown"] == 2, lambda: str(known.runtimes.counters))
        assert known.runtimes.problems() == {}
