"""Everything that is known of who is who: fed by the ring and by facts, asked about new connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.enrich.facts import ContainerFact, ProcessFact, UsersFact
from masdeepflow.enrich.identity import Identity, Place, identify, peer_of, pod_attributes, service_attributes
from masdeepflow.enrich.kubernetes.index import Index
from masdeepflow.enrich.process import Processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masdeepflow.enrich.facts import Fact, PodFact
    from masdeepflow.enrich.identity import Attributes
    from masdeepflow.enrich.process import Program

__all__ = ["Directory", "Wanted"]

_IDENTITIES = 2048  # 2 kB each
_CONTAINERS = 16384
_WANTED = 4096
_NAMES = 16384
_KEPT_NS = 3600 * 1_000_000_000
_ROOT = 0


class Wanted:
    """What somebody should look up: PIDs, and containers with their runtime, as far as it is known."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.containers: list[tuple[str, str]] = []


class Directory:
    """Names processes and addresses. Deterministic: what it answers depends on what it was fed only.

    label_keys: pod labels that are shown. show_arguments: whether command lines are: they may hold secrets.
    """

    def __init__(self, label_keys: Sequence[str] = (), *, show_arguments: bool = True) -> None:
        self.processes = Processes()
        self.knows_addresses = False
        """Whether `remote` may have anything to tell."""
        self._show_arguments = show_arguments
        self._index = Index()
        self._label_keys = tuple(label_keys)
        self._containers: dict[str, ContainerFact] = {}
        self._users: dict[int, str] = {}
        self._names: dict[str, tuple[str, int]] = {}
        self._identities: dict[tuple[int, str, Program | None], Identity] = {}
        self._by_subject: dict[str, set[tuple[int, str, Program | None]]] = {}
        self._evicted = {"containers": 0, "names": 0}
        self._wanted = Wanted()
        self._asked: set[int | str | tuple[int, str]] = set()

    def evictions(self) -> dict[str, int]:
        """Return how many containers' facts and addresses' names were forgotten; never less than before."""
        return dict(self._evicted)

    def learn(self, facts: Sequence[Fact]) -> set[str]:
        """Take facts in; return what is to be named anew: `Identity.subjects`, and addresses."""
        changed: set[str] = set()
        for fact in facts:
            changed |= self._learn(fact)
        for subject in changed:
            for key in self._by_subject.pop(subject, ()):
                self._forget(key)
        return changed

    def _forget(self, key: tuple[int, str, Program | None]) -> None:
        identity = self._identities.pop(key, None)
        for subject in identity.subjects if identity else ():
            keys = self._by_subject.get(subject, set())
            keys.discard(key)
            if not keys:
                self._by_subject.pop(subject, None)

    def _learn(self, fact: Fact) -> set[str]:
        if isinstance(fact, ProcessFact):
            return self._learn_process(fact)
        if isinstance(fact, UsersFact):
            self._users = dict(fact.names)
            return set()
        if isinstance(fact, ContainerFact):
            return self._learn_container(fact)
        self.knows_addresses = True
        changes = self._index.apply(fact)
        return {*changes.containers, *changes.pods, *changes.addresses}

    def _learn_process(self, fact: ProcessFact) -> set[str]:
        unknown = self.processes.program(fact.pid, 0) is None
        if not self.processes.learn(fact):
            return set()
        if unknown:  # it may be again: only so many processes are kept
            self._asked.discard((fact.pid, fact.comm))
        return {f"pid:{fact.pid}"}

    def _learn_container(self, fact: ContainerFact) -> set[str]:
        known = self._containers.get(fact.id)
        if known == fact:
            return set()
        if known is None and len(self._containers) >= _CONTAINERS:
            del self._containers[next(iter(self._containers))]
            self._evicted["containers"] += 1
        self._containers[fact.id] = fact
        return {fact.id}

    def identity(self, pid: int, comm: str, position: int) -> Identity:
        """Return who process `pid` was at a place of the batch, see `Processes.program`.

        comm: its name there.
        """
        program = self.processes.program(pid, position)
        if program is None or not program.fits(comm):
            self._want_process(pid, comm)
        return self._identify(pid, comm, program)

    def again(self, identity: Identity, comm: str) -> Identity:
        """Return who that is now that more is known."""
        program = identity.program
        if program is None or not program.sure or not program.fits(comm):
            now = self.processes.program(identity.pid, 0)
            # What an exec told meanwhile is of a later process, or of a later program of this one.
            program = now if now is not None and (now.fits(comm) or not now.sure) else program
        return self._identify(identity.pid, comm, program)

    def _identify(self, pid: int, comm: str, program: Program | None) -> Identity:
        key = (pid, comm, program)
        known = self._identities.get(key)
        if known is None:
            place = self._place(program)
            user = self._user(program)
            known = identify(
                pid,
                comm,
                program,
                place,
                user=user,
                label_keys=self._label_keys,
                show_arguments=self._show_arguments,
            )
            self._keep(key, known)
        return known

    def _keep(self, key: tuple[int, str, Program | None], identity: Identity) -> None:
        if len(self._identities) >= _IDENTITIES:
            self._identities.clear()
            self._by_subject.clear()
        self._identities[key] = identity
        for subject in identity.subjects:
            self._by_subject.setdefault(subject, set()).add(key)

    def _place(self, program: Program | None) -> Place:
        identifier = program.member.container_id if program else ""
        if program is None or not identifier:
            return Place()
        container = self._containers.get(identifier)
        if container is None and self._ask(identifier):
            self._wanted.containers.append((identifier, program.member.runtime))
        return Place(container, self._pod(identifier, program.member.pod_uid, container))

    def _pod(self, identifier: str, uid: str, container: ContainerFact | None) -> PodFact | None:
        uid = uid or (container.pod_uid if container else "")
        return self._index.pod_of_container(identifier) or (self._index.pod_by_uid(uid) if uid else None)

    def _user(self, program: Program | None) -> str | None:
        if program is None or program.user is None:
            return None
        # A container has users of its own, of which only root is sure to be called the same.
        if program.member.container_id and program.user != _ROOT:
            return str(program.user)
        return self._users.get(program.user, str(program.user))

    def _want_process(self, pid: int, comm: str) -> None:
        if self._ask((pid, comm)):
            self._wanted.pids.append(pid)

    def _ask(self, what: str | tuple[int, str]) -> bool:
        if what in self._asked or len(self._wanted.pids) + len(self._wanted.containers) >= _WANTED:
            return False
        if len(self._asked) >= _WANTED:
            self._asked.clear()
        self._asked.add(what)
        return True

    def learn_names(self, names: Sequence[tuple[str, str, int]], offset_ns: int) -> set[str]:
        """Take in what addresses were resolved from; return the addresses that are to be named anew.

        names: address, name, and until when, in ns. offset_ns: Unix time minus the clock of that.
        """
        self.knows_addresses |= bool(names)
        changed = set()
        for address, name, until_ns in names:
            known = self._names.pop(address, None)
            if known is None and len(self._names) >= _NAMES:
                del self._names[next(iter(self._names))]
                self._evicted["names"] += 1
            self._names[address] = (name, until_ns + offset_ns)
            if known is None or known[0] != name:
                changed.add(address)
        return changed

    def _name_of(self, address: str, time_ns: int) -> Attributes:
        # Applications keep what they resolved for longer than they should.
        name, until_ns = self._names.get(address, ("", 0))
        if not name or time_ns > until_ns + _KEPT_NS:
            return ()
        return peer_of((("service.name", name), ("dns.name", name)))

    def show_arguments(self, *, shown: bool) -> bool:
        """Show command lines or not, from now on; return whether that is a change."""
        if shown == self._show_arguments:
            return False
        self._show_arguments = shown
        self._identities.clear()
        self._by_subject.clear()
        return True

    def take_wanted(self) -> Wanted:
        """Return what has come to be wanted since the last call; each is wanted once."""
        wanted, self._wanted = self._wanted, Wanted()
        return wanted

    def remote(self, address: str, port: int, transport: str, time_ns: int) -> Attributes:
        """Return what is known of who had an address at a time (Unix), as attributes of the other end."""
        resolved = self._name_of(address, time_ns)
        in_cluster = self._in_cluster(address, port, transport, time_ns)
        return tuple({**dict(resolved), **dict(in_cluster)}.items()) if resolved else in_cluster

    def _in_cluster(self, address: str, port: int, transport: str, time_ns: int) -> Attributes:
        pod = self._index.pod_at(address, time_ns) or self._index.host_port(address, port, transport)
        if pod is not None:
            owner = pod.owners[-1][1] if pod.owners else pod.name
            return peer_of((("service.name", owner), *pod_attributes(pod)))
        service = self._index.service_at(address, port, transport, time_ns)
        if service is not None:
            return peer_of((("service.name", service.name), *service_attributes(service)))
        node = self._index.node_at(address)
        return peer_of((("k8s.node.name", node),)) if node else ()
