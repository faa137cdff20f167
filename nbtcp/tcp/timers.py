"""What a connection can be waiting for. A timer is a time, nothing runs: `Connection.timers` holds
the deadlines, and `deadline()` is the earliest.
"""

from ..why import Labelled

NEVER = 1 << 62  # ns; later than any clock


class Timer(Labelled):
    """In this order those that are due together are handled."""

    # The first two come before the timeout that they may make needless.
    REORDERING = 0  # what has not arrived by then is lost, not late (RFC 8985 6.2 step 5)
    LOSS_PROBE = 1  # the tail may be lost: draw an acknowledgment (RFC 8985 7)
    RETRANSMISSION = 2  # the oldest octet in flight is overdue (RFC 6298 5)
    PERSIST = 3  # the window is closed, or too small to send into (RFC 9293 3.8.6)
    DELAYED_ACK = 4  # an acknowledgment was held back (RFC 9293 3.8.6.3)
    KEEPALIVE = 5  # the peer was silent for long (RFC 9293 3.8.4)
    PACING = 6  # the next segment may leave (pacing.py); has no rows in the log
    TIME_WAIT = 7  # two maximum segment lifetimes, or an abandoned FIN-WAIT-2
