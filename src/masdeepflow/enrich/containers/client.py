"""What a worker expects of the client that it talks through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from masdeepflow.enrich.facts import ContainerFact

__all__ = ["LIST_PATIENCE", "Client", "Refused", "Unavailable"]


LIST_PATIENCE = 6
"""Times as long as any other answer a list may take: on a busy host with hundreds of containers it does."""


class Unavailable(Exception):  # noqa: N818  # it is a state, which passes
    """The runtime cannot be talked to for now; the text ends the sentence `/run/docker.sock ...`."""


class Refused(Exception):  # noqa: N818  # the same
    """This question was not answered, or not in a way that can be used; others may be."""


class Client(Protocol):
    """A connection to a runtime, open while its `with` block lasts; entering it raises what a call raises.

    Calls take bounded time and memory whatever the runtime answers. They raise `Unavailable` when there is no
    sense in asking on. One thread asks; `changes` may run on another, and `cancel` is called from any.
    """

    runtime: str
    """`docker`, `podman`, `containerd` or `cri-o`; empty if it is another. Known in the block."""

    def running(self) -> Iterator[ContainerFact]:
        """Yield what runs, with texts of any length.

        Raises:
            Refused: the runtime does not tell.

        """
        ...

    def find(self, container_id: str) -> ContainerFact | None:
        """Return a container, its texts of any length; None if this runtime has none of that id.

        Raises:
            Refused: it has one, but does not tell.

        """
        ...

    def changes(self) -> Iterator[str] | None:
        """Yield ids of containers that were started or renamed; None where the runtime cannot tell."""
        ...

    def check(self) -> None:
        """Ask something small, to learn whether the runtime is still there."""
        ...

    def cancel(self) -> None:
        """Make calls that are under way raise, soon."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
