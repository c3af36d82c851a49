"""Who is at one end of a connection, as attributes with OpenTelemetry's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masdeepflow.enrich.script import called, script_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from masdeepflow.enrich.facts import ContainerFact, PodFact, ServiceFact
    from masdeepflow.enrich.process import Program

__all__ = [
    "PEER",
    "Attributes",
    "Identity",
    "Place",
    "identify",
    "peer_of",
    "pod_attributes",
    "service_attributes",
]

Attributes = tuple[tuple[str, str | int], ...]
"""Attribute name -> value, in the order in which sinks show them."""
PEER = "peer."
"""Before the names of what is known of the other end."""
_UNKNOWN = "(unknown)"
_SHORT_ID = 12  # as docker ps shows it
_NAME_BYTES = 256
_COMMAND_BYTES = 512
_KIND_BYTES = 64
_OF_PEERS = ("service.name", "process.pid", "process.executable.name", "container.", "k8s.", "dns.")
_NOT_OF_PEERS = ("container.image.name", "k8s.pod.label.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs. None where it is in none, or nothing is known of it yet."""

    container: ContainerFact | None = None
    pod: PodFact | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A process as it is named in every record. Compared by identity.

    executable: base name, None where unknown. command: argv[0], None where unknown. service: what golden
    signals go under. pod, namespace, container: names, empty where unknown. attributes: what else is known of
    it. peer: the same as attributes of the other end's records. subjects: what facts about it are about.
    """

    pid: int
    program: Program | None
    executable: str | None
    command: str | None
    service: str
    pod: str
    namespace: str
    container: str
    attributes: Attributes
    peer: Attributes
    subjects: frozenset[str]


def identify(  # noqa: PLR0913  # the parts of an identity
    pid: int,
    comm: str,
    program: Program | None,
    place: Place,
    *,
    user: str | None,
    label_keys: Sequence[str] = (),
    show_arguments: bool = True,
) -> Identity:
    """Put together what is known of a process.

    label_keys: pod labels that are shown. show_arguments: whether its command line is.
    """
    executable = program.executable if program else None
    arguments = program.arguments if program else ()
    given = _service(program, place) or script_of(executable, arguments)
    service = given or called(comm, arguments) or executable or comm or _UNKNOWN
    attributes = (
        ("service.name", service),
        *_process_attributes(arguments if show_arguments else (), user),
        *_container_attributes(program, place),
        *_pod_attributes(program, place, label_keys),
    )
    own = (
        *attributes[:1],
        ("process.pid", pid),
        ("process.executable.name", executable or comm),
        *attributes[1:],
    )
    return Identity(
        pid=pid,
        program=program,
        executable=executable,
        command=program.arguments[0] if program and program.arguments else None,
        service=service,
        pod=_pod_name(place),
        namespace=_namespace(place),
        container=_container_name(program, place),
        attributes=attributes,
        peer=peer_of(own),
        subjects=frozenset(_subjects(pid, comm, program, place)),
    )


def peer_of(attributes: Sequence[tuple[str, str | int]]) -> Attributes:
    """Return attributes as those of the other end."""
    return tuple(
        (PEER + name, value)
        for name, value in attributes
        if name.startswith(_OF_PEERS) and not name.startswith(_NOT_OF_PEERS)
    )


def _service(program: Program | None, place: Place) -> str:
    """Return the name that somebody gave: to the service, its unit, its workload, its container."""
    if program and program.service:
        return _cut(program.service)
    if program and program.member.unit and not program.member.container_id:
        return _cut(program.member.unit.removesuffix(".service"))
    if place.pod and place.pod.owners:
        return _cut(place.pod.owners[-1][1])
    return _cut(_pod_name(place) or (place.container.name if place.container else ""))


def _pod_name(place: Place) -> str:
    return _cut(place.pod.name if place.pod else place.container.pod_name if place.container else "")


def _namespace(place: Place) -> str:
    return _cut(
        place.pod.namespace if place.pod else place.container.pod_namespace if place.container else ""
    )


def _pod_uid(program: Program | None, place: Place) -> str:
    if place.pod:
        return place.pod.uid
    of_container = place.container.pod_uid if place.container else ""
    return of_container or (program.member.pod_uid if program else "")


def _container_name(program: Program | None, place: Place) -> str:
    identifier = program.member.container_id if program else ""
    if place.pod and identifier in place.pod.containers:
        return _cut(place.pod.containers[identifier])
    return _cut(place.container.name if place.container else "") or identifier[:_SHORT_ID]


def _process_attributes(arguments: Sequence[str], user: str | None) -> Iterator[tuple[str, str | int]]:
    if len(arguments) > 1:
        yield "process.command_line", _cut(" ".join(arguments), _COMMAND_BYTES)
    if user is not None:
        yield "process.owner", user


def _container_attributes(program: Program | None, place: Place) -> Iterator[tuple[str, str | int]]:
    if not program or not program.member.container_id:
        return
    container = place.container
    yield "container.id", program.member.container_id
    yield "container.name", _container_name(program, place)
    runtime = container.runtime if container and container.runtime else program.member.runtime
    if runtime:
        yield "container.runtime", runtime
    if container and container.image:
        yield "container.image.name", _cut(container.image)


def _pod_attributes(
    program: Program | None, place: Place, label_keys: Sequence[str]
) -> Iterator[tuple[str, str | int]]:
    uid = _pod_uid(program, place)
    if not uid and not place.pod:
        return
    if place.pod:
        yield from pod_attributes(place.pod, label_keys)
    else:
        name, namespace = _pod_name(place), _namespace(place)
        yield from (
            (key, value)
            for key, value in (("k8s.pod.name", name), ("k8s.namespace.name", namespace))
            if value
        )
        yield "k8s.pod.uid", uid
    if program and program.member.container_id:
        yield "k8s.container.name", _container_name(program, place)


def pod_attributes(pod: PodFact, label_keys: Sequence[str] = ()) -> Iterator[tuple[str, str | int]]:
    """Yield what names a pod, and what owns it."""
    yield "k8s.pod.name", _cut(pod.name)
    yield "k8s.namespace.name", _cut(pod.namespace)
    yield "k8s.pod.uid", pod.uid
    if pod.node:
        yield "k8s.node.name", _cut(pod.node)
    for kind, name in pod.owners:
        word = "".join(filter(str.isalnum, kind.lower()))[:_KIND_BYTES]
        if word:
            yield f"k8s.{word}.name", _cut(name)
    for key in label_keys:
        if key in pod.labels:
            yield f"k8s.pod.label.{key}", _cut(pod.labels[key])


def service_attributes(service: ServiceFact) -> Iterator[tuple[str, str | int]]:
    """Yield what names a Kubernetes Service."""
    yield "k8s.service.name", _cut(service.name)
    yield "k8s.namespace.name", _cut(service.namespace)


def _subjects(pid: int, comm: str, program: Program | None, place: Place) -> Iterator[str]:
    if program is None or not program.sure or not program.fits(comm):
        yield f"pid:{pid}"
    if program and program.member.container_id:
        yield program.member.container_id
    uid = _pod_uid(program, place)
    if uid:
        yield uid


def _cut(text: str, limit: int = _NAME_BYTES) -> str:
    return text if len(text) <= limit else text[:limit]
