"""API objects, as far as they are read."""

from __future__ import annotations

import json

import msgspec
import pytest

from masdeepflow.enrich.kubernetes.objects import Metadata, Pod, Service, unix_ns
from tests.support.kubernetes_objects import epoch_ns, moment, pod, service


def test_times_are_unix_time() -> None:
    """In whole seconds, or with microseconds as of leases and events; none is 0."""
    read = msgspec.json.decode(f'{{"metadata": {{"creationTimestamp": "{moment(3)}"}}}}', type=Metadata)
    assert unix_ns(read.metadata.creation_timestamp) == epoch_ns(3)
    text = b'{"metadata": {"creationTimestamp": "1970-01-01T00:00:01.000002+00:00"}}'
    assert unix_ns(msgspec.json.decode(text, type=Metadata).metadata.creation_timestamp) == 1_000_002_000
    assert unix_ns(None) == 0


def test_what_is_not_needed_is_skipped() -> None:
    """However much it is."""
    read = msgspec.json.decode(json.dumps(pod("a", "10.0.0.1") | {"later": [{"x": 1}] * 100}), type=Pod)
    assert (read.metadata.name, read.status.pod_ip) == ("a", "10.0.0.1")


def test_nulls_are_as_if_left_out() -> None:
    """Go writes some."""
    text = b'{"metadata": {"labels": null, "ownerReferences": null, "creationTimestamp": null}}'
    assert msgspec.json.decode(text, type=Pod).metadata.labels is None


@pytest.mark.parametrize("model", [Pod, Service, Metadata])
def test_an_object_without_metadata_is_none(model: type) -> None:
    """It could not be told from others."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps({"spec": service("a")["spec"]}), type=model)
