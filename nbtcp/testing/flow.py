"""`Flow`: one connection, and its segments as the script numbers them.

Our sequence numbers count from the one that the script gives our SYN, our timestamps from the first
that it gives a segment of ours. The peer's numbers are on the wire as they are written.
"""

from dataclasses import dataclass, field

from ..tcp.connection import Connection
from ..wire.segment import ACK, RST, SYN, Segment, reverse_flow
from ..wire.seq import MODULUS
from .parser import Icmp, Packet

_LAP = bytes(range(251))  # a prime: no segment size repeats it


def content(start: int, end: int) -> bytes:
    """The octets at positions start..end of every stream."""
    return (_LAP * ((end - start) // 251 + 2))[start % 251 :][: end - start]


@dataclass(slots=True, eq=False)
class Flow:
    """`incoming` is the flow of what the peer sends. `named` maps timestamps of ours from what the
    script calls them to what they are.
    """

    incoming: bytes
    conn: Connection | None = None
    iss: int = 0  # ours, on the wire
    base: int | None = None  # what the script calls it, since it has expected our SYN
    named: dict[int, int] = field(default_factory=dict)

    def raw_seq(self, seq: int) -> int:
        """On the wire, the sequence number of ours that the script calls `seq`."""
        return (seq - (self.base or 0) + self.iss) % MODULUS

    def raw_timestamp(self, value: int) -> int:
        """What was sent under that number, or as far from the first that was."""
        if value in self.named or not value or not self.named:
            return self.named.get(value, value)
        first, raw = next(iter(self.named.items()))
        return (raw + value - first) % MODULUS

    def sends(self, segment: Segment) -> None:
        """A segment of ours has left; with a new SYN the numbers begin anew."""
        if segment.flags & SYN and segment.raw_seq != self.iss:
            self.iss, self.base = segment.raw_seq, None
            self.named.clear()

    def written(self, segment: Segment) -> Packet:
        """A segment of ours as the script would write it."""
        start = (segment.raw_seq - self.raw_seq(0)) % MODULUS
        if segment.flags & (RST | ACK) == RST | ACK and segment.raw_seq == 0:
            start = 0  # nobody's: it is 0 on the wire (RFC 9293 3.10.7.1)
        numbers = {name: getattr(segment, name) for name in ("mss", "wscale", "tsval", "tsecr")}
        options = {name: value for name, value in numbers.items() if value is not None}
        options |= {"sack_permitted": True} if segment.sack_permitted else {}
        options |= {"sack": segment.sack} if segment.sack else {}
        if segment.tsval is not None:
            first, raw = next(iter(self.named.items()), (0, 0))
            options["tsval"] = (segment.tsval - raw + first) % MODULUS
        end, win = (start + len(segment.data)) % MODULUS, segment.raw_window
        return Packet(
            False, segment.flags, start, end, segment.raw_ack, win, segment.urgent, options
        )

    def position(self, segment: Segment) -> int:
        """Where in the stream the octets of a segment of ours belong."""
        return (segment.raw_seq - self.iss + (segment.flags & SYN != 0)) % MODULUS

    def received(self, packet: Packet) -> Segment:
        """The segment of the peer that the script has written."""
        irs = self.conn.tcb.rcv.irs if self.conn is not None else 0
        at = 1 if packet.flags & SYN else (packet.start - irs) % MODULUS
        ack = 0 if packet.ack is None else self.raw_seq(packet.ack)
        segment = Segment(self.incoming, packet.flags, packet.start, ack, packet.win or 0)
        segment.data = content(at, at + (packet.end - packet.start) % MODULUS)
        segment.urgent = packet.urg or 0
        segment.tos = packet.ecn[0] if packet.ecn else 0
        for name, value in (packet.options or {}).items():
            setattr(segment, name, value)
        segment.sack = tuple((self.raw_seq(a), self.raw_seq(b)) for a, b in segment.sack)
        if segment.tsecr is not None:
            segment.tsecr = self.raw_timestamp(segment.tsecr)
        return segment

    def quoted(self, message: Icmp) -> Segment:
        """The segment of ours that an ICMP error is about."""
        una = self.conn.tcb.snd.una if self.conn is not None else 0
        start, end = message.quoted or (una + (self.base or 0),) * 2
        data = bytes(min((end - start) % MODULUS, 65000))
        return Segment(reverse_flow(self.incoming), ACK, self.raw_seq(start), 0, 0, data)
