"""List and watch of one kind, at a double of an API server that does all that servers do."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest

from masdeepflow.enrich.kubernetes import reflector as module
from masdeepflow.enrich.kubernetes.connection import Server, configuration
from masdeepflow.enrich.kubernetes.feed import Feed
from masdeepflow.enrich.kubernetes.objects import Metadata, Pod
from masdeepflow.enrich.kubernetes.reflector import Pace, Reflector, Source
from masdeepflow.enrich.kubernetes.state import Counters
from tests.support.kubernetes import ApiServer
from tests.support.kubernetes_objects import pod

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    Reflect = Callable[..., "_Running"]

PODS = Source("pods", "/api/v1/pods")
_PATIENCE_S = 60
_PACE = Pace(watch_s=60, silence_s=30, first_s=0.02, most_s=0.1)


class _Names:
    """Keeps the names of what is there."""

    model: ClassVar[type] = Pod

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def seen(self, item: Pod) -> None:
        self.names[item.metadata.uid] = item.metadata.name

    def deleted(self, item: Pod) -> None:
        self.names.pop(item.metadata.uid, None)

    def synced(self, uids: Collection[str]) -> None:
        self.names = {uid: name for uid, name in self.names.items() if uid in uids}


class _MetadataNames(_Names):
    model: ClassVar[type] = Metadata


class _Running:
    """A reflector in a thread, and what it keeps."""

    def __init__(self, api: ApiServer, config: str, source: Source, keeper: _Names, pace: Pace) -> None:
        self.counters = Counters()
        self.keeper = keeper
        server = Server(configuration(config), "the server")
        self.reflector = Reflector(source, keeper, self.counters, pace, server)
        self.feed = Feed("test", self.reflector.run, self.counters)
        self.api = api

    @property
    def away(self) -> str | None:
        return self.reflector.link.away

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"never so: {self.away}, {self.counters}, {self.keeper.names}"
            time.sleep(0.005)

    def until_names(self, *names: str) -> None:
        """Wait until this is what is there, and all is in step."""
        self.until(lambda: sorted(self.keeper.names.values()) == sorted(names) and not self.away)

    def asked(self, **params: str) -> int:
        """Return how many requests had these parameters."""
        queries = [dict(parse_qsl(urlsplit(path).query)) for path in list(self.api.requests)]
        return sum(params.items() <= query.items() for query in queries)


@pytest.fixture
def reflect(tmp_path: Path) -> Iterator[Reflect]:
    """Give a function that starts a reflector on a server; all end with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            api: ApiServer,
            source: Source = PODS,
            keeper: _Names | None = None,
            pace: Pace = _PACE,
        ) -> _Running:
            config = str(api.kubeconfig(tmp_path))
            running = _Running(api, config, source, keeper or _Names(), pace)
            stack.callback(running.feed.close)
            running.feed.start()
            return running

        yield start


def test_all_that_is_there_comes_with_the_watch(api: ApiServer, reflect: Reflect) -> None:
    """One request brings the first list and every change behind it."""
    first, second = pod("a"), pod("b")
    api.put(first, second)
    running = reflect(api)
    running.until_names("a", "b")
    api.put(pod("c"))
    api.remove(first)
    running.until_names("b", "c")
    assert len(api.requests) == 1


def test_an_empty_cluster_is_in_step_too(api: ApiServer, reflect: Reflect) -> None:
    """The bookmark behind the first list tells so."""
    running = reflect(api)
    running.until_names()
    api.put(pod("a"))
    running.until_names("a")


def test_a_server_that_does_not_stream_lists_is_asked_for_pages(reflect: Reflect) -> None:
    """All of them, and then watched from the list's version on."""
    with ApiServer(streams=False) as api:
        api.put(*(pod(f"p{number:04}") for number in range(600)))
        version = api.store.version
        running = reflect(api)
        running.until(lambda: running.asked(watch="true", resourceVersion=str(version)))
        running.until_names(*(f"p{number:04}" for number in range(600)))
        assert running.asked(limit="250") == 3
        assert running.asked(sendInitialEvents="true") == 1


