"""Texts of strangers, cut to size: whoever starts a container chooses its name and labels."""

from __future__ import annotations

from masdeepflow.enrich.facts import ContainerFact

__all__ = ["LABELS_MOST", "LABEL_NAME_MOST", "TEXT_MOST", "bounded"]

TEXT_MOST = 256
"""Characters of a name or a label's value."""
LABELS_MOST = 64
"""Labels of a container."""
LABEL_NAME_MOST = 317
"""Characters of a label's name: a DNS name, a slash and 63 more, the most that Kubernetes allows."""
_IMAGE_MOST = 512  # a reference with a registry, a path and a digest

_POD = "io.kubernetes.pod."
_CONTAINER_NAME = "io.kubernetes.container.name"


def bounded(fact: ContainerFact) -> tuple[ContainerFact, int]:
    """Return the fact with its texts cut and what Kubernetes' labels tell filled in, and how much was cut.

    Labels beyond `LABELS_MOST` are dropped from the end of the alphabet, and those with too long a name,
    which cut would be another. Control characters stay: whoever prints a text escapes it.
    """
    labels, cut = _labels(fact.labels)
    texts = {
        "id": fact.id,
        "name": fact.labels.get(_CONTAINER_NAME) or fact.name,
        "runtime": fact.runtime,
        "pod_uid": fact.pod_uid or fact.labels.get(f"{_POD}uid", ""),
        "pod_name": fact.pod_name or fact.labels.get(f"{_POD}name", ""),
        "pod_namespace": fact.pod_namespace or fact.labels.get(f"{_POD}namespace", ""),
    }
    cut += sum(len(text) > TEXT_MOST for text in texts.values()) + (len(fact.image) > _IMAGE_MOST)
    short = {key: text[:TEXT_MOST] for key, text in texts.items()}
    return ContainerFact(**short, image=fact.image[:_IMAGE_MOST], labels=labels), cut


def _labels(labels: dict[str, str]) -> tuple[dict[str, str], int]:
    named = sorted(name for name in labels if len(name) <= LABEL_NAME_MOST)
    kept = named[:LABELS_MOST]
    cut = len(labels) - len(kept) + sum(len(labels[name]) > TEXT_MOST for name in kept)
    return {name: labels[name][:TEXT_MOST] for name in kept}, cut
