"""Delivery rate: how fast the network delivers (draft-ietf-ccwg-bbr-06 section 4.1).

Each segment remembers how much had been delivered when it was sent. Its acknowledgment then tells
how much was delivered meanwhile, and in what time: one sample of the rate for each ACK. A sample is
capped by the rate of sending, and marked when the application had left the network idle.
"""

from typing import TYPE_CHECKING, NamedTuple

from .base import SECOND

if TYPE_CHECKING:
    from ..tcp.ack import Ack
    from ..tcp.sendqueue import Span


class Sent(NamedTuple):
    """What a segment remembers of the moment it was sent (4.1.2.1.2). Octets, nanoseconds."""

    delivered: int  # P.delivered
    delivered_at: int  # P.delivered_time
    first_sent_at: int  # P.first_send_time
    lost: int  # P.lost
    in_flight: int  # P.tx_in_flight: itself included
    app_limited: bool  # P.is_app_limited


class Loss(NamedTuple):
    """A segment believed lost: positions, what it remembers, and C.lost - P.lost."""

    start: int
    end: int
    sent: Sent
    lost: int  # octets believed lost since it was sent, itself included


class RateSample(NamedTuple):
    """RS of 4.1.2.1.3: what an ACK tells, by the newest segment that it reports as delivered."""

    rate: int  # RS.delivery_rate, octets per second; 0 when this ACK does not tell
    delivered: int  # RS.delivered: octets delivered since that segment was sent
    lost: int  # RS.lost: octets believed lost since then
    rtt: int | None  # RS.rtt, of a segment that was sent once, ns
    sent: Sent  # what the segment remembers
    losses: list[Loss]  # found since the last sample
    total: int  # C.delivered: octets delivered over the connection's life
    inflight: int  # C.inflight after the ACK, octets
    selective: bool = True  # C.has_selective_acks


class DeliveryRate:
    """The estimator of one connection."""

    def __init__(self, selective: bool = True) -> None:
        self.selective = selective  # the peer reports what lies beyond a hole
        self.delivered = 0  # C.delivered, octets
        self.delivered_at = 0  # C.delivered_time: when that was last updated, ns
        self.first_sent_at = 0  # C.first_send_time: when the newest segment delivered was sent, ns
        self.lost = 0  # C.lost, octets
        self.app_limited = 0  # C.app_limited: samples are marked until so much is delivered; or 0
        self.min_rtt = 1 << 62  # C.min_rtt, ns
        self.losses: list[Loss] = []

    def sent(self, span: "Span", in_flight: int, now: int) -> None:
        """`span` leaves at `now` (OnPacketSent, 4.1.2.2); `in_flight` octets include it."""
        if in_flight <= span.end - span.start:
            self.first_sent_at = self.delivered_at = now
        times, limited = (self.delivered_at, self.first_sent_at), self.app_limited > 0
        span.rate = Sent(self.delivered, *times, self.lost, in_flight, limited)

    def ran_dry(self, in_flight: int) -> None:
        """The window had room and there was nothing to send (MarkConnectionAppLimited, 4.1.2.4)."""
        self.app_limited = max(self.delivered + in_flight, 1)

    def lose(self, span: "Span") -> None:
        """`span` is believed lost."""
        self.lost += span.end - span.start
        if (sent := span.rate) is not None:
            self.losses.append(Loss(span.start, span.end, sent, self.lost - sent.lost))

    def sample(self, ack: "Ack", inflight: int) -> RateSample | None:
        """The sample that `ack` gives (4.1.2.3), None when it reports no segment as delivered.

        `inflight` is what is in the network after it.
        """
        if not self.selective:  # what duplicate ACKs have told is not told again (4.1.3.5.1)
            told = self.delivered + (ack.delivered if ack.duplicate else 0)
            ack.delivered = max(ack.una, min(told, ack.nxt)) - self.delivered
        if ack.delivered:
            self.delivered += ack.delivered
            self.delivered_at = ack.now
        if self.delivered > self.app_limited:
            self.app_limited = 0  # the bubble has left the pipe
        fresh = [span for span in (*ack.done, *ack.sacked) if span.rate is not None]
        if not fresh:
            return None
        newest = max(fresh, key=lambda span: (span.sent, span.end))
        sent = newest.rate
        assert sent is not None
        for span in fresh:
            span.rate = None  # delivered, and counted
        self.first_sent_at = newest.sent
        rtt = ack.now - newest.sent if newest.times == 1 else None
        self.min_rtt = min(self.min_rtt, self.min_rtt if rtt is None else rtt)
        delivered = self.delivered - sent.delivered
        # delivery_elapsed = max(ack_elapsed, send_elapsed)
        interval = max(self.delivered_at - sent.delivered_at, newest.sent - sent.first_sent_at)
        known = interval >= self.min_rtt and interval > 0  # less: a resent segment, received before
        rate = delivered * SECOND // interval if known else 0
        lost, losses, self.losses = self.lost - sent.lost, self.losses, []
        end = (self.delivered, inflight, self.selective)
        return RateSample(rate, delivered, lost, rtt, sent, losses, *end)
