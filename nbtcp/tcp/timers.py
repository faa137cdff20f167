"""Named deadlines of one connection. A timer is a time, nothing runs: the owner asks
`deadline()`.
"""

from ..why import Labelled

NEVER = 1 << 62  # ns; later than any clock


class Timer(Labelled):
    """What a connection can be waiting for."""

    RETRANSMISSION = 0  # the oldest octet in flight is overdue (RFC 6298 5)
    PERSIST = 1  # the window is closed, or too small to send into (RFC 9293 3.8.6)
    DELAYED_ACK = 2  # an acknowledgment was held back (RFC 9293 3.8.6.3)
    TIME_WAIT = 3  # two maximum segment lifetimes, or an abandoned FIN-WAIT-2


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

    def expired(self, now: int) -> list[Timer]:
        """The timers that are due at `now`, stopped; in the order of the enum."""
        fired = [timer for timer in Timer if self._due[timer] <= now]
        for timer in fired:
            self._due[timer] = NEVER
        return fired
