"""What one acknowledgment tells the sender of data.

arrives.py fills it in, step by step; loss recovery and congestion control see this and never the
connection.
"""

from .rate import RateSample
from .sendqueue import Span


class Ack:
    """One acknowledgment. Positions and sizes in octets, times in nanoseconds."""

    __slots__ = (
        *("delivered", "done", "dsacks", "duplicate", "echo", "flight", "lost", "marked"),
        *("now", "nxt", "octets", "rate", "rtt", "sacked", "srtt", "una"),
    )

    def __init__(self, now: int, una: int, nxt: int, flight: int) -> None:
        self.now = now
        self.una = una  # SND.UNA after it
        self.nxt = nxt  # SND.NXT
        self.flight = flight  # octets believed in the network before it
        self.octets = 0  # cumulatively acknowledged by it
        self.delivered = 0  # octets it is the first to report, by SACK too
        self.done: list[Span] = []  # the spans it acknowledged cumulatively, oldest first
        self.sacked: list[Span] = []  # spans newly reported beyond a hole
        self.dsacks: list[tuple[int, int]] = []  # ranges that arrived twice (RFC 2883)
        self.duplicate = False  # a duplicate ACK in the sense of RFC 5681 2
        self.marked = False  # it says ECE: no reason to send more (RFC 3168 6.1.2)
        self.lost = 0  # octets that it made recovery believe lost
        self.rtt: int | None = None  # a round-trip time it measured (Karn's rule kept)
        self.srtt: int | None = None  # SRTT after it
        self.echo: int | None = None  # when what it answers was sent, by its timestamp, in ticks
        self.rate: RateSample | None = None  # for algorithms that pace

    @property
    def arrived(self) -> list[Span]:
        """The spans that it is the first to report: none that was SACKed before."""
        return [span for span in self.done if not span.sacked] + self.sacked
