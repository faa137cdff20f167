"""What one acknowledgment tells the sender of data.

arrives.py fills it in, step by step; loss recovery and congestion control see this and never the
connection.
"""

from dataclasses import dataclass, field

from ..congestion.rate import RateSample
from .ranges import Range
from .sendqueue import Span


@dataclass(slots=True)
class Ack:
    """One acknowledgment. Positions and sizes in octets, times in nanoseconds."""

    now: int
    una: int  # SND.UNA after it
    nxt: int  # SND.NXT
    flight: int  # octets believed in the network before it
    octets: int = 0  # cumulatively acknowledged by it
    delivered: int = 0  # octets it is the first to report, by SACK or a duplicate too
    done: list[Span] = field(default_factory=list)  # acknowledged cumulatively, oldest first
    sacked: list[Span] = field(default_factory=list)  # newly reported beyond a hole
    arrived: list[Span] = field(default_factory=list)  # both, without what was SACKed before
    dsack: Range | None = None  # what arrived twice (RFC 2883)
    duplicate: bool = False  # a duplicate ACK in the sense of RFC 5681 2
    marked: bool = False  # it says ECE: no reason to send more (RFC 3168 6.1.2)
    lost: int = 0  # octets that it made recovery believe lost
    rtt: int | None = None  # a round-trip time it measured (Karn's rule kept)
    srtt: int | None = None  # SRTT after it
    echo: int | None = None  # when what it answers was sent, by its timestamp, in ticks
    rate: RateSample | None = None  # for algorithms that pace
