"""Pacing: segments leave one by one at a rate, not in bursts (draft-ietf-ccwg-bbr-06 5.6.2, 5.6.3).

Each segment has a time before which it does not leave. That time follows from the one before, not
from when a timer fired, so that late timers cost nothing on average: what is late is made up for,
but never by more than a quantum at once.
"""

from .base import SECOND


def send_quantum(rate: int, mss: int) -> int:
    """C.send_quantum: the octets that may leave at once, 1 ms at `rate`, within bounds (5.6.3)."""
    return max(min(rate // 1000, 1 << 16), 2 * mss)


class Pacer:
    """In any time t no more leaves than `rate * t` and a quantum."""

    __slots__ = ("next_send_time",)

    def __init__(self) -> None:
        self.next_send_time = 0  # C.next_send_time: nothing leaves before, ns

    def sent(self, octets: int, rate: int, mss: int, now: int) -> None:
        """A segment of `octets` leaves at `now`; `rate` is in octets per second."""
        credit = (send_quantum(rate, mss) - max(octets, mss)) * SECOND // rate
        self.next_send_time = max(self.next_send_time, now - credit) + octets * SECOND // rate
