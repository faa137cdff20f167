"""The send queue against a model that looks at every octet, and the scoreboard's corners."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbtcp.tcp.sendqueue import SendQueue, Span
from nbtcp.why import Why

CAPACITY = 500


@dataclass
class Model:
    """What is known of each octet."""

    una: int = 1
    nxt: int = 1
    data: bytearray = field(default_factory=bytearray)  # all that was ever written
    sacked: set[int] = field(default_factory=set)
    starts: dict[int, int] = field(default_factory=dict)  # where a span began -> ends


class QueueMachine(RuleBasedStateMachine):
    """Any order of sends, acknowledgments, SACKs, losses, retransmissions and changes of mind."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = SendQueue(CAPACITY)
        self.model = Model()
        self.lost: set[Span] = set()
        self.now = 0

    @rule(octets=st.binary(max_size=120))
    def append(self, octets: bytes) -> None:
        room = CAPACITY - (1 + len(self.model.data) - self.model.una)
        taken = self.queue.append(octets)
        assert taken == min(room, len(octets))
        self.model.data += octets[:taken]

    @rule(size=st.integers(1, 30))
    def send(self, size: int) -> None:
        model = self.model
        end = min(model.nxt + size, 1 + len(model.data))
        if end > model.nxt:
            self.now += 1
            span = self.queue.sent(model.nxt, end, self.now)
            assert (span.start, span.end, span.times) == (model.nxt, end, 1)
            model.nxt = end

    @rule(part=st.floats(0, 1))
    def acknowledge(self, part: float) -> None:
        model = self.model
        una = model.una + round(part * (model.nxt - model.una))
        while una in model.sacked:  # so is what follows it
            una += 1
        before = list(self.queue.spans)
        assert self.queue.acknowledge(una) == [span for span in before if span.end <= una]
        model.una = una
        model.sacked = {at for at in model.sacked if at >= una}
        self.lost = {span for span in self.lost if span.end > una}

    @precondition(lambda self: self.model.nxt > self.model.una + 1)
    @rule(start=st.floats(0, 1), length=st.integers(1, 60))
    def sack(self, start: float, length: int) -> None:
        model = self.model  # what comes next is acknowledged, never SACKed
        left = model.una + 1 + round(start * (model.nxt - model.una - 2))
        right = min(left + length, model.nxt)
        before = {span for span in self.queue.spans if span.sacked}
        news = self.queue.sack((left, right))
        model.sacked |= set(range(left, right))
        after = {span for span in self.queue.spans if self._covered(span)}
        assert set(news) == after - before
        self.lost -= after

    @precondition(lambda self: self.queue.spans)
    @rule(which=st.integers(0, 1000), urgently=st.booleans())
    def lose(self, which: int, urgently: bool) -> None:
        span = self.queue.spans[which % len(self.queue.spans)]
        self.queue.mark_lost(span, Why.RACK, urgently)
        if not self._covered(span):
            self.lost.add(span)
            assert span.urgently == urgently

    @rule()
    def resend(self) -> None:
        span = self.queue.next_lost()
        assert span is min(self.lost, key=lambda span: span.start, default=None)
        if span is not None:
            self.now += 1
            times = span.times
            self.queue.resent(span, self.now)
            assert (span.times, span.sent) == (times + 1, self.now)
            self.lost.remove(span)

    @rule()
    def change_of_mind(self) -> None:
        self.queue.unmark_lost()
        self.lost.clear()

    @rule()
    def renege(self) -> None:
        self.queue.forget_sacks()
        self.model.sacked.clear()

    def _covered(self, span: Span) -> bool:
        return set(range(span.start, span.end)) <= self.model.sacked

    @invariant()
    def all_is_counted(self) -> None:
        queue, model = self.queue, self.model
        spans = list(queue.spans)
        edges = [span.start for span in spans] + [model.nxt]
        assert edges == [model.una] + [span.end for span in spans]
        assert [span for span in spans if span.sacked] == list(filter(self._covered, spans))
        assert {span for span in spans if span.lost} == self.lost
        assert queue.lost_octets == sum(span.end - span.start for span in self.lost)
        sacked = [span for span in spans if span.sacked]
        assert queue.sacked_octets == sum(span.end - span.start for span in sacked)
        assert {at for start, end in queue.sacked for at in range(start, end)} == model.sacked
        flight = [span for span in spans if not (span.lost or span.sacked)]
        assert list(queue.flight) == sorted(flight, key=lambda span: span.sent)

    @invariant()
    def octets_are_at_their_place(self) -> None:
        queue, model = self.queue, self.model
        assert queue.end == 1 + len(model.data)
        assert queue.room == CAPACITY - (queue.end - model.una)
        kept = bytes(model.data[model.una - 1 :])
        assert queue.octets(model.una, queue.end) == kept
        for span in queue.spans:
            assert queue.octets(span.start, span.end) == bytes(
                model.data[span.start - 1 : span.end - 1]
            )


TestQueue = pytest.mark.slow(QueueMachine.TestCase)


def queue_of(*sizes: int) -> SendQueue:
    queue = SendQueue(1 << 20)
    queue.append(bytes(sum(sizes)))
    at = 1
    for now, size in enumerate(sizes):
        queue.sent(at, at + size, now)
        at += size
    return queue


def test_sack_of_half_a_segment_is_remembered_until_the_other_half_comes() -> None:
    queue = queue_of(100, 100, 100)
    assert queue.sack((151, 251)) == []
    assert queue.sacked_octets == 0
    assert queue.sack((101, 151)) == [queue.spans[1]]
    assert queue.sacked_octets == 100


def test_syn_and_fin_have_no_octets() -> None:
    queue = SendQueue(100)
    queue.append(b"abc")
    queue.fin = 4
    assert queue.octets(0, 5) == b"abc"
    assert queue.octets(4, 5) == b""


def test_forgotten_sacks_are_in_flight_again_by_time_of_transmission() -> None:
    """RFC 2018 8: what the peer has thrown away must be found lost like everything else."""
    queue = queue_of(100, 100, 100)
    first, second, third = queue.spans
    queue.mark_lost(first, Why.RACK)
    queue.resent(first, 10)
    queue.sack((101, 201))
    queue.forget_sacks()
    assert list(queue.flight) == [second, third, first]


def test_what_was_not_lost_after_all_is_in_flight_again_by_time_of_transmission() -> None:
    """RFC 8985 6.2 step 5 looks at what was sent first, and stops at what was sent too late."""
    queue = queue_of(100, 100, 100)
    first, second, third = queue.spans
    queue.mark_lost(first, Why.RACK)
    queue.mark_lost(second, Why.RACK)
    queue.resent(first, 10)
    queue.unmark_lost()
    assert list(queue.flight) == [second, third, first]


def test_sacked_segment_is_never_lost() -> None:
    queue = queue_of(100, 100)
    queue.sack((101, 201))
    queue.mark_lost(queue.spans[1], Why.TIMEOUT)
    assert (queue.lost_octets, queue.next_lost()) == (0, None)


def test_retransmissions_are_counted_by_where_they_begin() -> None:
    queue = queue_of(100, 100)
    for now in (5, 6):
        queue.mark_lost(queue.spans[0], Why.RACK)
        queue.resent(queue.spans[0], now)
    assert queue.repaired == {1: 2}
    assert queue.sent_octets == 400
