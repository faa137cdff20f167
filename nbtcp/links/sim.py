"""A simulated wire: two ends, joined by one pipe in each direction."""

from .path import Pipe


class WireEnd:
    """One end of a simulated wire: what goes into `out` comes out of the other end's `into`."""

    __slots__ = ("_into", "_out")

    def __init__(self, out: Pipe, into: Pipe) -> None:
        self._out = out
        self._into = into

    def receive(self, now: int) -> list[bytes]:
        return self._into.receive(now)

    def send(self, packets: list[bytes], now: int) -> None:
        for packet in packets:
            self._out.send(packet, now)

    def deadline(self) -> int | None:
        return self._into.deadline()

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing to give back."""
