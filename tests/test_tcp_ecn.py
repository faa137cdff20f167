"""Explicit congestion notification (RFC 3168; RFC 9293 SHLD-8): agreed in the handshake, said by
the receiver until the sender has slowed down.
"""

import pytest
from peer import Peer, established, twice  # noqa: F401

NOT_ECT, ECT_1, ECT_0, CE = range(4)


def agreed(**settings: object) -> Peer:
    """ESTABLISHED after an active open, with ECN; the peer's MSS is 1000."""
    peer = Peer(ecn="ask", **settings)
    peer.connects()
    peer.expect("SEC 0:0")
    peer.sends("S.E 0:0 ack 1 <mss 1000>")
    peer.expect(". 1:1 ack 1")
    return peer


def marks(peer: Peer, sent_before: int = 0) -> list[int]:
    """The ECN field of what the stack sent."""
    return [segment.tos & 3 for segment in peer.segments[sent_before:]]


# --- the handshake ---


def test_active_open_asks_and_the_syn_ack_agrees() -> None:
    """RFC 3168 6.1.1 (SHLD-8): ECE and CWR in the SYN; then new data is ECT(0), and no more."""
    peer = agreed()
    peer.app_writes(10)
    peer.expect("P. 1:11")
    assert marks(peer) == [NOT_ECT, NOT_ECT, ECT_0]


@pytest.mark.parametrize("flags", ["S.", "S.EC", "S.C"])
def test_active_open_without_agreement_does_without(flags: str) -> None:
    """RFC 3168 6.1.1: ECE alone agrees; a host that gives back all bits does not."""
    peer = Peer(ecn="ask")
    peer.connects()
    peer.sends(f"{flags} 0:0 ack 1")
    peer.app_writes(10)
    assert marks(peer) == [NOT_ECT] * 3
    peer.sends("P. 1:11", tos=CE)
    peer.sent()
    assert not peer.segments[-1].flags & 64


def test_active_open_repeats_the_syn_without_asking() -> None:
    """RFC 3168 6.1.1.1: some networks drop SYNs that ask."""
    peer = Peer(ecn="ask")
    peer.connects()
    peer.expect("SEC 0:0")
    peer.expect_after(1, "S 0:0 why timeout")


@pytest.mark.parametrize(
    ("ecn", "syn", "answer"),
    [
        ("accept", "SEC", "S.E"),
        ("ask", "SEC", "S.E"),
        ("off", "SEC", "S."),
        ("accept", "S", "S."),
        ("ask", "S", "S."),
        ("accept", "SE", "S."),
    ],
)
def test_passive_open_agrees_when_asked(ecn: str, syn: str, answer: str) -> None:
    """RFC 3168 6.1.1."""
    peer = Peer(ecn=ecn)
    peer.listens()
    peer.sends(f"{syn} 0:0 <mss 1000>")
    peer.expect(f"{answer} 0:0 ack 1")
    peer.acks(1)
    peer.app_writes(10)
    assert marks(peer) == [NOT_ECT, ECT_0 if answer == "S.E" else NOT_ECT]


def test_nobody_asks_by_default() -> None:
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0")


# --- receiving marks ---


def test_mark_is_answered_at_once_and_until_the_sender_has_slowed_down() -> None:
    """RFC 3168 6.1.3 (RFC 9293 SHLD-8): ECE in every ACK until CWR."""
    peer = agreed()
    peer.sends("P. 1:11", tos=CE)
    peer.expect(".E 1:1 ack 11 why congestion-mark")
    peer.sends("P. 11:21", tos=ECT_0)
    peer.expect_after(0.04, ".E 1:1 ack 21 why delayed-ack")
    peer.app_writes(10)
    peer.expect("P.E 1:11 ack 21")
    peer.sends("P.C 21:31 ack 11", tos=ECT_0)
    peer.expect_after(0.04, ". 11:11 ack 31 why delayed-ack")


def test_mark_on_the_segment_that_says_cwr_counts() -> None:
    """RFC 3168 6.1.3: it was marked after the sender had slowed down."""
    peer = agreed()
    peer.sends("P. 1:11", tos=CE)
    peer.expect(".E 1:1 ack 11")
    peer.sends("P.C 11:21", tos=CE)
    peer.expect(".E 1:1 ack 21 why congestion-mark")


# --- being told of marks ---


def test_echo_halves_the_window_once_a_window_and_says_so() -> None:
    """RFC 3168 6.1.2 (SHLD-8): as for a loss, once a round trip; CWR with the first new data."""
    peer = agreed(initial_window=10_000, congestion="reno")
    peer.app_writes(20_000)
    peer.sent()
    peer.sends(".E 1:1 ack 1001")
    assert (peer.conn.cc.cwnd, peer.conn.cc.ssthresh) == (5000, 5000)
    for ack in (2001, 3001, 4001, 5001):
        peer.sends(f".E 1:1 ack {ack}")
        peer.expect()
    assert (peer.conn.cc.cwnd, peer.conn.cc.ssthresh) == (5000, 5000)
    peer.sends(".E 1:1 ack 6001")
    peer.expect(".C 10001:11001 why data")
    peer.sends(". 1:1 ack 7001")
    peer.expect(". 11001:12001 why data")
    peer.sends(".E 1:1 ack 10001")
    assert peer.conn.cc.ssthresh == 5000
    peer.sends(".E 1:1 ack 11001")  # of the next window
    assert peer.conn.cc.ssthresh == 2500


def test_echo_without_agreement_is_ignored() -> None:
    """RFC 3168 6.1: only if both ends understand it."""
    peer = established(cwnd=10_000, mss=1000)
    peer.app_writes(10_000)
    peer.sends(".E 1:1 ack 1001")
    assert peer.conn.cc.ssthresh > 10_000


def test_what_is_sent_again_may_not_be_marked() -> None:
    """RFC 3168 6.1.5."""
    peer = agreed(recovery="newreno")
    peer.app_writes(10)
    peer.expect("P. 1:11")
    peer.expect_after(0.2, "P. 1:11 why timeout")
    assert marks(peer)[-2:] == [ECT_0, NOT_ECT]


def test_window_probe_may_not_be_marked() -> None:
    """RFC 3168 6.1.6."""
    peer = agreed()
    peer.acks(1, win=0)
    peer.app_writes(10)
    peer.expect_after(0.2, ". 1:2 why window-probe")
    assert marks(peer)[-1] == NOT_ECT
