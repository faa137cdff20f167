"""Named deadlines of one connection. A timer is a time, nothing runs: the owner asks
`deadline()`.
"""

from collections.abc import Iterator

from ..why import Labelled

NEVER = 1 << 62  # ns; later than any clock


class Timer(Labelled):
    """What a connection can be waiting for."""

    # The first two come before the timeout that they may make needless.
    REORDERING = 0  # what has not arrived by then is lost, not late (RFC 8985 6.2 step 5)
    LOSS_PROBE = 1  # the tail may be lost: draw an acknowledgment (RFC 8985 7)
    RETRANSMISSION = 2  # the oldest octet in flight is overdue (RFC 6298 5)
    PERSIST = 3  # the window is closed, or too small to send into (RFC 9293 3.8.6)
    DELAYED_ACK = 4  # an acknowledgment was held back (RFC 9293 3.8.6.3)
    KEEPALIVE = 5  # the peer was silent for long (RFC 9293 3.8.4)
    PACING = 6  # the next segment may leave (pacing.py); has no rows in the log
    TIME_WAIT = 7  # two maximum segment lifetimes, or an abandoned FIN-WAIT-2


class Timers:
    """A table of deadlines in nanoseconds, NEVER where a timer is not running."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due = [NEVER] * len(Timer)

    def runs(self, timer: Timer) -> bool:
        return self._due[timer] != NEVER

    def set(self, timer: Timer, at: int) -> None:
        self._due[timer] = at

    def stop(self, timer: Timer) -> None:
        self._due[timer] = NEVER

    def stop_all(self) -> None:
        self._due = [NEVER] * len(Timer)

    def deadline(self) -> int | None:
        """The earliest deadline."""
        due = min(self._due)
        return due if due != NEVER else None

    def due(self, timer: Timer) -> int:
        """When `timer` fires; NEVER if it is not running."""
        return self._due[timer]

    def expired(self, now: int) -> Iterator[Timer]:
        """The timers that are due at `now`, each stopped when it comes, in the order of the enum.

        What one of them sets anew is not due any more when its turn comes.
        """
        for timer in Timer:
            if self._due[timer] <= now:
                self._due[timer] = NEVER
                yield timer
