"""The CRI, spoken rightly and wrongly; tests/e2e/test_container_runtimes.py asks a real containerd."""

from __future__ import annotations

import contextlib
import threading
from concurrent import futures
from typing import TYPE_CHECKING

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masdeepflow.enrich.containers.client import Refused, Unavailable
from masdeepflow.enrich.containers.cri import CriClient
from masdeepflow.enrich.containers.wire import containerd_pb2, cri_pb2
from tests.support.unix_server import serving
from tests.support.wire import read_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Answer = Callable[[bytes], bytes] | bytes | grpc.StatusCode

ID = "9036e2af1551a4b968b7bf63c0aa7c5e5131e714ca335e27986a6efd9d9e042b"
IMAGE_ID = "sha256:" + "1" * 64
ANSWER_S = 5.0
SHORT_S = 0.3


class _Handler(grpc.GenericRpcHandler):
    """Answers by the last part of a method's name with bytes, or a status."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.asked: list[str] = []
        self._answers = answers

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        _, service, method = handler_call_details.method.split("/")
        answer = self._answers.get(f"{service.rpartition('.')[2]}/{method}")
        if answer is None:
            return None

        def respond(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(method)
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "as the test has it")
            return answer if isinstance(answer, bytes) else answer(request)

        return grpc.unary_unary_rpc_method_handler(respond)


@contextlib.contextmanager
def _runtime(path: Path, answers: dict[str, Answer]) -> Iterator[tuple[Path, _Handler]]:
    where, handler = path / "cri.sock", _Handler(answers)
    server = grpc.server(futures.ThreadPoolExecutor(4), [handler])
    server.add_insecure_port(f"unix:{where}")
    server.start()
    try:
        yield where, handler
    finally:
        server.stop(None).wait(10)


def _version(name: str) -> bytes:
    return cri_pb2.VersionResponse(runtime_name=name).SerializeToString()


def _containers(**more: str) -> bytes:
    container = cri_pb2.Container(
        id=ID,
        pod_sandbox_id="pod",
        metadata=cri_pb2.ContainerMetadata(name="nginx"),
        image=cri_pb2.ImageSpec(image=more.pop("image", "nginx:1")),
        labels={"a": "b"},
        **more,
    )
    return cri_pb2.ListContainersResponse(containers=[container]).SerializeToString()


SANDBOXES = cri_pb2.ListPodSandboxResponse(
    items=[
        cri_pb2.PodSandbox(
            id="pod", metadata=cri_pb2.PodSandboxMetadata(name="web", namespace="shop", uid="1")
        )
    ]
).SerializeToString()
CRI_O: dict[str, Answer] = {
    "RuntimeService/Version": _version("cri-o"),
    "RuntimeService/ListContainers": _containers(),
    "RuntimeService/ListPodSandbox": SANDBOXES,
}


def test_a_container_of_cri_o_carries_its_pod(tmp_path: Path) -> None:
    """By its id and in the list, without labels of Kubernetes too."""
    with _runtime(tmp_path, CRI_O) as (path, _), CriClient(path, ANSWER_S) as client:
        found = client.find(ID)
        assert found is not None
        assert [found] == list(client.running())
        assert (found.id, found.name, found.runtime, found.image) == (ID, "nginx", "cri-o", "nginx:1")
        assert (found.pod_name, found.pod_namespace, found.pod_uid) == ("web", "shop", "1")
        assert found.labels == {"a": "b"}


def test_cri_o_is_not_asked_for_what_is_containerds_own(tmp_path: Path) -> None:
    """It has neither namespaces nor plain containers."""
    with _runtime(tmp_path, CRI_O) as (path, handler), CriClient(path, ANSWER_S) as client:
        assert client.find("0" * 64) is None
        assert handler.asked == ["Version", "ListContainers", "ListPodSandbox"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (cri_pb2.Image(repo_tags=["nginx:1", "nginx:latest"], repo_digests=["nginx@sha256:0"]), "nginx:1"),
        (cri_pb2.Image(repo_digests=["nginx@sha256:0"]), "nginx@sha256:0"),
        (cri_pb2.Image(), "reference"),
        (None, "reference"),
    ],
)
def test_an_image_by_number_gets_its_name_once(
    tmp_path: Path, image: cri_pb2.Image | None, expected: str
) -> None:
    """Its first tag, else its first digest, else what the container refers to."""
    status: Answer = (
        grpc.StatusCode.NOT_FOUND
        if image is None
        else cri_pb2.ImageStatusResponse(image=image).SerializeToString()
    )
    answers = {
        **CRI_O,
        "RuntimeService/ListContainers": _containers(image=IMAGE_ID, image_ref="reference"),
        "ImageService/ImageStatus": status,
    }
    with _runtime(tmp_path, answers) as (path, handler), CriClient(path, ANSWER_S) as client:
        assert [fact.image for _ in range(3) for fact in client.running()] == [expected] * 3
        assert handler.asked.count("ImageStatus") == 1


NAMESPACES = containerd_pb2.ListNamespacesResponse(
    namespaces=[containerd_pb2.Namespace(name=name) for name in ("moby", "default", "k8s.io")]
).SerializeToString()
PLAIN = containerd_pb2.Container(id=ID, image="redis:7", labels={"nerdctl/name": "cache"})
WITHOUT_CRI: dict[str, Answer] = {
    "Namespaces/List": NAMESPACES,
    "Containers/List": containerd_pb2.ListContainersResponse(containers=[PLAIN]).SerializeToString(),
    "Containers/Get": containerd_pb2.GetContainerResponse(container=PLAIN).SerializeToString(),
}


def test_a_containerd_without_cri_tells_of_its_own_containers(tmp_path: Path) -> None:
    """Those of Docker and of kubelets are asked of these."""
    with _runtime(tmp_path, WITHOUT_CRI) as (path, _), CriClient(path, ANSWER_S) as client:
        found = client.find(ID)
        assert found is not None
        assert [found] == list(client.running())
        assert (found.name, found.runtime, found.image) == ("cache", "containerd", "redis:7")
        client.check()


def test_a_runtime_that_has_nothing_of_all_that_is_unavailable(tmp_path: Path) -> None:
    """gRPC, but another's."""
    with _runtime(tmp_path, {}) as (path, _), pytest.raises(Unavailable, match="answers with UNIMPLEMENTED"):
        CriClient(path, ANSWER_S).__enter__()


