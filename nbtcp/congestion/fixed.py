"""No congestion control: a window that stays as it began, to see what the others are for."""

from typing import TYPE_CHECKING

from .base import CongestionControl

if TYPE_CHECKING:
    from ..tcp.ack import Ack


class Fixed(CongestionControl):
    """cwnd is the initial window, whatever happens; `Config(initial_window=...)` chooses it.

    It is one segment when our SYN was lost, as with the others (RFC 5681 3.1).
    """

    in_recovery: bool = True  # no reduction during fast recovery either

    @property
    def stage(self) -> str:
        return "fixed"

    def __init__(self, initial_window: int, mss: int) -> None:
        super().__init__(initial_window, mss)
        self.ssthresh = initial_window

    def acked(self, ack: "Ack") -> None:
        """Nothing."""

    def lost(self, flight: int, now: int) -> None:
        """Nothing."""

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """Nothing."""
