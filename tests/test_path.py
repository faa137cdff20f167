"""One direction of a network: delay, rate, queue and loss, to the nanosecond and by count."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbtcp import Path, PathError
from nbtcp.links.path import SECOND, Impaired, Pipe
from nbtcp.links.sim import WireEnd
from nbtcp.why import Why
from nbtcp.wire.segment import ACK, Segment, build, pack_flow, parse

FOREVER = 1 << 62


class Drops(list[tuple[bytes, Why, int]]):
    """Collects what a pipe reports."""

    def __call__(self, packet: bytes, why: Why, now: int) -> None:
        self.append((packet, why, now))

    @property
    def reasons(self) -> list[Why]:
        return [why for _, why, _ in self]


def pipe(drops: Drops | None = None, direction: str = "up", **settings: Any) -> Pipe:
    return Pipe(Path(**settings), direction, drops)


def arrivals(sent: Pipe) -> list[tuple[int, bytes]]:
    """(time, packet) of all that is on its way, one deadline after the other."""
    found = []
    while (due := sent.deadline()) is not None:
        assert sent.receive(due - 1) == []
        found += [(due, packet) for packet in sent.receive(due)]
    return found


def numbered(count: int, size: int = 4) -> list[bytes]:
    return [number.to_bytes(size, "big") for number in range(count)]


# --- delay ---


@pytest.mark.parametrize("delay", [0, 1e-9, 0.000_000_5, 0.02, 0.1, 0.123_456_789, 3, 100.0])
def test_a_packet_arrives_when_its_delay_is_over_and_not_before(delay: float) -> None:
    way = pipe(delay=delay)
    way.send(b"x", 7)
    due = 7 + round(delay * SECOND)
    assert way.deadline() == due
    assert way.receive(due - 1) == []
    assert way.deadline() == due
    assert way.receive(due) == [b"x"]
    assert way.deadline() is None
    assert way.receive(due) == []


def test_nothing_sent_nothing_received() -> None:
    assert pipe().receive(FOREVER) == []
    assert pipe(delay=1, rate=1e6).deadline() is None


def test_packets_sent_apart_arrive_apart() -> None:
    way = pipe(delay=0.01)
    for at in (0, 5, 5, 1000):
        way.send(b"x", at)
    assert [at for at, _ in arrivals(way)] == [10_000_000, 10_000_005, 10_000_005, 10_001_000]


def test_a_late_receiver_gets_all_at_once_in_order() -> None:
    way = pipe(delay=0.01, rate=1e6)
    for packet in numbered(10):
        way.send(packet, 0)
    assert way.receive(FOREVER) == numbered(10)


@pytest.mark.parametrize(
    "settings",
    [{}, {"delay": 0.01}, {"rate": 1e6}, {"rate": 1e6, "delay": 0.01, "loss": 0.3, "queue": 40}],
)
def test_packets_stay_in_order(settings: Any) -> None:
    way = pipe(**settings)
    for at, packet in enumerate(numbered(200)):
        way.send(packet, at * 1000)
    packets = [packet for _, packet in arrivals(way)]
    assert packets == sorted(packets)
    assert len(packets) == len(set(packets)) > 20


# --- rate ---


@pytest.mark.parametrize(
    ("size", "rate", "nanoseconds"),
    [
        (1500, 10e6, 1_200_000),
        (1500, 1e9, 12_000),
        (40, 10e6, 32_000),
        (1, 8, SECOND),
        (65535, 100e9, 5243),  # 5242.8
        (1500, 3e6, 4_000_000),
        (1, 3, 2_666_666_667),
        (1500, 1e15, 0),
    ],
)
def test_sending_takes_bits_over_rate(size: int, rate: float, nanoseconds: int) -> None:
    way = pipe(rate=rate)
    way.send(bytes(size), 100)
    assert way.deadline() == 100 + nanoseconds


def test_the_delay_begins_when_the_last_bit_was_sent() -> None:
    way = pipe(rate=10e6, delay=0.04)
    way.send(bytes(1500), 0)
    assert way.deadline() == 1_200_000 + 40_000_000


def test_packets_are_sent_one_after_the_other() -> None:
    way = pipe(rate=10e6)
    for size in (1500, 40, 750):
        way.send(bytes(size), 0)
    assert [at for at, _ in arrivals(way)] == [1_200_000, 1_232_000, 1_832_000]


def test_an_idle_link_begins_at_once() -> None:
    way = pipe(rate=10e6)
    way.send(bytes(1500), 0)
    way.send(bytes(1500), 1_199_999)  # a nanosecond before the first has left: it waits that long
    way.send(bytes(1500), 2_400_000)  # just when the second has left
    way.send(bytes(1500), 9_000_000)
    assert [at for at, _ in arrivals(way)] == [1_200_000, 2_400_000, 3_600_000, 10_200_000]


@pytest.mark.parametrize("rate", [64e3, 10e6, 7.77e6, 1e9])
def test_a_saturated_link_carries_its_rate(rate: float) -> None:
    way = pipe(rate=rate, delay=0.03)
    sizes = [40, 1500, 576, 1499, 1] * 400
    for size in sizes:
        way.send(bytes(size), 0)
    last = arrivals(way)[-1][0] - 30_000_000
    assert last == pytest.approx(sum(sizes) * 8 / rate * SECOND, abs=len(sizes))  # 1 ns a packet


# --- queue ---


@pytest.mark.parametrize("queue", [0, 1, 2, 10])
def test_a_queue_holds_what_waits_and_not_what_is_being_sent(queue: int) -> None:
    drops = Drops()
    way = pipe(drops, rate=10e6, queue=queue)
    packets = numbered(queue + 4, 1500)
    for packet in packets:
        way.send(packet, 5)
    assert [packet for _, packet in arrivals(way)] == packets[: queue + 1]
    assert drops == [(packet, Why.QUEUE_FULL, 5) for packet in packets[queue + 1 :]]


def test_a_place_in_the_queue_is_free_when_the_next_packet_begins() -> None:
    """10 Mbit/s: packets of 1500 octets begin every 1.2 ms."""
    for now, taken in ((1_199_999, False), (1_200_000, True)):
        drops = Drops()
        way = pipe(drops, rate=10e6, queue=1)
        way.send(bytes(1500), 0)
        way.send(bytes(1500), 0)
        way.send(bytes(1500), now)
        assert drops.reasons == ([] if taken else [Why.QUEUE_FULL])


def test_without_a_queue_the_link_takes_one_packet_at_a_time() -> None:
    for now, taken in ((1_199_999, False), (1_200_000, True)):
        drops = Drops()
        way = pipe(drops, rate=10e6, queue=0)
        way.send(bytes(1500), 0)
        way.send(bytes(1500), now)
        assert drops.reasons == ([] if taken else [Why.QUEUE_FULL])


def test_a_full_queue_delays_by_its_length() -> None:
    way = pipe(rate=10e6, queue=10)
    for _ in range(100):
        way.send(bytes(1500), 0)
    assert arrivals(way)[-1][0] == 11 * 1_200_000


def test_dropped_packets_take_no_time_on_the_link() -> None:
    way = pipe(rate=10e6, queue=0)
    for _ in range(100):
        way.send(bytes(1500), 0)
    way.send(b"last", 1_200_000)
    assert [at for at, _ in arrivals(way)] == [1_200_000, 1_203_200]


def test_a_queue_without_a_limit_takes_all() -> None:
    drops = Drops()
    way = pipe(drops, rate=1e6, queue=None)
    for packet in numbered(20_000):
        way.send(packet, 0)
    assert way.receive(FOREVER) == numbered(20_000)
    assert drops == []


def test_without_a_rate_nothing_waits() -> None:
    drops = Drops()
    way = pipe(drops, queue=0, delay=0.1)
    for packet in numbered(100):
        way.send(packet, 0)
    assert len(arrivals(way)) == 100
    assert drops == []


@settings(derandomize=True, deadline=None, database=None, max_examples=150)
@given(
    gaps=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 3000)), max_size=40),
    queue=st.integers(0, 4),
)
def test_queue_and_rate_are_those_of_a_simple_model(
    gaps: list[tuple[int, int]], queue: int
) -> None:
    """The model keeps a list of all packets: (begins, ends)."""
    drops = Drops()
    way = pipe(drops, rate=10e6, queue=queue, delay=0.001)
    now, lost = 0, 0
    taken: list[tuple[int, int]] = []
    for gap, size in gaps:
        now += gap
        way.send(bytes(size), now)
        busy = bool(taken) and taken[-1][1] > now
        if busy and sum(begin > now for begin, _ in taken) >= queue:
            lost += 1
            continue
        begin = taken[-1][1] if busy else now
        taken.append((begin, begin + round(size * 8 * SECOND / 10e6)))
    assert len(drops) == lost
    assert [at for at, _ in arrivals(way)] == [end + 1_000_000 for _, end in taken]


# --- loss ---

MANY = 20_000


def lost(probability: float, seed: int = 1, direction: str = "up", count: int = MANY) -> list[int]:
    """The numbers of the packets that a pipe loses."""
    drops = Drops()
    way = pipe(drops, direction, loss=probability, seed=seed)
    for packet in numbered(count):
        way.send(packet, 0)
    assert set(drops.reasons) <= {Why.LOSS}
    numbers = [int.from_bytes(packet, "big") for packet, _, _ in drops]
    arrived = {int.from_bytes(packet, "big") for packet in way.receive(0)}
    assert arrived | set(numbers) == set(range(count))
    assert len(arrived) + len(numbers) == count
    return numbers


@pytest.mark.parametrize("probability", [0.001, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_loss_lies_within_binomial_bounds(probability: float, direction: str) -> None:
    deviation = math.sqrt(MANY * probability * (1 - probability))
    assert abs(len(lost(probability, 1, direction)) - MANY * probability) < 4 * deviation


def test_losses_do_not_depend_on_each_other() -> None:
    """Two in a row as often as chance has it, and as many in each quarter."""
    numbers = lost(0.1)
    pairs = sum(after == before + 1 for before, after in pairwise(numbers))
    assert abs(pairs - MANY * 0.01) < 4 * math.sqrt(MANY * 0.01)
    quarters = [sum(number * 4 // MANY == quarter for number in numbers) for quarter in range(4)]
    assert all(abs(found - MANY * 0.025) < 4 * math.sqrt(MANY * 0.025) for found in quarters)


def test_the_same_seed_loses_the_same_packets() -> None:
    assert lost(0.05, seed=3, count=2000) == lost(0.05, seed=3, count=2000)


def test_another_seed_loses_others() -> None:
    assert lost(0.05, seed=3, count=2000) != lost(0.05, seed=4, count=2000)


def test_the_directions_lose_independently() -> None:
    up, down = set(lost(0.1)), set(lost(0.1, direction="down"))
    assert abs(len(up & down) - MANY * 0.01) < 4 * math.sqrt(MANY * 0.01)


def test_losses_are_the_same_on_every_machine() -> None:
    """Python promises that random() of a seed stays what it is."""
    assert lost(0.05, seed=1, count=100) == [13, 28, 48, 60, 65, 67, 72]


def test_no_loss_and_nothing_but_loss() -> None:
    assert lost(0.0, count=1000) == []
    assert lost(1.0, count=1000) == list(range(1000))


def test_the_size_and_time_of_packets_do_not_change_which_are_lost() -> None:
    drops = Drops()
    way = pipe(drops, loss=0.05, seed=3, rate=1e6, delay=0.5)
    for number in range(2000):
        way.send(number.to_bytes(4, "big") + bytes(number % 7), number * 1_000_000)
    assert [int.from_bytes(packet[:4], "big") for packet, _, _ in drops] == lost(
        0.05, seed=3, count=2000
    )


def test_a_lost_packet_has_been_sent_first() -> None:
    """It is lost behind the queue: it takes its time on the link, and a place in the queue."""
    drops = Drops()
    way = pipe(drops, loss=1.0, rate=10e6, queue=1)
    for at in (3, 3, 3):
        way.send(bytes(1500), at)
    assert drops.reasons == [Why.LOSS, Why.LOSS, Why.QUEUE_FULL]
    assert [now for _, _, now in drops] == [3, 3, 3]
    assert way.deadline() is None


# --- reordering, duplication, damage, marks, and losses by number ---


def sent_at_once(count: int = MANY, size: int = 40, **settings: Any) -> list[tuple[int, bytes]]:
    """(time, packet) of what arrives of `count` packets that all enter at 0."""
    way = pipe(**settings)
    for packet in numbered(count, size):
        way.send(packet, 0)
    return arrivals(way)


def within_bounds(found: int, probability: float, count: int = MANY) -> bool:
    return abs(found - count * probability) < 4 * math.sqrt(count * probability * (1 - probability))


@pytest.mark.parametrize("probability", [0.01, 0.2])
def test_what_is_reordered_is_held_up_exactly_and_the_rest_is_not(probability: float) -> None:
    found = sent_at_once(reorder=probability, held=0.003, delay=0.01, seed=2)
    late = [packet for at, packet in found if at == 13_000_000]
    assert len(found) == MANY
    assert {at for at, _ in found} == {10_000_000, 13_000_000}
    assert within_bounds(len(late), probability)


@pytest.mark.parametrize("probability", [0.01, 0.2])
def test_duplicates_lie_within_binomial_bounds_and_differ_in_nothing(probability: float) -> None:
    packets = [packet for _, packet in sent_at_once(duplicate=probability, seed=2)]
    assert len(set(packets)) == MANY
    assert within_bounds(len(packets) - MANY, probability)


@pytest.mark.parametrize("probability", [0.01, 0.2])
def test_damage_is_one_bit_anywhere(probability: float) -> None:
    whole = set(numbered(MANY, 40))
    damaged = [p for _, p in sent_at_once(corrupt=probability, seed=2) if p not in whole]
    assert within_bounds(len(damaged), probability)
    places = set()
    for packet in damaged:
        original = b"\0" * 37 + packet[37:]  # the number is in the last three octets
        changed = int.from_bytes(packet, "big") ^ int.from_bytes(original, "big")
        assert changed.bit_count() <= 1
        places.add(changed.bit_length())
    assert len(places) > min(200, len(damaged) // 2)


def test_drop_loses_the_numbered_packets_and_no_others() -> None:
    drops = Drops()
    way = pipe(drops, drop=(1, 3, 6))
    for packet in numbered(6):
        way.send(packet, 0)
    assert way.receive(0) == [numbered(6)[i] for i in (1, 3, 4)]
    assert drops.reasons == [Why.LOSS] * 3


def test_drop_counts_what_the_queue_refuses_too() -> None:
    way = pipe(drop=(3,), rate=1e6, queue=0)
    for packet in numbered(3):
        way.send(packet, 0)  # the second finds no place
    way.send(b"last", SECOND)
    assert [packet for _, packet in arrivals(way)] == [numbered(1)[0], b"last"]


@pytest.mark.parametrize(("tos", "marked"), [(0, False), (1, True), (2, True), (3, True)])
def test_marks_begin_where_the_queue_is_long_enough(tos: int, marked: bool) -> None:
    """RFC 3168 5: only what says ECT is marked, and its checksum stays right."""
    flow = pack_flow(("10.0.0.1", 1), ("10.0.0.2", 2))
    packet = build(Segment(flow, ACK, 1, 2, 3, b"x" * 1000, tos=tos))
    way = pipe(rate=1e6, mark=2)
    for _ in range(5):
        way.send(packet, 0)
    seen = [parse(arrived).tos & 3 for _, arrived in arrivals(way)]
    assert seen == [tos] * 3 + [3 if marked else tos] * 2


@pytest.mark.parametrize("size", [40, 1500])
def test_the_size_of_packets_does_not_change_which_are_damaged_or_twice(size: int) -> None:
    found = sent_at_once(1000, size, corrupt=0.1, duplicate=0.1, reorder=0.1, seed=5)
    again = sent_at_once(1000, 700, corrupt=0.1, duplicate=0.1, reorder=0.1, seed=5)
    assert len(found) == len(again)
    assert [at for at, _ in found] == [at for at, _ in again]


def test_nobody_needs_to_hear_of_drops() -> None:
    way = pipe(loss=1.0)
    way.send(b"x", 0)
    assert way.receive(FOREVER) == []


def test_two_pipes_of_one_path_share_nothing() -> None:
    path = Path(rate=10e6, delay=0.01, queue=0)
    up, down = Pipe(path, "up"), Pipe(path, "down")
    up.send(bytes(1500), 0)
    assert down.deadline() is None
    down.send(bytes(1500), 0)
    assert len(arrivals(up)) == len(arrivals(down)) == 1


# --- descriptions ---

BAD_PATHS: list[tuple[dict[str, Any], str]] = [
    ({"delay": -1e-9}, "delay=-1e-09 must not be negative"),
    ({"delay": math.nan}, "delay=nan"),
    ({"delay": math.inf}, "delay=inf"),
    ({"loss": -0.1}, "loss=-0.1 must lie between 0 and 1"),
    ({"loss": 1.01}, "loss=1.01 must lie between 0 and 1"),
    ({"loss": math.nan}, "loss=nan must lie between 0 and 1"),
    ({"rate": 0}, "rate=0 must be above 0"),
    ({"rate": -1e6}, "must be above 0"),
    ({"rate": math.nan}, "rate=nan"),
    ({"queue": -1}, "queue=-1 must not be negative"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_PATHS, ids=str)
def test_a_path_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PathError) as caught:
        Path(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"delay": 0, "loss": 0, "queue": 0},
        {"loss": 1, "rate": 1},
        {"rate": 1e-3, "queue": None, "delay": 3600},
        {"rate": math.inf},
    ],
)
def test_a_path_at_the_limits_is_taken(settings: dict[str, Any]) -> None:
    way = Pipe(Path(**settings), "up")
    way.send(bytes(40), 0)
    way.receive(FOREVER)


def test_a_path_is_a_value() -> None:
    assert Path(delay=0.1, seed=2) == Path(delay=0.1, seed=2)
    assert hash(Path(rate=1e6)) == hash(Path(rate=1e6))
    with pytest.raises(AttributeError):
        Path().delay = 1.0  # type: ignore[misc]


# --- links that stack ---


class FakeLink:
    """A link whose packets the test puts in and takes out."""

    def __init__(self) -> None:
        self.incoming: list[bytes] = []
        self.sent: list[tuple[int, list[bytes]]] = []
        self.due: int | None = None
        self.closed = 0

    def receive(self, now: int) -> list[bytes]:
        incoming, self.incoming = self.incoming, []
        return incoming

    def send(self, packets: list[bytes], now: int) -> None:
        self.sent.append((now, packets))

    def deadline(self) -> int | None:
        return self.due

    def fileno(self) -> int:
        return 42

    def close(self) -> None:
        self.closed += 1


def impaired(up: Path | None = None, down: Path | None = None) -> tuple[FakeLink, Impaired]:
    inner = FakeLink()
    return inner, Impaired(inner, Pipe(up or Path(), "up"), Pipe(down or Path(), "down"))


def test_an_impaired_link_without_impairments_passes_all_at_once() -> None:
    inner, link = impaired()
    link.send([b"a", b"b"], 5)
    assert inner.sent == [(5, [b"a", b"b"])]
    inner.incoming = [b"c", b"d"]
    assert link.receive(5) == [b"c", b"d"]
    assert link.deadline() is None


def test_an_impaired_link_delays_what_is_sent() -> None:
    inner, link = impaired(up=Path(delay=0.01))
    link.send([b"a"], 0)
    assert inner.sent == []
    assert link.deadline() == 10_000_000
    assert link.receive(9_999_999) == []
    assert inner.sent == []
    assert link.receive(10_000_000) == []
    assert inner.sent == [(10_000_000, [b"a"])]
    assert link.deadline() is None


def test_an_impaired_link_delays_what_comes() -> None:
    inner, link = impaired(down=Path(delay=0.01, rate=10e6))
    inner.incoming = [bytes(1500), b"abcde"]
    assert link.receive(0) == []
    assert link.deadline() == 11_200_000
    assert link.receive(11_199_999) == []
    assert link.receive(11_200_000) == [bytes(1500)]
    assert link.deadline() == 11_204_000
    assert link.receive(11_204_000) == [b"abcde"]
    assert inner.sent == []


def test_an_impaired_link_sends_what_is_due_before_what_is_new() -> None:
    inner, link = impaired(up=Path(delay=0.01))
    link.send([b"a"], 0)
    link.send([b"b"], 10_000_000)
    assert inner.sent == [(10_000_000, [b"a"])]


def test_the_deadline_of_an_impaired_link_is_that_of_the_direction_due_first() -> None:
    inner, link = impaired(up=Path(delay=0.03), down=Path(delay=0.01))
    link.send([b"a"], 0)
    assert link.deadline() == 30_000_000
    inner.incoming = [b"b"]
    link.receive(0)
    assert link.deadline() == 10_000_000


@pytest.mark.parametrize(("due", "expected"), [(5, 5), (20_000_000, 10_000_000)])
def test_the_deadline_of_an_impaired_link_is_also_the_inner_ones(due: int, expected: int) -> None:
    """A link may want to be asked at a certain time, though no descriptor says so."""
    inner, link = impaired(up=Path(delay=0.01))
    link.send([b"a"], 0)
    inner.due = due
    assert link.deadline() == expected


def test_impaired_links_stack() -> None:
    """Two paths, one behind the other, and a simulated wire behind them."""
    wire = Path(delay=0.005)
    up, down = Pipe(wire, "up"), Pipe(wire, "down")
    near, far = WireEnd(up, down), WireEnd(down, up)
    link = Impaired(near, Pipe(Path(), "up"), Pipe(Path(delay=0.01), "down"))
    link = Impaired(link, Pipe(Path(), "up"), Pipe(Path(delay=0.02), "down"))
    far.send([b"a"], 0)
    times = []
    while (due := link.deadline()) is not None:
        times.append(due)
        received = link.receive(due)
    assert times == [5_000_000, 15_000_000, 35_000_000]
    assert received == [b"a"]


def test_an_impaired_link_loses_in_both_directions_and_says_so() -> None:
    inner, drops = FakeLink(), Drops()
    link = Impaired(inner, Pipe(Path(loss=1.0), "up", drops), Pipe(Path(loss=1.0), "down", drops))
    link.send([b"a"], 1)
    inner.incoming = [b"b"]
    assert link.receive(2) == []
    assert inner.sent == []
    assert drops == [(b"a", Why.LOSS, 1), (b"b", Why.LOSS, 2)]


def test_an_impaired_link_has_the_descriptor_of_its_link_and_closes_it() -> None:
    inner, link = impaired()
    assert link.fileno() == 42
    link.close()
    assert inner.closed == 1


def test_the_ends_of_a_wire_face_each_other() -> None:
    path = Path(delay=0.001)
    up, down = Pipe(path, "up"), Pipe(path, "down")
    client, server = WireEnd(up, down), WireEnd(down, up)
    client.send([b"a", b"b"], 0)
    assert client.deadline() is None
    assert server.deadline() == 1_000_000
    assert client.receive(FOREVER) == []
    assert server.receive(999_999) == []
    assert server.receive(1_000_000) == [b"a", b"b"]
    server.send([b"c"], 2_000_000)
    assert client.receive(3_000_000) == [b"c"]
    client.close()
    client.close()
