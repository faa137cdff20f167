"""Which segments count, and what of them: RFC 9293 3.10.7.4, steps 1 and 5; table 6; RFC 5961 5."""

import pytest
from peer import established, twice  # noqa: F401

from nbtcp import State

# --- table 6 ---

TABLE = [
    # SEG.LEN, RCV.WND, SEG.SEQ relative to RCV.NXT, acceptable
    (0, 0, 0, True),
    (0, 0, 1, False),
    (0, 0, -1, False),
    (0, 1000, 0, True),
    (0, 1000, 999, True),
    (0, 1000, 1000, False),
    (0, 1000, -1, False),
    (1, 0, 0, False),
    (1, 0, -1, False),
    (100, 0, 0, False),
    (100, 0, -50, False),
    (100, 1000, 0, True),
    (100, 1000, 999, True),  # its first octet is in the window
    (100, 1000, 1000, False),
    (100, 1000, -99, True),  # its last octet is
    (100, 1000, -100, False),
    (1200, 1000, -100, False),  # neither, though what lies between them is
]


@pytest.mark.parametrize(("length", "window", "ahead", "acceptable"), TABLE)
def test_acceptability(length: int, window: int, ahead: int, acceptable: bool) -> None:
    """RFC 9293 table 6 (L-6, L-7): an unacceptable segment is answered by an ACK, and dropped."""
    peer = established(receive_buffer=1000 + window, delayed_ack=0)
    peer.sends("1:501")
    peer.sends("501:1001")
    tcb = peer.conn.tcb
    assert (tcb.rcv.nxt, tcb.rcv.wnd) == (1001, window)
    peer.app_writes(10)
    peer.sent()
    start = 1001 + ahead
    peer.sends(f". {start}:{start + length}({length}) ack 11")  # is its ACK taken?
    taken_anyway = (length, window, ahead) in [(1, 0, 0), (100, 0, 0)]  # a valid ACK: table's note
    assert (tcb.snd.una == 11) == (acceptable or taken_anyway)
    assert tcb.rcv.nxt == (1001 + max(0, length + ahead) if acceptable and ahead <= 0 else 1001)
    answers = peer.sent()
    if not acceptable:
        assert len(answers) == 1
        assert answers[0].startswith(f". 11:11(0) ack 1001 win {window} ")


def test_segment_around_the_window_is_reported_as_twice_only_as_far_as_it_was_here() -> None:
    """RFC 2883 4: a D-SACK of octets that have not come would make the peer forget them."""
    peer = established(receive_buffer=1500, delayed_ack=0, sack=True)
    peer.sends("1:501")
    peer.sent()
    assert peer.sends("401:1901(1500) ack 1") == "duplicate"
    peer.expect(". 1:1(0) ack 501 win 1000 <sack 401:501>")


# --- trimming ---


def test_old_octets_are_trimmed() -> None:
    """RFC 9293 3.10.7.4, first: only the new parts are processed (L-8)."""
    peer = established(receive_buffer=65535, delayed_ack=0)
    peer.sends("1:101")
    assert peer.sends("51:151") == "in-order"
    peer.expect(". 1:1 ack 101", ". 1:1 ack 151")
    assert peer.app_reads() == 150


def test_octets_beyond_the_window_are_trimmed() -> None:
    """RFC 9293 3.10.7.4, first (L-8)."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.sends("501:1101")
    peer.sends("1:501")
    peer.expect(". 1:1 ack 1 why duplicate-ack", ". 1:1 ack 1001 win 0")


def test_fin_beyond_the_window_is_trimmed() -> None:
    """RFC 9293 3.10.7.4, first: including SYN and FIN (L-8)."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.sends("F. 1:1001(1000)")
    peer.expect(". 1:1 ack 1001 win 0")
    assert peer.state is State.ESTABLISHED
    assert peer.app_reads() == 1000
    peer.expect(". 1:1 ack 1001 win 1000 why window-update")
    peer.sends("F. 1001:1001(0)")
    peer.expect(". 1:1 ack 1002")
    assert peer.state is State.CLOSE_WAIT


