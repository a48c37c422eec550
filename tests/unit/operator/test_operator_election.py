"""Who leads by a Lease: replicas with clocks of their own, an API server that answers late, twice or not at all."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockethealth_operator.election import Candidate, Record, Terms

TERMS = Terms(duration_seconds=13, deadline_seconds=11.0, renew_seconds=2.0)
WALL = "2030-01-01T00:00:00.000000Z"
OTHERS = Record(holder="other", duration_seconds=13, acquired=WALL, renewed=WALL, transitions=4)
NAMES = ("a", "b")
RUNS = 300

candidate = Candidate("me", TERMS)


def taken(by=candidate, now=0.0, version="2"):
    """A candidate that has taken a Lease that was nobody's, with the request sent at `now`."""
    looked = by.seen(Record(), "1", now)
    return looked.claimed(looked.claim(now, WALL), version, now)


@pytest.mark.parametrize("found", [(None, None), (Record(), "1"), (replace(OTHERS, holder=""), "1")])
def test_what_nobody_holds_is_taken_at_once(found):
    claim = candidate.seen(*found, 0.0).claim(0.0, WALL)
    assert (claim.record.holder, claim.version) == ("me", found[1])
    assert claim.record.transitions == (0 if found[0] is None else found[0].transitions + 1)
    assert claim.record.acquired == claim.record.renewed == WALL


def test_before_the_first_look_nothing_is_claimed():
    assert candidate.claim(0.0, WALL) is None


def test_anothers_is_left_to_it_for_as_long_as_it_says_counted_from_its_last_change():
    waiting = candidate.seen(replace(OTHERS, duration_seconds=20), "7", 100.0)
    assert waiting.claim(119.9, WALL) is None
    again = waiting.seen(replace(OTHERS, duration_seconds=20), "7", 119.0)
    claim = again.claim(120.0, WALL)
    assert (claim.version, claim.record.duration_seconds, claim.record.transitions) == ("7", 13, 5)
    renewed = waiting.seen(replace(OTHERS, duration_seconds=20, renewed="later"), "8", 119.0)
    assert renewed.claim(138.9, WALL) is None


def test_somebody_who_only_annotates_the_lease_prolongs_nothing():
    waiting = candidate.seen(OTHERS, "7", 100.0).seen(OTHERS, "8", 112.0)
    assert waiting.claim(113.0, WALL).version == "8"


def test_a_lease_that_vanishes_is_anothers_for_as_long_as_that_one_may_not_know():
    waiting = candidate.seen(OTHERS, "7", 100.0).seen(None, None, 105.0)
    assert waiting.claim(117.9, WALL) is None
    claim = waiting.claim(118.0, WALL)
    assert (claim.version, claim.record.holder) == (None, "me")


def test_a_lease_that_vanishes_under_its_holder_is_made_anew_at_once():
    leader = taken(now=100.0).seen(None, None, 103.0)
    assert leader.seconds_left(103.0) == 8.0
    assert leader.claim(103.0, WALL).version is None
    assert leader.claim(112.0, WALL) is None, "its time is over, and another may have been there meanwhile"


def test_the_holder_counts_from_before_its_request_was_sent():
    leader = taken(now=100.0)
    assert leader.seconds_left(100.0) == 11.0
    assert leader.seconds_left(111.0) == 0.0
    renewal = leader.claim(102.0, WALL)
    assert (renewal.version, renewal.record.transitions) == ("2", 1)
    assert leader.claimed(renewal, "3", 102.0).seconds_left(109.0) == 4.0


def test_a_renewal_keeps_when_it_was_acquired():
    leader = taken(now=100.0)
    renewal = leader.claim(102.0, "later")
    assert (renewal.record.acquired, renewal.record.renewed) == (WALL, "later")


def test_whoever_sees_another_in_its_place_leads_no_longer():
    leader = taken(now=100.0).seen(OTHERS, "9", 103.0)
    assert leader.seconds_left(103.0) == 0.0
    assert leader.claim(103.0, WALL) is None
    assert leader.release(WALL) is None


