"""Bring the sysctls of this node's namespaces to what its profiles ask for, and back to what was found.

Level-based: each pass reads what is in force and does what `sysctl_plan.decide` says until nothing is left to do. What
a step needs to be undone is durable before the step.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sockethealth_agent.inet_diag import DumpFailed
from sockethealth_agent.netns import NetnsError, NetnsGone
from sockethealth_agent.pods import PodInfo
from sockethealth_agent.sysctls.journal import NODE, Entry, Journal, JournalError
from sockethealth_agent.sysctls.metrics import Sink, Unheard
from sockethealth_agent.sysctls.namespaces import Look, Namespace, Namespaces
from sockethealth_agent.sysctls.report import Leftover, Outcome, Visit
from sockethealth_agent.sysctls.telling import Telling
from sockethealth_agent.sysctls.tree import LONGEST_WRITE, Tree, TreeError
from sockethealth_core.resources import AssignedProfile, ProfileTarget
from sockethealth_core.sysctl_plan import (
    Effective,
    Forget,
    Keep,
    Note,
    Place,
    Record,
    Step,
    Wanted,
    Write,
    apply_order,
    decide,
    effective,
    miscarried,
    restore_order,
    selects,
)
from sockethealth_core.sysctl_rules import uncovered_listeners
from sockethealth_core.sysctls import PORT_RANGE, RESERVED_PORTS

LOG = logging.getLogger(__name__)
MOST_ROUNDS: Final = 24
"""More than any way from one state to another takes; someone who keeps writing does not keep a pass from its end."""
_NOTHING: Final = Effective({}, {}, {}, {})


@dataclass
class _Session:
    """One namespace, while the thread is in it."""

    place: Place
    namespace: Namespace
    netns: str
    records: dict[str, Record]
    wanted: dict[str, Wanted]
    current: dict[str, str | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Failure:
    """A write that did not come about; it is not tried again until something else is asked for."""

    wanted: Wanted
    sentence: str


class Applier:
    """Holds what a pass must know of the passes before; its thread enters namespaces."""

    def __init__(
        self,
        namespaces: Namespaces,
        journal: Journal,
        *,
        node_ports: tuple[int, int] | None = None,
        tree: Tree | None = None,
        sink: Sink | None = None,
    ) -> None:
        """Changes nothing yet.

        Args:
            namespaces: where to write.
            journal: opened and locked by the caller.
            node_ports: first and last port of Services of type NodePort, or None where there are none.
            tree: how to write.
            sink: told of each write.
        """
        self._namespaces = namespaces
        self._journal = journal
        self._node_ports = node_ports
        self._tree = tree or Tree()
        self._sink = sink or Unheard()
        self._failures: dict[tuple[str, str], _Failure] = {}
        self._telling = Telling()

    def apply(self, assigned: Sequence[AssignedProfile], pods: Mapping[str, PodInfo]) -> list[Visit]:
        """One pass over all namespaces that a profile is for, or in which something of ours is in force.

        Args:
            assigned: the profiles of this node.
            pods: all of this node by UID, as the API server knows them: what it does not know is gone.

        Returns:
            What each namespace came to, that of the node first.

        Raises:
            netns.NetnsStuck: the process must end.
        """
        self._telling.begin(one.profile for one in assigned)
        look = self._look(assigned)
        visits = []
        for key, place in {NODE: Place(), **self._places(pods, look)}.items():
            selected = [one for one in assigned if selects(one, place)]
            if selected or key in self._journal.entries:
                visits.append(self._visit(key, place, look, selected))
        left = self._journal.entries.keys() - {NODE} - {visit.key for visit in visits}
        visits += [self._leave(key, look) for key in sorted(left)]
        known = {visit.key for visit in visits}
        self._failures = {key: one for key, one in self._failures.items() if key[0] in known}
        return visits

    def restore(self) -> list[Visit]:
        """Put back every value of ours, wherever its namespace still is."""
        self._telling.begin(())
        look = self._look([])
        places = {key: Place(entry.where, _target(key)) for key, entry in self._journal.entries.items()}
        return [self._visit(key, place, look, []) for key, place in places.items()]

    def leftovers(self, visits: Iterable[Visit]) -> list[Leftover]:
        """Values of ours that are no longer asked for and could not be put back yet."""
        by_key = {visit.key: visit for visit in visits}
        found = []
        for key, entry in self._journal.entries.items():
            visit = by_key.get(key)
            for name, record in entry.records.items():
                if visit is None or name not in visit.effective.wanted:
                    why = (visit and (visit.stuck.get(name) or visit.trouble)) or "it is tried again"
                    found.append(Leftover(record.profile, entry.where, name, record.found, why))
        return found

    def _look(self, assigned: Iterable[AssignedProfile]) -> Look:
        needs_pods = any(one.target == "Pods" for one in assigned) or bool(self._journal.entries.keys() - {NODE})
        return self._namespaces.look(pods=needs_pods)

    def _places(self, pods: Mapping[str, PodInfo], look: Look) -> dict[str, Place]:
        """The pods that have a network namespace of their own, or had when something was written there."""
        known = {*look.pods, *look.refused, *self._journal.entries}
        return {
            uid: Place(f"{pod.namespace}/{pod.name}", "Pods", pod.namespace, uid, pod.labels, pod.sysctls)
            for uid, pod in pods.items()
            if uid in known and not pod.host_network and not pod.completed
        }

    def _leave(self, key: str, look: Look) -> Visit:
        """An entry of a pod that has ended, or that the API server does not know any more."""
        place = Place(self._journal.entries[key].where, "Pods", uid=key)
        if key in look.pods:
            return self._visit(key, place, look, [])
        trouble = look.refused.get(key) or _no_process(place.where)
        if key not in look.refused:
            try:
                self._journal.forget(key)
            except JournalError as error:
                trouble = str(error)
        return Visit(key, place, _NOTHING, (), trouble=trouble)

    def _visit(self, key: str, place: Place, look: Look, selected: Sequence[AssignedProfile]) -> Visit:
        found = effective(selected, place, node_ports=self._node_ports)
        names = tuple(one.profile for one in selected)
        unreadable = self._journal.unreadable(key)
        if unreadable is not None:
            return Visit(key, place, found, names, trouble=unreadable)
        namespace = look.node if key == NODE else look.pods.get(key)
        if namespace is None:
            refused = look.node_trouble if key == NODE else look.refused.get(key)
            trouble = refused or _no_process(place.where)
            return Visit(key, place, found, names, trouble=trouble, gone=refused is None)
        if not (found.wanted or found.audited or key in self._journal.entries):
            return Visit(key, place, found, names)
        try:
            with namespace.enter() as identity:
                return self._inside(key, place, namespace, identity, found, names)
        except NetnsGone:
            return Visit(key, place, found, names, gone=True)
        except (NetnsError, JournalError) as error:
            return Visit(key, place, found, names, trouble=str(error))

    def _inside(
        self, key: str, place: Place, namespace: Namespace, identity: str, found: Effective, names: tuple[str, ...]
    ) -> Visit:
        entry = self._journal.entries.get(key)
        if entry is not None and entry.netns != identity:
            # The pod has been given another namespace, with the kernel's own values; the one before is no more.
            self._journal.forget(key)
            entry = None
        session = _Session(place, namespace, identity, dict(entry.records) if entry else {}, dict(found.wanted))
        self._spare_failures(session)
        self._spare_listeners(session)
        self._settle(session)
        outcomes = {name: self._outcome(session, name, wanted) for name, wanted in found.wanted.items()}
        audited = {
            profile: {name: self._audit(session, name, value, values) for name, value in values.items()}
            for profile, values in found.audited.items()
        }
        stuck = {name: session.failed[name] for name in session.stuck if name in session.failed}
        return Visit(key, place, found, names, outcomes=outcomes, audited=audited, stuck=stuck)

    def _spare_failures(self, session: _Session) -> None:
        key = session.namespace.key
        for name, wanted in list(session.wanted.items()):
            failure = self._failures.get((key, name))
            if failure is None:
                continue
            if failure.wanted == wanted:
                session.failed[name] = failure.sentence
                del session.wanted[name]
            else:
                del self._failures[key, name]

    def _spare_listeners(self, session: _Session) -> None:
        """Refuse a range that would let connect() take the ports of servers."""
        wanted = session.wanted.get(PORT_RANGE)
        record = session.records.get(PORT_RANGE)
        if wanted is None:
            return
        held = record if record is not None and record.phase != "Restoring" else None
        if held is not None and held.meant == wanted.value:
            return
        reserved = session.wanted.get(RESERVED_PORTS)
        sentence = self._uncovered(session, wanted.value, reserved.value if reserved else None)
        if sentence is None:
            return
        session.failed[PORT_RANGE] = sentence
        del session.wanted[PORT_RANGE]
        if held is not None:
            # What is in force is no worse than before, and stays until the profile is taken back or can be followed.
            session.wanted[PORT_RANGE] = Wanted(held.meant, held.profile, held.revision)

    def _uncovered(self, session: _Session, value: str, reserved: str | None) -> str | None:
        try:
            in_force = self._read(session, PORT_RANGE)
            if in_force is None:
                return None
            spared = reserved if reserved is not None else self._read(session, RESERVED_PORTS) or ""
            ports = uncovered_listeners(value, spared, in_force, session.namespace.listening())
        except (TreeError, DumpFailed) as error:
            return f"the listeners of {session.place.where} cannot be compared with {PORT_RANGE}: {error}"
        if not ports:
            return None
        shown = ",".join(str(port) for port in ports[:10]) + (" and more" if len(ports) > 10 else "")
        return (
            f"{PORT_RANGE} '{value}' would let connections of {session.place.where} take ports it listens on "
            f"({shown}), and a server that restarts would not get its port back: add {shown} to {RESERVED_PORTS}"
        )

    def _settle(self, session: _Session) -> None:
        """Take steps until nothing is left to do."""
        for _round in range(MOST_ROUNDS):
            steps = self._steps(session)
            if self._note(session, steps):
                continue
            writes = {name: step for name, step in steps.items() if isinstance(step, Write)}
            if not writes:
                return
            for name, step in writes.items():
                if not self._write(session, name, step):
                    break

    def _steps(self, session: _Session) -> dict[str, Step]:
        leaving = session.records.keys() - session.wanted.keys() - session.stuck
        steps: dict[str, Step] = {}
        for name in [*restore_order(leaving), *apply_order(session.wanted.keys() - session.stuck)]:
            record = session.records.get(name)
            try:
                current = self._read(session, name)
            except TreeError as error:
                session.failed[name] = str(error)
                session.stuck.add(name)
                continue
            session.current[name] = current
            if record is None and current is not None and len(current) >= LONGEST_WRITE:
                session.failed[name] = (
                    f"{name} of {session.place.where} has {len(current)} characters in force, which could not be put "
                    "back in one write, so it is left as it is: shorten it by hand first"
                )
                session.stuck.add(name)
                continue
            if current is not None:
                steps[name] = decide(record, current, session.wanted.get(name))
            elif record is not None:
                steps[name] = Forget()  # its module was unloaded, and the value is gone with it
        return steps

    def _note(self, session: _Session, steps: Mapping[str, Step]) -> bool:
        """Make all records that have changed durable, in one write; False: none has."""
        records = dict(session.records)
        for name, step in steps.items():
            if isinstance(step, Note):
                records[name] = step.record
            elif isinstance(step, Forget):
                del records[name]
        if records == session.records:
            return False
        before = session.records
        self._put(session, records)
        for name, step in steps.items():
            if isinstance(step, Forget) and step.left is not None:
                profile = before[name].profile
                LOG.log(
                    self._telling.level(session.place, "left", profile, name, logging.WARNING),
                    "%s of %s was left as '%s': someone set it after the profile did.",
                    name,
                    session.place.where,
                    step.left,
                )
                self._sink.wrote("left")
        return True

    def _put(self, session: _Session, records: dict[str, Record]) -> None:
        where = session.place.where
        entry = Entry(boot_id=self._journal.boot_id, netns=session.netns, where=where, records=records)
        self._journal.put(session.namespace.key, entry)
        session.records = records

    def _write(self, session: _Session, name: str, step: Write) -> bool:
        record = session.records[name]
        found = session.current[name]
        try:
            if step.restoring:
                self._tree.put_back(session.namespace.root, name, step.value)
            else:
                self._tree.write(session.namespace.root, name, step.value, session.place.target)
            after = self._read(session, name)
            sentence = None if after == step.value else f"{name} was set to '{step.value}' and reads back as '{after}'"
        except TreeError as error:
            sentence = str(error)
        if sentence is None:
            self._told(session, name, step, found, record)
            return True
        self._sink.wrote("failed")
        level = self._telling.level(session.place, "failed", record.profile, sentence, logging.WARNING)
        LOG.log(level, "A sysctl of %s could not be written: %s.", session.place.where, sentence)
        session.failed[name] = sentence
        if step.restoring:
            session.stuck.add(name)
        else:
            self._give_up(session, name, sentence)
        return False

    def _give_up(self, session: _Session, name: str, sentence: str) -> None:
        """No longer try a value that the kernel does not take, and go back to what was found."""
        self._fail(session, name, sentence)
        range_record = session.records.get(PORT_RANGE)
        if name == RESERVED_PORTS and range_record is not None and range_record.phase == "Intended":
            why = f"{PORT_RANGE} was not written, because {RESERVED_PORTS} could not be set before it"
            self._fail(session, PORT_RANGE, why)
        try:
            current = self._read(session, name)
        except TreeError:
            session.stuck.add(name)
            return
        if current is None:
            return
        step = miscarried(session.records[name], current)
        self._note(session, {name: step})

    def _fail(self, session: _Session, name: str, sentence: str) -> None:
        session.failed[name] = sentence
        wanted = session.wanted.pop(name, None)
        if wanted is not None:
            self._failures[session.namespace.key, name] = _Failure(wanted, sentence)

    def _told(self, session: _Session, name: str, step: Write, found: str | None, record: Record) -> None:
        self._sink.wrote("restored" if step.restoring else "applied")
        what: Final = "put back" if step.restoring else "set"
        LOG.log(
            self._telling.level(session.place, what, record.profile, f"{name} {step.value}", logging.INFO),
            "%s of %s was %s to '%s'; it was '%s'.",
            name,
            session.place.where,
            what,
            step.value,
            found,
            extra={
                "sysctl": name,
                "where": session.place.where,
                "found": found,
                "wanted": step.value,
                "profile": record.profile,
            },
        )

    def _read(self, session: _Session, name: str) -> str | None:
        return self._tree.read(session.namespace.root, name)

    def _outcome(self, session: _Session, name: str, wanted: Wanted) -> Outcome:
        record, current = session.records.get(name), session.current.get(name)
        found = record.found if record is not None else current or ""
        if name in session.failed:
            return Outcome(wanted, "Failed", found, current or "", session.failed[name])
        if current is None:
            return Outcome(wanted, "Unsupported", "", "")
        step = decide(record, current, wanted)
        if isinstance(step, Keep):
            return Outcome(wanted, "Drifted" if step.drifted else "Applied", found, current)
        sentence = f"{name} of {session.place.where} does not stay as it is set: something else keeps writing it"
        return Outcome(wanted, "Failed", found, current, sentence)

    def _audit(self, session: _Session, name: str, value: str, beside: Mapping[str, str]) -> Outcome:
        wanted = Wanted(value, "", "")
        try:
            current = self._read(session, name)
        except TreeError as error:
            return Outcome(wanted, "Failed", "", "", str(error))
        if current is None:
            return Outcome(wanted, "Unsupported", "", "")
        sentence = ""
        if name == PORT_RANGE:
            sentence = self._uncovered(session, value, beside.get(RESERVED_PORTS)) or ""
        return Outcome(wanted, "Applied", current, current, sentence)


def _no_process(where: str) -> str:
    return f"{where} has no process by which its network namespace can be entered"


def _target(key: str) -> ProfileTarget:
    return "Node" if key == NODE else "Pods"