def test_bare_fin_at_a_closed_window_is_harmless() -> None:
    """By table 6 unacceptable; many take it, for it needs no room. Either way it is answered."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.sends("1:1001")
    peer.expect(". 1:1 ack 1001 win 0")
    peer.sends("F. 1001:1001(0)")
    (answer,) = peer.sent()
    assert answer.startswith((". 1:1(0) ack 1001 win 0", ". 1:1(0) ack 1002 win 0"))
    assert peer.app_reads() == 1000
    peer.sends("F. 1001:1001(0)")
    assert peer.conn.eof


@pytest.mark.parametrize("shift", [0, 5])
def test_bare_fin_at_a_window_closed_by_rounding_is_harmless(shift: int) -> None:
    """RFC 7323 2.4: a scaled window ends somewhere in a unit; nothing negative is ever sent."""
    buffer = 65535 if shift == 0 else 1 << 20
    peer = established(receive_buffer=buffer, delayed_ack=0, mss=1460, wscale=0 if shift else None)
    rcv = peer.conn.tcb.rcv
    assert rcv.shift == shift
    peer.sends("1:2")  # from here on the edge lies off the units
    while rcv.wnd:
        peer.sends(f"{rcv.nxt}:{rcv.nxt + min(1460, rcv.wnd)}")
    peer.sends(f"F. {rcv.nxt}:{rcv.nxt}(0)")
    assert " win 0 " in peer.sent()[-1]
    peer.app_reads()
    peer.sends(f"F. {rcv.nxt}:{rcv.nxt}(0)")


# --- the ACK field ---


def test_old_ack_with_new_data_still_carries_its_data() -> None:
    """RFC 9293 3.10.7.4, fifth: if the ACK is a duplicate, it can be ignored; the text not."""
    peer = established(delayed_ack=0, receive_buffer=65535)
    peer.app_writes(100)
    peer.acks(101)
    peer.sent()
    assert peer.sends("P. 1:51(50) ack 1") == "in-order"
    peer.expect(". 101:101 ack 51")
    assert peer.app_reads() == 50


def test_new_data_with_a_new_ack_does_both() -> None:
    peer = established(receive_buffer=65535)
    peer.app_writes(100)
    peer.sends("P. 1:51(50) ack 101")
    assert peer.conn.tcb.snd.una == 101
    assert peer.app_reads() == 50


@pytest.mark.parametrize("beyond", [1, 1000, 1 << 30])
def test_ack_of_what_was_not_sent_is_answered_and_dropped(beyond: int) -> None:
    """RFC 9293 3.10.7.4, fifth (L-14): send an ACK, drop the segment; its text, too."""
    peer = established()
    peer.app_writes(100)
    peer.sent()
    assert peer.sends(f"P. 1:51(50) ack {101 + beyond}") == "ack-unsent"
    peer.expect(". 101:101 ack 1 why challenge-ack")
    assert peer.conn.tcb.snd.una == 1
    assert peer.app_reads() == 0


def test_ack_older_than_the_largest_window_is_answered_and_dropped() -> None:
    """RFC 5961 5.2 (U-9): SND.UNA - MAX.SND.WND =< SEG.ACK =< SND.NXT (MAY-12)."""
    peer = established(win=500, delayed_ack=0, receive_buffer=65535)
    for _ in range(3):
        at = peer.conn.tcb.snd.nxt
        peer.app_writes(500)
        peer.acks(at + 500)
    peer.sent()
    assert peer.sends("1:11 ack 1000") == "ack-unsent"  # 1501 - 501
    peer.expect(". 1501:1501 ack 1 why challenge-ack")
    assert peer.sends("1:11 ack 1001") == "in-order"
    peer.expect(". 1501:1501 ack 11")


@pytest.mark.parametrize("flags", ["-", "P", "F", "U"])
def test_segment_without_ack_is_dropped(flags: str) -> None:
    """RFC 9293 3.10.7.4, fifth (L-12)."""
    peer = established()
    assert peer.sends(f"{flags} 1:11(10)") == "ack-missing"
    peer.expect()
    assert peer.conn.tcb.rcv.nxt == 1
    assert peer.state is State.ESTABLISHED


# --- the send window (L-15) ---


def test_window_is_not_taken_from_an_older_segment() -> None:
    """RFC 9293 L-15: SND.WL1 < SEG.SEQ or SND.WL1 = SEG.SEQ and SND.WL2 =< SEG.ACK."""
    peer = established(receive_buffer=65535)
    peer.sends("101:201 win 5000")  # an octet of the hole before it may still be under way
    peer.sends("1:101 win 9000")  # here it is: sent earlier
    assert peer.conn.tcb.snd.wnd == 5000
    peer.acks(1, win=7000)
    assert peer.conn.tcb.snd.wnd == 7000


def test_window_is_not_taken_from_an_older_acknowledgment() -> None:
    """RFC 9293 L-15."""
    peer = established()
    peer.app_writes(100)
    peer.acks(101, win=5000)
    peer.acks(1, win=9000)
    assert peer.conn.tcb.snd.wnd == 5000


def test_window_field_is_unsigned() -> None:
    """RFC 9293 MUST-1."""
    peer = established(cwnd=60_000, mss=1000)
    peer.acks(1, win=40_000)
    peer.app_writes(60_000)
    assert len(peer.sent()) == 40