def test_released_it_names_nobody_and_keeps_its_count():
    released = taken().release(WALL)
    assert (released.record.holder, released.record.duration_seconds, released.version) == ("", 1, "2")
    assert released.record.transitions == 1
    assert candidate.seen(OTHERS, "9", 0.0).release(WALL) is None


def test_a_restarted_program_of_the_same_pod_waits_for_the_one_before():
    before = taken(Candidate("pod_1", TERMS), 100.0)
    after = Candidate("pod_2", TERMS).seen(before.record, before.version, 101.0)
    assert after.claim(101.0, WALL) is None


def test_attempts_are_as_often_as_the_terms_say_and_in_time_for_the_end():
    leader = taken(now=100.0)
    assert leader.seconds_to_wait(100.1, 100.0) == pytest.approx(1.9)
    assert leader.seconds_to_wait(105.0, 100.0) == 0.0, "an answer that took 5 s: the next is asked for at once"
    assert leader.seconds_to_wait(110.5, 110.4) == pytest.approx(0.5), "the end of its time is not slept over"
    waiting = candidate.seen(OTHERS, "7", 100.0)
    assert waiting.seconds_to_wait(100.1, 100.0) == pytest.approx(1.9)
    assert waiting.seconds_to_wait(112.5, 112.4) == pytest.approx(0.5), "as soon as it can be had"
    assert waiting.seconds_to_wait(114.0, 114.0) == 2.0, "an attempt that failed is not repeated without a pause"


def test_terms_that_would_let_two_lead_or_flap_are_refused():
    assert TERMS.fault() is None
    assert "could take the Lease before its holder has given up" in replace(TERMS, duration_seconds=11).fault()
    assert "one write that fails would end the lead" in replace(TERMS, renew_seconds=6.0).fault()


class Server:
    """One Lease with optimistic locking."""

    def __init__(self):
        self.record, self.version = None, 0

    def write(self, claim):
        """The version it has from then on, or None for a refusal."""
        current = None if self.record is None else str(self.version)
        if claim.version != current:
            return None
        self.record, self.version = claim.record, self.version + 1
        return str(self.version)


class Replica:
    """What the shell does, one request at a time; `pace` is its clock's speed, `ahead` what it is set to."""

    def __init__(self, name, pace, ahead):
        self.candidate = Candidate(name, TERMS)
        self.pace, self.ahead = pace, ahead
        self.pending = None

    def clock(self, real):
        return self.ahead + self.pace * real

    def leads(self, real):
        return self.candidate.seconds_left(self.clock(real)) > 0


class Election:
    """Replicas on one Lease, and real time."""

    def __init__(self, paces, ahead):
        self.server, self.real = Server(), 0.0
        self.replicas = [Replica(*each) for each in zip(NAMES, paces, ahead, strict=True)]

    def attempt(self, replica, reading=0.0, writing=0.0, fate="heard"):
        """One attempt as the shell makes it, with answers that take a while, and a write that may get lost."""
        self.hear(replica)
        if not replica.leads(self.real):
            self.look(replica, reading)
        sent_at = replica.clock(self.real)
        claim = replica.candidate.claim(sent_at, f"{self.real}")
        if claim is None or fate == "lost":
            return
        self.pass_time(writing)
        version = self.server.write(claim)
        if version is None:
            self.look(replica, reading)
            return
        replica.pending = (claim, version, sent_at)
        if fate == "heard":
            self.hear(replica)

    def hear(self, replica):
        """The answer to a write, however late; what has become of the Lease meanwhile it does not know."""
        if replica.pending:
            replica.candidate = replica.candidate.claimed(*replica.pending)
            replica.pending = None

    def look(self, replica, taking):
        record, version = self.server.record, str(self.server.version)
        self.pass_time(taking)
        seen = (None, None) if record is None else (record, version)
        replica.candidate = replica.candidate.seen(*seen, replica.clock(self.real))

    def give_up(self, replica):
        released = replica.candidate.release(f"{self.real}")
        replica.candidate = replica.candidate.stepped_down()
        if released:
            self.server.write(released)

    def start_again(self, replica):
        if self.server.record is not None:
            replica.candidate, replica.pending = Candidate(f"{replica.candidate.identity}'", TERMS), None

    def delete(self, _):
        """Somebody deletes the Lease, which all know of: who starts just then cannot know that it was another's."""
        if all(each.candidate.record is not None for each in self.replicas):
            self.server.record = None

    def edit(self, _):
        """Somebody writes beside them."""
        self.server.version += self.server.record is not None

    def pass_time(self, seconds):
        self.real += seconds
        self.check()

    def check(self):
        leaders = [each.candidate.identity for each in self.replicas if each.leads(self.real)]
        assert len(leaders) <= 1, f"{leaders} lead at {self.real}"


