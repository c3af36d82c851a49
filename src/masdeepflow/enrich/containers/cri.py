"""The container runtime interface of Kubernetes over gRPC, as containerd and CRI-O have it.

containerd is asked over its own interface too, for containers that no kubelet started (nerdctl, ctr), and for
all of them where its CRI plugin is off, as on hosts whose containerd belongs to Docker.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Self, TypeVar

# It prints to standard error, which is the agent's own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from masdeepflow.enrich.containers.client import LIST_PATIENCE, Refused, Unavailable
from masdeepflow.enrich.containers.wire import containerd_pb2, cri_pb2
from masdeepflow.enrich.facts import ContainerFact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from google.protobuf.message import Message

__all__ = ["CriClient"]

Answer = TypeVar("Answer", bound="Message")

_ANSWER_MOST = 16 << 20
_IMAGES_MOST = 1024
_NAMESPACES_MOST = 64
_RUNTIME = "runtime.v1.RuntimeService"
_IMAGE = "runtime.v1.ImageService"
_CONTAINERS = "containerd.services.containers.v1.Containers"
_NAMESPACES = "containerd.services.namespaces.v1.Namespaces"
_OTHERS = {"k8s.io", "moby"}
"""Namespaces of containerd whose containers the CRI and Docker tell more of."""
_NO_NAME = re.compile(r"(sha256:)?[0-9a-f]{64}")
_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
_NOT_THERE = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}


class CriClient:
    """A client of `path`; see `Client`.

    answer_s: how long an answer may take in all.
    """

    def __init__(self, path: Path, answer_s: float) -> None:
        self._answer_s = answer_s
        self._images: dict[str, str] = {}
        options = [
            ("grpc.max_receive_message_length", _ANSWER_MOST),
            ("grpc.enable_http_proxy", 0),
            # Servers refuse what it would make of the path.
            ("grpc.default_authority", "localhost"),
            # Channels to the same path would share a connection, and its back-off.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.insecure_channel(f"unix:{path}", options)
        self._cri = self._containerd = False
        self.runtime = ""

    def __enter__(self) -> Self:
        try:
            name = self._runtime_name()
            if name is None:
                self._namespaces()
        except Refused as error:
            self.cancel()
            raise Unavailable(str(error)) from error
        except BaseException:
            self.cancel()
            raise
        self._cri = name is not None
        self._containerd = name in {None, "containerd"}
        self.runtime = {None: "containerd", "containerd": "containerd", "cri-o": "cri-o"}.get(name, "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Make calls that are under way raise, soon."""
        self._channel.close()

    def check(self) -> None:
        """Ask for the version."""
        if self._cri:
            self._runtime_name()
        else:
            self._namespaces()

    def changes(self) -> Iterator[str] | None:
        """Return None: the CRI's events are younger than many runtimes, and rarely switched on."""
        return None

    def running(self) -> Iterator[ContainerFact]:
        """Yield what runs.

        Raises:
            Refused: the runtime does not tell.

        """
        if self._cri:
            which = cri_pb2.PodSandboxFilter()
            sandboxes = {found.id: found for found in self._sandboxes(which, LIST_PATIENCE)}
            running = cri_pb2.ContainerStateValue(state=cri_pb2.CONTAINER_RUNNING)
            for found in self._in_cri(cri_pb2.ContainerFilter(state=running), LIST_PATIENCE):
                yield self._fact(found, sandboxes.get(found.pod_sandbox_id))
        if self._containerd:
            for namespace in self._namespaces():
                yield from map(_plain_fact, self._in_namespace(namespace))

    def find(self, container_id: str) -> ContainerFact | None:
        """Return a container, or a pod's sandbox, which has no name.

        Raises:
            Refused: the runtime does not tell.

        """
        found = self._in_pods(container_id) if self._cri else None
        if found is None and self._containerd:
            return self._plain(container_id)
        return found

    def _in_pods(self, container_id: str) -> ContainerFact | None:
        for found in self._in_cri(cri_pb2.ContainerFilter(id=container_id)):
            if found.id == container_id:  # a part of the id would do for the runtime
                sandboxes = self._sandboxes(cri_pb2.PodSandboxFilter(id=found.pod_sandbox_id))
                return self._fact(found, next(iter(sandboxes), None))
        for sandbox in self._sandboxes(cri_pb2.PodSandboxFilter(id=container_id)):
            if sandbox.id == container_id:
                return _sandbox_fact(sandbox, self.runtime)
        return None

    def _plain(self, container_id: str) -> ContainerFact | None:
        for namespace in self._namespaces():
            request = containerd_pb2.GetContainerRequest(id=container_id)
            answer = containerd_pb2.GetContainerResponse
            found = self._call_known(f"/{_CONTAINERS}/Get", request, answer, namespace=namespace)
            if found is not None:
                return _plain_fact(found.container)
        return None

    def _fact(self, found: cri_pb2.Container, sandbox: cri_pb2.PodSandbox | None) -> ContainerFact:
        pod = sandbox.metadata if sandbox else cri_pb2.PodSandboxMetadata()
        return ContainerFact(
            id=found.id,
            name=found.metadata.name,
            runtime=self.runtime,
            image=self._image(found),
            labels=dict(found.labels),
            pod_uid=pod.uid,
            pod_name=pod.name,
            pod_namespace=pod.namespace,
        )

    def _image(self, found: cri_pb2.Container) -> str:
        """Return the image by a name: a kubelet asks for it by its number."""
        image = found.image.user_specified_image or found.image.image
        if not _NO_NAME.fullmatch(image):
            return image
        if image not in self._images:
            if len(self._images) >= _IMAGES_MOST:
                self._images.clear()
            self._images[image] = self._image_name(image) or found.image_ref
        return self._images[image]

    def _image_name(self, image: str) -> str:
        request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=image))
        try:
            found = self._call(f"/{_IMAGE}/ImageStatus", request, cri_pb2.ImageStatusResponse).image
        except Refused:
            return ""
        return next(iter([*found.repo_tags, *found.repo_digests]), "")

    def _runtime_name(self) -> str | None:
        """Return the runtime's name, None if it has no CRI."""
        request, answer = cri_pb2.VersionRequest(), cri_pb2.VersionResponse
        found = self._call_known(f"/{_RUNTIME}/Version", request, answer)
        return None if found is None else found.runtime_name

    def _in_cri(self, which: cri_pb2.ContainerFilter, patience: int = 1) -> Iterable[cri_pb2.Container]:
        request, answer = cri_pb2.ListContainersRequest(filter=which), cri_pb2.ListContainersResponse
        return self._call(f"/{_RUNTIME}/ListContainers", request, answer, patience=patience).containers

    def _sandboxes(self, which: cri_pb2.PodSandboxFilter, patience: int = 1) -> Iterable[cri_pb2.PodSandbox]:
        request, answer = cri_pb2.ListPodSandboxRequest(filter=which), cri_pb2.ListPodSandboxResponse
        return self._call(f"/{_RUNTIME}/ListPodSandbox", request, answer, patience=patience).items

    def _in_namespace(self, namespace: str) -> Iterable[containerd_pb2.Container]:
        request, answer = containerd_pb2.ListContainersRequest(), containerd_pb2.ListContainersResponse
        method = f"/{_CONTAINERS}/List"
        return self._call(method, request, answer, namespace=namespace, patience=LIST_PATIENCE).containers

    def _namespaces(self) -> list[str]:
        request, answer = containerd_pb2.ListNamespacesRequest(), containerd_pb2.ListNamespacesResponse
        found = self._call(f"/{_NAMESPACES}/List", request, answer).namespaces
        names = [namespace.name for namespace in found if namespace.name not in _OTHERS]
        return names[:_NAMESPACES_MOST]

    def _call_known(
        self, method: str, request: Message, answer: type[Answer], *, namespace: str = ""
    ) -> Answer | None:
        """Return the answer, None if there is no such method or what is asked for is not there."""
        try:
            return self._call(method, request, answer, namespace=namespace)
        except Refused as error:
            cause = error.__cause__
            if isinstance(cause, grpc.RpcError) and cause.code() in _NOT_THERE:
                return None
            raise

    def _call(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        namespace: str = "",
        patience: int = 1,
    ) -> Answer:
        call: Callable[..., Answer] = self._channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        metadata = [("containerd-namespace", namespace)] if namespace else None
        try:
            return call(request, timeout=patience * self._answer_s, metadata=metadata)
        except ValueError as error:  # the channel was closed meanwhile
            raise Unavailable("is no longer asked") from error
        except grpc.RpcError as error:
            raise _trouble(error, patience * self._answer_s) from error


def _trouble(error: grpc.RpcError, within_s: float) -> Exception:
    code = error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"does not answer within {within_s:g} s")
    if code in _GONE:
        return Unavailable("cannot be asked: nothing that speaks gRPC listens there")
    return Refused(f"answers with {code.name}")


def _sandbox_fact(sandbox: cri_pb2.PodSandbox, runtime: str) -> ContainerFact:
    pod = sandbox.metadata
    return ContainerFact(
        id=sandbox.id,
        runtime=runtime,
        labels=dict(sandbox.labels),
        pod_uid=pod.uid,
        pod_name=pod.name,
        pod_namespace=pod.namespace,
    )


def _plain_fact(found: containerd_pb2.Container) -> ContainerFact:
    labels = dict(found.labels)
    name = labels.get("nerdctl/name") or found.id
    return ContainerFact(id=found.id, name=name, runtime="containerd", image=found.image, labels=labels)
