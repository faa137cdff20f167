"""Delivery rate samples (draft-ietf-ccwg-bbr-06 4.1) and pacing (5.6.2), fed by hand."""

import pytest

from nbtcp.congestion.pacing import Pacer, send_quantum
from nbtcp.congestion.rate import DeliveryRate, RateSample
from nbtcp.tcp.ack import Ack
from nbtcp.tcp.rtt import SECOND
from nbtcp.tcp.sendqueue import Span

MS = 1_000_000
SIZE = 1000


class Sender:
    """Segments of 1000 octets, by number; `sends` and `acks` at times in ms."""

    def __init__(self) -> None:
        self.estimator = DeliveryRate()
        self.spans: dict[int, Span] = {}
        self.in_flight = 0

    def sends(self, number: int, ms: float) -> None:
        now = round(ms * MS)
        span = self.spans.get(number)
        if span is None:
            span = self.spans[number] = Span(number * SIZE, (number + 1) * SIZE, now)
        else:
            span.sent, span.times = now, span.times + 1
        self.in_flight += SIZE
        self.estimator.sent(span, self.in_flight, now)

    def acks(self, *numbers: int, ms: float, sack: bool = False) -> RateSample | None:
        ack = Ack(round(ms * MS), 0, 0, self.in_flight)
        spans = [self.spans[number] for number in numbers]
        ack.sacked, ack.done = (spans, []) if sack else ([], spans)
        ack.delivered = SIZE * len([span for span in spans if span.rate is not None])
        self.in_flight -= ack.delivered
        return self.estimator.sample(ack, self.in_flight)

    def loses(self, number: int) -> None:
        self.in_flight -= SIZE
        self.estimator.lose(self.spans[number])


def test_the_first_flight_is_measured_from_when_it_was_sent() -> None:
    sender = Sender()
    for i in range(10):
        sender.sends(i, ms=5)
    rs = sender.acks(0, 1, ms=45)
    assert rs is not None
    assert (rs.delivered, rs.rate) == (2000, 50_000)  # in 40 ms
    assert (rs.rtt, rs.total, rs.inflight, rs.sent.in_flight) == (40 * MS, 2000, 8000, 2000)
    assert (rs.lost, rs.sent.app_limited, rs.losses) == (0, False, [])


def test_a_flight_at_a_steady_rate_gives_that_rate() -> None:
    sender = Sender()
    for i in range(40):
        sender.sends(i, ms=i)
    for i in range(200):  # an ACK and a segment each ms: 1000 octets per ms
        rs = sender.acks(i, ms=40 + i)
        sender.sends(40 + i, ms=40 + i)
    assert rs is not None
    assert rs.rate == 1_000_000
    assert rs.delivered == 40_000
    assert rs.rtt == 40 * MS


def test_acks_that_come_compressed_do_not_outrun_the_sending() -> None:
    sender = Sender()
    for i in range(20):
        sender.sends(i, ms=2 * i)
    assert sender.acks(0, ms=50) is not None
    sender.sends(20, ms=50)
    for i in range(1, 20):  # held back, and then all within 1 ms
        sender.acks(i, ms=90 + i / 20)
    rs = sender.acks(20, ms=91)
    assert rs is not None
    assert rs.rate == 20 * SIZE * 1000 // 50  # acknowledged within 41 ms, but sent within 50


@pytest.mark.parametrize("sack", [False, True])
def test_the_newest_segment_of_an_ack_counts_and_each_one_once(sack: bool) -> None:
    sender = Sender()
    for i in range(4):
        sender.sends(i, ms=i)
    rs = sender.acks(2, 3, ms=40, sack=sack)
    assert rs is not None
    assert rs.rtt == 37 * MS
    rs = sender.acks(0, 1, 2, 3, ms=50)
    assert rs is not None
    assert rs.delivered == 4000  # 2000 with the first ACK
    assert rs.rtt == 49 * MS
    assert sender.acks(0, 1, 2, 3, ms=51) is None
    assert sender.estimator.delivered == 4000


