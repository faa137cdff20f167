"""Proportional rate reduction (RFC 9937): how cwnd gets from what it was down to ssthresh.

During fast recovery it lets out, for what arrives, the share ssthresh/RecoverFS, so that sending
neither stops for half a round trip nor comes in a burst.
"""

from ..ack import Ack


class ProportionalRateReduction:
    """One episode of fast recovery. Sizes in octets."""

    def __init__(self, flight: int, sent: int, mss: int) -> None:
        self._recover_fs = max(flight, mss)  # RecoverFS: in flight when the episode began
        self._delivered = 0  # prr_delivered
        self._sent_before = sent  # all that had been sent by then
        self._mss = mss

    def window(self, ack: Ack, pipe: int, sent: int, ssthresh: int) -> int:
        """cwnd after `ack`; `pipe` is in flight now, `sent` is all that was ever sent.

        It is never less than a segment, or nothing could be sent when all that was out is lost.
        """
        self._delivered += ack.delivered
        out = sent - self._sent_before  # prr_out
        if pipe > ssthresh:
            # sndcnt = CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out
            count = -(-self._delivered * ssthresh // self._recover_fs) - out
        else:
            # sndcnt = MAX(prr_delivered - prr_out, DeliveredData), an MSS more when all goes well
            count = max(self._delivered - out, ack.delivered)
            if ack.octets and not ack.lost:  # SafeACK
                count += self._mss
            count = min(ssthresh - pipe, count)
        if out == 0:
            count = max(count, self._mss)  # the fast retransmit itself
        return max(pipe + max(count, 0), self._mss)
