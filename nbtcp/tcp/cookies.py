"""SYN cookies: connections that cost nothing until the peer has answered (RFC 4987 3.6).

When the SYN queue is full, what has to be remembered of a SYN travels in our SYN,ACK and comes back
in the peer's ACK: five bits of time, three of MSS and a keyed hash as the initial sequence number;
window scale, SACK and ECN in the low bits of the timestamp.
"""

from hashlib import blake2s

from ..wire.segment import CWR, ECE, SYN, Segment
from ..wire.seq import MODULUS
from .tcb import default_mss

PERIOD = 64 * 1_000_000_000  # ns that a cookie's time counts
LIFETIME = 2  # periods
MSS_VALUES = (64, 536, 1220, 1440, 1460, 4312, 8940, 65495)  # the next smaller one is kept
NO_SCALE = 15
_TIME_BITS, _MSS_BITS, _HASH_BITS, _OPTION_BITS = 5, 3, 24, 6


def initial_sequence_number(syn: Segment, secret: bytes, now: int) -> int:
    """The cookie that answers `syn`."""
    default = default_mss(syn.flow)
    mss = max(i for i, value in enumerate(MSS_VALUES) if value <= max(syn.mss or default, 64))
    return _cookie(syn.flow, syn.raw_seq, now // PERIOD, mss, secret)


def timestamp(syn: Segment, value: int) -> int:
    """TSval for our SYN,ACK: the latest one up to `value` whose low bits hold the options."""
    scale = NO_SCALE if syn.wscale is None else min(syn.wscale, 14)
    ecn = syn.flags & (ECE | CWR) == ECE | CWR
    bits = scale | syn.sack_permitted << 4 | ecn << 5
    kept = value >> _OPTION_BITS << _OPTION_BITS | bits
    return (kept if kept <= value else kept - (1 << _OPTION_BITS)) % MODULUS


def restore(ack: Segment, secret: bytes, now: int) -> Segment | None:
    """The SYN that `ack` completes, as far as the cookie has kept it; None when it holds none."""
    isn, irs = (ack.raw_ack - 1) % MODULUS, (ack.raw_seq - 1) % MODULUS
    mss = isn >> _HASH_BITS & (1 << _MSS_BITS) - 1
    age = (now // PERIOD - (isn >> _HASH_BITS + _MSS_BITS)) % (1 << _TIME_BITS)
    made = now // PERIOD - age
    if made < 0 or age >= LIFETIME or isn != _cookie(ack.flow, irs, made, mss, secret):
        return None
    syn = Segment(ack.flow, SYN, irs, 0, ack.raw_window, mss=MSS_VALUES[mss])
    if ack.tsval is not None and ack.tsecr is not None:
        syn.tsval, syn.tsecr = ack.tsval, 0
        scale = ack.tsecr & 15
        syn.wscale = None if scale == NO_SCALE else scale
        syn.sack_permitted = bool(ack.tsecr >> 4 & 1)
        if ack.tsecr >> 5 & 1:
            syn.flags |= ECE | CWR
    return syn


def _cookie(flow: bytes, irs: int, period: int, mss: int, secret: bytes) -> int:
    known = flow + irs.to_bytes(4, "big") + period.to_bytes(8, "big") + bytes((mss,))
    digest = blake2s(known, digest_size=_HASH_BITS // 8, key=secret, person=b"cookie").digest()
    time = period % (1 << _TIME_BITS)
    return (time << _MSS_BITS | mss) << _HASH_BITS | int.from_bytes(digest, "big")