def test_samples_are_application_limited_until_the_bubble_has_left() -> None:
    sender = Sender()
    sender.sends(0, ms=0)
    sender.estimator.ran_dry(sender.in_flight)
    sender.sends(1, ms=10)
    marks = []
    for i in range(6):
        rs = sender.acks(i, ms=40 + 10 * i)
        assert rs is not None
        marks.append(rs.sent.app_limited)
        sender.sends(i + 2, ms=40 + 10 * i)
    assert marks == [False, True, True, False, False, False]


def test_a_resent_segment_gives_no_rtt_and_no_impossible_rate() -> None:
    sender = Sender()
    sender.sends(0, ms=0)
    assert sender.acks(0, ms=40) is not None  # min_rtt is 40 ms
    sender.sends(1, ms=50)
    sender.loses(1)
    sender.sends(1, ms=300)
    rs = sender.acks(1, ms=305)  # the ACK of the first transmission
    assert rs is not None
    assert rs.rtt is None
    assert rs.rate == 0  # 1000 octets in 5 ms cannot be
    assert sender.estimator.min_rtt == 40 * MS


def test_losses_are_counted_from_the_sending_of_each_segment() -> None:
    sender = Sender()
    for i in range(10):
        sender.sends(i, ms=i)
    sender.loses(0)
    sender.loses(2)
    sender.sends(0, ms=40)
    rs = sender.acks(5, ms=46, sack=True)
    assert rs is not None
    seen = [(x.start, x.end, x.sent.in_flight, x.lost) for x in rs.losses]
    assert seen == [(0, 1000, 1000, 1000), (2000, 3000, 3000, 2000)]
    assert (rs.lost, rs.sent.in_flight) == (2000, 6000)
    rs = sender.acks(0, ms=80)
    assert rs is not None
    assert (rs.lost, rs.losses) == (0, [])  # it was sent after both


# --- pacing ---


@pytest.mark.parametrize(
    ("rate", "quantum"),
    [(1000, 2896), (1_250_000, 2896), (10_000_000, 10_000), (1_000_000_000, 65_536)],
)
def test_send_quantum(rate: int, quantum: int) -> None:
    assert send_quantum(rate, 1448) == quantum


def departures(pacer: Pacer, rate: int, wakes: list[int]) -> list[int]:
    """When segments of 1000 octets leave if the sender looks at these times (ns)."""
    left = []
    for now in wakes:
        while pacer.next_send_time <= now:
            pacer.sent(SIZE, rate, SIZE, now)
            left.append(now)
    return left


def test_paced_segments_leave_evenly_after_the_first_quantum() -> None:
    left = departures(Pacer(), 1_000_000, list(range(5 * SECOND, 5 * SECOND + 10 * MS, MS // 4)))
    assert [(at - 5 * SECOND) / MS for at in left] == [0, 0, *range(1, 10)]


def test_late_timers_do_not_slow_the_pace() -> None:
    wakes = [5 * SECOND + i * MS + (i * 7919 % 100) * MS // 100 for i in range(1000)]
    left = departures(Pacer(), 1_000_000, wakes)
    assert len(left) == pytest.approx(1000, abs=2)


def test_a_long_pause_gives_no_more_than_a_quantum_at_once() -> None:
    pacer = Pacer()
    departures(pacer, 1_000_000, [0, MS])
    assert len(departures(pacer, 1_000_000, [60 * SECOND])) == 2
    assert pacer.next_send_time == 60 * SECOND + MS


def test_never_more_than_the_rate_and_a_quantum() -> None:
    wakes = [5 * SECOND + (i * i * 7919 % 1000) * MS // 10 for i in range(300)]
    left = departures(Pacer(), 1_000_000, sorted(wakes))
    for i, start in enumerate(left):
        for j, end in enumerate(left[i:]):
            assert (j + 1) * SIZE <= 1_000_000 * (end - start) // SECOND + 2 * SIZE