@pytest.mark.parametrize("answer", [grpc.StatusCode.INTERNAL, b"\xff\xff\xff", b"\x0a\x05ab"])
def test_an_answer_of_no_use_is_refused(tmp_path: Path, answer: Answer) -> None:
    """A status, or bytes that are no message: the next question may be answered."""
    answers = {**CRI_O, "RuntimeService/ListContainers": answer}
    with _runtime(tmp_path, answers) as (path, _), CriClient(path, ANSWER_S) as client:
        with pytest.raises(Refused):
            client.find(ID)
        with pytest.raises(Refused):
            list(client.running())
        client.check()


def test_a_huge_answer_is_refused(tmp_path: Path) -> None:
    """More than 16 MiB are not read."""
    answers = {**CRI_O, "RuntimeService/ListContainers": b"\x0a" + b"\x80" * (17 << 20)}
    with (
        _runtime(tmp_path, answers) as (path, _),
        CriClient(path, ANSWER_S) as client,
        pytest.raises(Refused, match="RESOURCE_EXHAUSTED"),
    ):
        client.find(ID)


def _hang(connection: socket.socket) -> None:
    read_until(connection, b"\0never\0")


def _garbage(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("handle", "why"),
    [(_hang, "does not answer within 0.3 s"), (_garbage, "cannot be asked|does not answer")],
)
def test_who_speaks_no_grpc_is_unavailable(
    tmp_path: Path, handle: Callable[[socket.socket], None], why: str
) -> None:
    """Silence and another protocol."""
    with serving(tmp_path / "cri.sock", handle) as path, pytest.raises(Unavailable, match=why):
        CriClient(path, SHORT_S).__enter__()


def test_a_socket_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """At once."""
    with pytest.raises(Unavailable, match="nothing that speaks gRPC"):
        CriClient(tmp_path / "none", ANSWER_S).__enter__()


def test_a_call_under_way_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """Long before its time is up."""
    asked, never = threading.Event(), threading.Event()

    def hang(_: bytes) -> bytes:
        asked.set()
        never.wait(20)
        return b""

    answers = {**CRI_O, "RuntimeService/ListContainers": hang}
    with _runtime(tmp_path, answers) as (path, _), CriClient(path, 60) as client:
        ended = threading.Event()

        def ask() -> None:
            with contextlib.suppress(Unavailable):
                client.find(ID)
            ended.set()

        threading.Thread(target=ask, daemon=True).start()
        assert asked.wait(10)
        client.cancel()
        assert ended.wait(10)
        never.set()
        with pytest.raises(Unavailable, match="no longer"):
            client.find(ID)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(tmp_path: Path, answer: bytes) -> None:
    """Never anything else than what a client may raise."""
    answers: dict[str, Answer] = {
        **dict.fromkeys((*CRI_O, *WITHOUT_CRI, "ImageService/ImageStatus"), answer),
        "RuntimeService/Version": _version("containerd"),
    }
    with _runtime(tmp_path, answers) as (path, _), CriClient(path, ANSWER_S) as client:
        for ask in (client.find, lambda _: list(client.running())):
            with contextlib.suppress(Refused):
                ask(ID)