TAKING = st.sampled_from([0.0, 0.0, 0.0, 4.0])
ATTEMPT = st.tuples(st.just("attempt"), TAKING, TAKING, st.sampled_from(["heard", "heard", "unheard", "lost"]))
ACCIDENT = st.tuples(st.sampled_from(["hear", "give_up", "start_again", "delete", "edit"]))
STEP = st.tuples(
    st.sampled_from([0.0, 2.0, 5.0, 10.5, 11.5]),
    st.integers(0, len(NAMES) - 1),
    st.one_of(ATTEMPT, ATTEMPT, ACCIDENT),
)


@given(
    paces=st.tuples(*[st.floats(0.95, 1.05)] * len(NAMES)),
    ahead=st.tuples(*[st.floats(-1e6, 1e6)] * len(NAMES)),
    steps=st.lists(STEP, min_size=3, max_size=20),
)
@settings(max_examples=RUNS, deadline=None)
def test_never_two_lead_whatever_is_late_lost_stopped_restarted_or_deleted(paces, ahead, steps):
    election = Election(paces, ahead)
    for replica in election.replicas:
        election.attempt(replica)  # the first of them leads, and the others have seen it
    for pause, which, (what, *how) in steps:
        election.pass_time(pause)
        getattr(election, what)(election.replicas[which], *how)
        election.check()


@given(
    delays=st.lists(st.floats(0.0, 5.0), min_size=30, max_size=30),
    paces=st.tuples(st.floats(0.95, 1.05), st.floats(0.95, 1.05)),
)
@settings(max_examples=RUNS, deadline=None)
def test_an_api_server_that_takes_up_to_five_seconds_an_answer_costs_nobody_the_lead(delays, paces):
    server = Server()
    replica = Replica("a", paces[0], 0.0)
    replica.candidate = taken(replica.candidate)
    server.record, server.version = replica.candidate.record, 2
    real = 0.0
    for delay in delays:
        began = replica.clock(real)
        claim = replica.candidate.claim(began, f"{real}")
        version = server.write(claim)
        real += delay
        assert replica.leads(real), f"lost after an answer that took {delay} s"
        replica.candidate = replica.candidate.claimed(claim, version, began)
        real += replica.candidate.seconds_to_wait(replica.clock(real), began) / replica.pace
        assert replica.leads(real)


@given(phase=st.floats(0.0, 2.0), paces=st.tuples(st.floats(0.98, 1.02), st.floats(0.98, 1.02)))
@settings(max_examples=RUNS, deadline=None)
def test_when_the_leader_is_gone_another_leads_within_its_duration_and_one_look(phase, paces):
    server = Server()
    leader, other = Replica("a", paces[0], 5e5), Replica("b", paces[1], -3e5)
    server.write(leader.candidate.seen(None, None, leader.clock(0.0)).claim(leader.clock(0.0), "0"))
    real = phase  # the leader is killed just after its write; the other looks so much later for the first time
    while not other.leads(real):
        began = other.clock(real)
        other.candidate = other.candidate.seen(server.record, str(server.version), began)
        claim = other.candidate.claim(began, f"{real}")
        if claim:
            other.candidate = other.candidate.claimed(claim, server.write(claim), began)
        else:
            real += max(other.candidate.seconds_to_wait(other.clock(real), began), 1e-6) / other.pace
        assert real < 16.0, "nobody leads"