def test_pages_that_expire_are_listed_anew(reflect: Reflect) -> None:
    """The server may forget a list while it is under way."""
    with ApiServer(streams=False) as api:
        api.put(*(pod(f"p{number:04}") for number in range(300)))
        compactions = iter([api.compact])

        def compact_once(path: str) -> None:
            if "continue=" in path:
                next(compactions, lambda: None)()

        api.hook = compact_once
        running = reflect(api)
        running.until_names(*(f"p{number:04}" for number in range(300)))
        assert running.counters.relists == 1


def test_a_cut_watch_goes_on_where_it_was(api: ApiServer, reflect: Reflect) -> None:
    """From the version of its last event: nothing is sent twice, nothing missed."""
    api.put(pod("a"))
    running = reflect(api)
    running.until_names("a")
    api.put(pod("b"))
    running.until_names("a", "b")
    last = str(api.store.version)
    api.cut()
    running.until(lambda: running.counters.reconnects)
    api.put(pod("c"))
    running.until_names("a", "b", "c")
    assert running.asked(watch="true", resourceVersion=last)
    assert (running.counters.events, running.counters.relists) == (3, 0)


def test_a_bookmark_moves_the_version(reflect: Reflect) -> None:
    """So that a quiet watch never falls behind what the server keeps."""
    with ApiServer(bookmark_s=0.05) as api:
        api.put(pod("a"))
        running = reflect(api)
        running.until_names("a")
        api.store.bump()
        api.store.compact()
        version = str(api.store.version)
        running.until(lambda: running.reflector._version == version)
        api.cut()
        running.until(lambda: running.asked(resourceVersion=version))
        running.until_names("a")
        assert running.counters.relists == 0


def test_a_version_that_is_gone_is_listed_anew(api: ApiServer, reflect: Reflect) -> None:
    """What was deleted in between is dropped."""
    old = pod("old")
    api.put(old, pod("a"))
    running = reflect(api)
    running.until_names("a", "old")
    api.stop()
    api.remove(old)
    api.put(pod("new"))
    api.compact()
    api.start()
    running.until_names("a", "new")
    assert running.counters.relists == 1


def test_an_answer_410_is_listed_anew(api: ApiServer, reflect: Reflect) -> None:
    """Some servers say it before the watch begins."""
    api.put(pod("a"))
    running = reflect(api)
    running.until_names("a")
    api.faults.times, api.faults.code = 1, 410
    api.cut()
    running.until(lambda: running.counters.relists)
    running.until_names("a")


def test_garbage_in_a_watch_is_counted_and_passed(api: ApiServer, reflect: Reflect) -> None:
    """The connection is not trusted any more: a new one goes on from the last good version."""
    api.put(pod("a"))
    running = reflect(api)
    running.until_names("a")
    api.faults.garbage = b'{"type": "ADDED", "obj\xff\x00\n'
    running.until(lambda: running.counters.reconnects)
    api.put(pod("b"))
    running.until_names("a", "b")
    assert running.counters.dropped == 1


def test_an_object_of_another_shape_is_counted_and_skipped(api: ApiServer, reflect: Reflect) -> None:
    """In the first list and in events; all others come."""
    strange = pod("strange") | {"spec": {"nodeName": 7}}
    api.put(pod("a"))
    api.store.put(strange)
    running = reflect(api)
    running.until_names("a")
    api.store.put(strange)
    api.put(pod("b"))
    running.until_names("a", "b")
    assert (running.counters.dropped, running.counters.reconnects) == (2, 0)


def test_a_connection_that_says_nothing_is_given_up(reflect: Reflect) -> None:
    """Half-open connections never end by themselves."""
    with ApiServer(bookmark_s=0.05) as api:
        api.put(pod("a"))
        running = reflect(api, pace=Pace(60, 0.5, 0.02, 0.1))
        running.until_names("a")
        api.faults.silent = True
        running.until(lambda: running.away == f"the server {api.url} says nothing any more of pods")
        api.faults.silent = False
        api.put(pod("b"))
        running.until_names("a", "b")


def test_a_slow_server_is_waited_for(api: ApiServer, reflect: Reflect) -> None:
    """As long as it is not silent for too long."""
    api.put(pod("a"))
    api.faults.slow_s = 0.5
    running = reflect(api)
    running.until_names("a")
    assert running.counters.reconnects == 0


