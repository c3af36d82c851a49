"""What is known of a process, under OpenTelemetry's names."""

from __future__ import annotations

import pytest

from masdeepflow.enrich.cgroup import Membership
from masdeepflow.enrich.facts import ContainerFact, PodFact
from masdeepflow.enrich.identity import Identity, Place, identify, peer_of
from masdeepflow.enrich.process import Program

ID = "0123456789abcdef" * 4
CONTAINER = ContainerFact(ID, "web", "docker", "nginx:1.27")
NOWHERE = Place()
POD = PodFact(
    "uid-1",
    "web-5d9-abc",
    "shop",
    "node-1",
    ("10.0.0.1",),
    labels={"tier": "front", "other": "x"},
    owners=(("ReplicaSet", "web-5d9"), ("Deployment", "web")),
    containers={ID: "nginx"},
)


def _identity(program: Program | None = None, place: Place = NOWHERE, comm: str = "nginx") -> Identity:
    return identify(7, comm, program, place, user="root", label_keys=("tier", "absent"))


def _in_container(**fields: str) -> Program:
    return Program("nginx", ("nginx", "-g"), 0, member=Membership(container_id=ID, **fields))


@pytest.mark.parametrize(
    ("program", "place", "service"),
    [
        (Program("nginx", service="shop", member=Membership(unit="nginx.service")), Place(), "shop"),
        (Program("nginx", member=Membership(unit="web.service")), Place(), "web"),
        (_in_container(unit="docker.service"), Place(CONTAINER), "web"),
        (_in_container(), Place(CONTAINER, POD), "web"),
        (_in_container(), Place(CONTAINER, PodFact("u", "solo", "shop")), "solo"),
        (_in_container(), Place(ContainerFact(ID, "c", pod_name="web-0")), "web-0"),
        (_in_container(), Place(), "nginx"),
        (Program("nginx"), Place(), "nginx"),
        (None, Place(), "comm"),
    ],
)
def test_service_is_the_first_name_that_somebody_gave(
    program: Program | None, place: Place, service: str
) -> None:
    """Of the environment, unit, workload, pod, container and executable, in this order; else the comm."""
    identity = _identity(program, place, comm="comm")
    assert identity.service == service
    assert identity.attributes[0] == ("service.name", service)


def test_a_service_is_never_without_a_name() -> None:
    """Also when there is not even a comm."""
    assert _identity(comm="").service == "(unknown)"


def test_container_is_told_by_runtime_or_by_its_path_alone() -> None:
    """Without the runtime's word, the id as docker ps shows it stands for the name."""
    known = dict(_identity(_in_container(), Place(CONTAINER)).attributes)
    assert {name: known[name] for name in known if name.startswith("container.")} == {
        "container.id": ID,
        "container.name": "web",
        "container.runtime": "docker",
        "container.image.name": "nginx:1.27",
    }
    unknown = _identity(_in_container(runtime="containerd"))
    assert dict(unknown.attributes)["container.name"] == unknown.container == ID[:12]
    assert dict(unknown.attributes)["container.runtime"] == "containerd"
    assert "container.id" not in dict(_identity(Program("nginx")).attributes)


def test_pod_is_told_with_its_owners_and_the_labels_asked_for() -> None:
    """Attribute names of workloads are OpenTelemetry's, for kinds that it does not know too."""
    identity = _identity(_in_container(), Place(CONTAINER, POD))
    assert (identity.pod, identity.namespace, identity.container) == ("web-5d9-abc", "shop", "nginx")
    known = dict(identity.attributes)
    assert {name: known[name] for name in known if name.startswith("k8s.")} == {
        "k8s.pod.name": "web-5d9-abc",
        "k8s.namespace.name": "shop",
        "k8s.pod.uid": "uid-1",
        "k8s.node.name": "node-1",
        "k8s.replicaset.name": "web-5d9",
        "k8s.deployment.name": "web",
        "k8s.pod.label.tier": "front",
        "k8s.container.name": "nginx",
    }
    odd = PodFact("u", "p", "n", owners=(("Roll-Out!", "r"), ("!", "x")))
    assert "k8s.rollout.name" in dict(_identity(_in_container(), Place(None, odd)).attributes)


def test_pod_is_told_by_what_the_runtime_or_the_path_knows() -> None:
    """Without an API server names come from the runtime's labels, without those the UID from the path."""
    labelled = ContainerFact(ID, "nginx", "containerd", "", {}, "uid-1", "web-0", "shop")
    known = dict(_identity(_in_container(), Place(labelled)).attributes)
    assert (known["k8s.pod.name"], known["k8s.namespace.name"], known["k8s.pod.uid"]) == (
        "web-0",
        "shop",
        "uid-1",
    )
    bare = dict(_identity(_in_container(pod_uid="uid-1")).attributes)
    assert bare["k8s.pod.uid"] == "uid-1"
    assert "k8s.pod.name" not in bare


def test_a_peer_has_what_tells_who_it_is() -> None:
    """Not its image, its labels or its command line: those are in its own records."""
    identity = _identity(_in_container(), Place(CONTAINER, POD))
    peer = dict(identity.peer)
    assert peer["peer.service.name"] == "web"
    assert (peer["peer.process.pid"], peer["peer.process.executable.name"]) == (7, "nginx")
    assert (peer["peer.container.id"], peer["peer.k8s.pod.name"]) == (ID, "web-5d9-abc")
    assert not [name for name in peer if "label" in name or "image" in name or "command" in name]
    assert peer_of(()) == ()


def test_hostile_names_are_cut() -> None:
    """Whoever may start a container may choose its name and labels; sinks escape what is in them."""
    long = "x\x1b" * 5000
    pod = PodFact("u", long, long, long, labels={"tier": long}, owners=((long, long),), containers={ID: long})
    program = Program(long, (long, long), 0, long, Membership(container_id=ID))
    identity = _identity(program, Place(ContainerFact(ID, long, "docker", long), pod))
    texts = [str(value) for _, value in identity.attributes]
    texts += [identity.service, identity.pod, identity.namespace, identity.container]
    assert max(map(len, texts)) <= 512
    assert max(len(name) for name, _ in identity.attributes) <= 128


def test_subjects_are_what_facts_may_still_tell() -> None:
    """A process that an exec told of is sure; one that /proc told of may be named anew."""
    assert _identity(None).subjects == {"pid:7"}
    assert _identity(Program("nginx", comm="nginx", sure=False)).subjects == {"pid:7"}
    assert _identity(Program("nginx")).subjects == frozenset()
    assert _identity(_in_container(pod_uid="u")).subjects == {ID, "u"}
