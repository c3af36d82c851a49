"""Names and labels, cut to size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.enrich.containers.bounds import LABEL_NAME_MOST, LABELS_MOST, TEXT_MOST, bounded
from masdeepflow.enrich.facts import ContainerFact

KUBERNETES = {
    "io.kubernetes.container.name": "nginx",
    "io.kubernetes.pod.name": "web-5d9",
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.uid": "44656529-b9e7-479f-9c8e-6ea39d02f433",
}


def test_what_is_short_enough_stays() -> None:
    """Control characters too: sinks escape them."""
    fact = ContainerFact("a", "na\x1bme", "docker", "image", {"a": "b\n"}, "uid", "pod", "namespace")
    assert bounded(fact) == (fact, 0)


def test_each_text_that_is_cut_is_counted() -> None:
    """Id, name, runtime, image, three of the pod, a label's value, and a label dropped for its name."""
    long = "x" * 10_240
    fact = ContainerFact(long, long, long, long, {"a": long, long: "b"}, long, long, long)
    found, cut = bounded(fact)
    assert cut == 9
    assert found.labels == {"a": long[:TEXT_MOST]}
    assert {len(text) for text in (found.id, found.name, found.runtime, found.pod_uid)} == {TEXT_MOST}


def test_labels_beyond_the_limit_are_dropped_from_the_end() -> None:
    """Always the same ones, in whatever order a runtime tells them."""
    labels = {f"label{number:03}": "v" for number in reversed(range(LABELS_MOST + 5))}
    found, cut = bounded(ContainerFact("a", labels=labels))
    assert list(found.labels) == [f"label{number:03}" for number in range(LABELS_MOST)]
    assert cut == 5


def test_labels_of_kubernetes_name_pod_and_container() -> None:
    """Docker under a kubelet names its containers k8s_nginx_web-5d9_shop_..._0."""
    found, _ = bounded(ContainerFact("a", "k8s_nginx_web-5d9_shop_0", labels=KUBERNETES))
    assert (found.name, found.pod_name, found.pod_namespace) == ("nginx", "web-5d9", "shop")
    assert found.pod_uid == KUBERNETES["io.kubernetes.pod.uid"]


def test_what_the_runtime_says_of_the_pod_counts_more_than_labels() -> None:
    """A sandbox's metadata was given by the kubelet; labels can be in an image."""
    found, _ = bounded(
        ContainerFact("a", labels=KUBERNETES, pod_name="real", pod_namespace="here", pod_uid="1")
    )
    assert (found.pod_name, found.pod_namespace, found.pod_uid) == ("real", "here", "1")


@given(st.text(), st.dictionaries(st.text(max_size=400), st.text(max_size=400), max_size=100))
def test_the_result_is_within_the_limits(text: str, labels: dict[str, str]) -> None:
    """Whatever comes in."""
    found, cut = bounded(ContainerFact(text, text, text, text, labels, text, text, text))
    assert len(found.labels) <= LABELS_MOST
    assert all(len(name) <= LABEL_NAME_MOST for name in found.labels)
    assert all(len(value) <= TEXT_MOST for value in found.labels.values())
    assert cut >= len(labels) - len(found.labels)
