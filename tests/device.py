"""What a device with segmentation offload, and the kernel behind it, do to a packet: for tests."""

from dataclasses import replace

from nbtcp import Stack
from nbtcp.wire import segment as plain
from nbtcp.wire import vnet
from nbtcp.wire.segment import CWR, FIN, PSH, Segment
from nbtcp.wire.seq import MODULUS


def cut(whole: Segment) -> list[Segment]:
    """The segments of which `whole` is made: CWR on the first only, FIN and PSH on the last."""
    size, data = whole.gso_size or len(whole.data), whole.data
    parts = []
    for at in range(0, max(len(data), 1), max(size, 1)):
        flags = whole.flags & ~(CWR if at else 0)
        if at + size < len(data):
            flags &= ~(FIN | PSH)
        part = replace(whole, data=data[at : at + size], gso_size=0, flags=flags)
        part.raw_seq = (whole.raw_seq + at) % MODULUS
        parts.append(part)
    return parts


def carried(packet: bytes, sender: Stack, receiver: Stack) -> list[bytes]:
    """The packets that reach `receiver` when each host has a device as its Config says."""
    if not (sender.config.offload or receiver.config.offload):
        return [packet]
    segment = vnet.parse(packet) if sender.config.offload else plain.parse(packet)
    build = vnet.build if receiver.config.offload else plain.build
    return [build(part) for part in cut(segment)]