def test_errors_of_the_server_are_told_in_its_own_words(api: ApiServer, reflect: Reflect) -> None:
    """With the remedy where there is one, and tried again until it works."""
    api.put(pod("a"))
    api.faults.forbidden = {"Pod"}
    running = reflect(api)
    running.until(lambda: running.away and "answers 403 to the list of pods" in running.away)
    assert "pods is forbidden: User cannot list it; grant it in a ClusterRole" in (running.away or "")
    api.faults.forbidden = set()
    api.faults.code, api.faults.retry_after, api.faults.times = 429, "0", 3
    running.until_names("a")
    assert api.faults.times == 0


def test_a_watch_that_the_server_ends_in_time_is_no_failure(api: ApiServer, reflect: Reflect) -> None:
    """It is asked for the next one at once."""
    api.put(pod("a"))
    running = reflect(api, pace=Pace(1, 30, 0.02, 0.1))
    running.until(lambda: len(api.requests) >= 3)
    api.put(pod("b"))
    running.until_names("a", "b")
    assert running.counters.reconnects == 0


def test_watches_that_end_at_once_are_not_tried_without_a_wait(api: ApiServer, reflect: Reflect) -> None:
    """Some proxies do that: it is told as a failure."""
    api.put(pod("a"))
    running = reflect(api)
    running.until_names("a")
    api.faults.brief = True
    running.until(lambda: running.away and "ends the watch of pods at once" in running.away)
    running.until(lambda: running.counters.reconnects > 3)
    api.faults.brief = False
    api.put(pod("b"))
    running.until_names("a", "b")


def test_a_list_without_a_version_is_no_list(reflect: Reflect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be watched from there: it is told as a failure, and tried again after a wait."""
    with ApiServer(streams=False) as api:
        api.put(pod("a"))
        with monkeypatch.context() as broken:
            broken.setattr(api, "_list", lambda *_, **__: {"items": []})
            running = reflect(api)
            running.until(lambda: running.away and "gives the list of pods no version" in running.away)
            running.until(lambda: running.counters.reconnects > 3)
        running.until_names("a")


def test_what_leaves_a_selection_is_deleted(api: ApiServer, reflect: Reflect) -> None:
    """Though it is still there."""
    moving = pod("a", node="n2")
    api.put(moving, pod("b", node="n1"))
    running = reflect(api, Source("pods", "/api/v1/pods", "spec.nodeName!=n1,status.phase!=Succeeded"))
    running.until_names("a")
    api.put(moving | {"status": {"phase": "Succeeded"}})
    running.until_names()


@pytest.mark.parametrize("streams", [True, False])
def test_of_some_kinds_only_metadata_is_asked_for(reflect: Reflect, streams: bool) -> None:  # noqa: FBT001
    """The server leaves all else out, in lists and in watches."""
    with ApiServer(streams=streams) as api:
        api.put(pod("a"))
        running = reflect(api, Source("pods", "/api/v1/pods", metadata=True), _MetadataNames())
        running.until_names("a")
        api.put(pod("b"))
        running.until_names("a", "b")
        assert api.metadata_only == len(api.requests)


@pytest.mark.parametrize(
    ("streams", "fault"), [(True, "cut_after"), (True, "end_after"), (False, "cut_after")]
)
def test_a_list_that_breaks_off_drops_nothing(
    reflect: Reflect,
    monkeypatch: pytest.MonkeyPatch,
    streams: bool,  # noqa: FBT001  # a parameter of the test
    fault: str,
) -> None:
    """What is known stays until a list is whole; what that one lacks goes, had a broken one it or not."""
    monkeypatch.setattr(module, "_BRIEF_S", 0)
    with ApiServer(streams=streams) as api:
        pods = [pod(f"p{number:04}") for number in range(300)]
        api.put(*pods)
        running = reflect(api)
        running.until(lambda: len(running.keeper.names) == 300 and not running.away)
        api.stop()
        api.store.bump()
        api.compact()
        setattr(api.faults, fault, 100)
        api.start()
        running.until(lambda: running.counters.relists and running.counters.reconnects > 3)
        assert len(running.keeper.names) == 300
        assert running.away
        api.stop()
        api.remove(pods[0])
        api.compact()
        setattr(api.faults, fault, 0)
        api.start()
        running.until(lambda: not running.away)
        assert len(running.keeper.names) == 299
