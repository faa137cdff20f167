"""The reasons: why a segment was sent, what was done with one received, who dropped one.

A reason is decided once, where the decision is made, and recorded by the log under the name it has
here ("fast-retransmit" for `Why.FAST_RETRANSMIT`). This module imports nothing of the package.
"""

from enum import IntEnum


class Labelled(IntEnum):
    """An enum whose members carry `label`, their name as the log writes it."""

    label: str

    def __init__(self, _value: int) -> None:
        self.label = self._name_.lower().replace("_", "-")


class Why(Labelled):
    """One reason; `label` is its name in the log."""

    # --- sent: what made this segment leave ---
    SYN = 1
    SYN_ACK = 2
    ACK = 3  # at least every second full-sized segment, or at once (RFC 5681 4.2)
    DELAYED_ACK = 4  # the delayed-ACK timer fired (RFC 9293 3.8.6.3)
    DUPLICATE_ACK = 5  # a segment out of order arrived; also: the ACK that was received is one
    WINDOW_UPDATE = 6
    DATA = 7
    FIN = 8
    RST = 9
    CHALLENGE_ACK = 10  # RFC 5961
    WINDOW_PROBE = 11  # RFC 9293 3.8.6.1
    SWS_OVERRIDE = 12  # RFC 9293 3.8.6.2.1, rule 4
    KEEPALIVE = 13  # RFC 9293 3.8.4
    TAIL_LOSS_PROBE = 14  # RFC 8985 7: new data, or the last segment once more
    # --- sent again: what made us think it lost ---
    FAST_RETRANSMIT = 20  # the third duplicate ACK (RFC 5681 3.2)
    PARTIAL_ACK = 21  # RFC 6582
    TIMEOUT = 22  # the retransmission timer fired (RFC 6298 5.4)
    GO_BACK_N = 23  # sent before the timeout and not acknowledged since
    DUPLICATE_SYN = 24  # the peer repeated its SYN: our SYN,ACK is repeated too
    SACK_HOLE = 25  # the scoreboard shows it missing (RFC 6675)
    RACK = 26  # something sent later has arrived (RFC 8985)
    PACKET_TOO_BIG = 27  # a router could not forward it (RFC 1191, RFC 8201)
    RESCUE = 28  # nothing: the last segment, lest no ACK come any more (RFC 6675 4, NextSeg rule 4)
    WINDOW_OPENED = (
        29  # nothing: the window was closed to the probe that carried it, and is not now
    )
    # --- received: what was done with it ---
    IN_ORDER = 40
    OUT_OF_ORDER = 41
    DUPLICATE = 42  # all its octets were here already
    ACK_NEW = 43
    ACK_OLD = 44
    ACK_UNSENT = 45  # it acknowledges something not yet sent
    ACK_MISSING = 46  # no ACK flag where there must be one
    UNACCEPTABLE = 47  # outside the receive window
    WINDOW_CLOSED = 48  # data, and our window is zero
    PAWS = 49  # its timestamp is older than the last one (RFC 7323 5)
    OPTIONS_MISSING = 50  # no timestamp though timestamps were negotiated (RFC 7323 3.2)
    BLIND_RST = 51  # in the window, but not exactly RCV.NXT (RFC 5961 3.2)
    SYN_IN_WINDOW = 52  # RFC 5961 4.2
    NOT_SYN = 53  # neither SYN nor RST in SYN-SENT
    AFTER_CLOSE = 54  # data for an application that has closed its socket
    TIME_WAIT_RST = 55  # a RST must not end TIME-WAIT (RFC 1337)
    # --- received by nobody ---
    NO_CONNECTION = 60
    BACKLOG_FULL = 61
    BAD_CHECKSUM = 62
    MALFORMED = 63  # the headers contradict themselves or the packet's length
    FRAGMENT = 64  # an IP fragment; fragments are not reassembled
    NOT_TCP = 65
    MISDIRECTED = 66  # its destination is not this host
    COOKIE = 67  # answered with a SYN cookie, or the ACK that brings one back (RFC 4987)
    ICMP = 68  # an ICMP error about no connection of ours
    # --- dropped on the way ---
    LOSS = 80
    QUEUE_FULL = 81
    # --- decisions about samples and events ---
    FIRST_TRANSMISSION = 90  # a valid RTT sample
    KARN = 91  # rejected: sent more than once, and the ACK does not say which was received
    SPURIOUS = 93  # nothing was lost: a late ACK, or D-SACKs, show it (RFC 5682, RFC 3708)
    CONGESTION_MARK = 94  # a router marked instead of dropping (RFC 3168)
    TIMESTAMP = 92  # sent more than once, but the timestamp echo tells which was received


class Event(Labelled):
    """What `log.events` has rows for."""

    STATE = 1  # old, new: states; why: the cause
    TIMER_SET = 2  # new: the timer; value: seconds until it is due
    TIMER_STOPPED = 3
    TIMER_FIRED = 4
    LOSS = 5  # value: octets believed lost; why: what tells
    RECOVERY = 6  # old, new: phases of loss recovery
    RTT_SAMPLE = 7  # value: the sample in seconds; why: kept or rejected, and the reason
    CALL = 8  # new: the application's call; value: octets
    ERROR = 9  # new: the exception's name; why: its text
    CONGESTION = 12  # old, new: stages of congestion control; value: cwnd
    REPORT = 10  # trouble that is no error yet; new: what
    ICMP = 11  # new: what an ICMP error said; value: its MTU; why: what was done with it
