"""How it stands with a server, told in one sentence."""

from __future__ import annotations

from masdeepflow.enrich.kubernetes.state import Counters, Link, describe


def test_a_link_remembers_since_when_it_stands_so() -> None:
    """A second reason for the same is news, not a change."""
    link = Link("no route", since=1.0)
    link.lost("refused")
    assert (link.away, link.since) == ("refused", 1.0)
    link.found()
    assert link.away is None
    assert link.since > 1.0
    found = link.since
    link.found()
    assert link.since == found


def test_all_links_must_stand() -> None:
    """The first that does not gives the sentence, the longest the time."""
    well, late = Link(None, 10.0), Link(None, 20.0)
    state = describe([well, late], "the server x", Counters(events=3), 1234, 5)
    assert (state.connected, state.since, state.events) == (True, 20.0, 3)
    assert state.sentence == "the server x tells of 1,234 pods and 5 Services"
    lost = describe([well, Link("refused", 8.0), Link("silent", 7.0)], "the server x", Counters(), 1, 0)
    assert (lost.connected, lost.since, lost.sentence) == (False, 7.0, "refused")


def test_services_are_left_out_where_there_are_none() -> None:
    """As from a kubelet."""
    assert (
        describe([Link(None)], "the kubelet x", Counters(), 12, 0).sentence
        == "the kubelet x tells of 12 pods"
    )
