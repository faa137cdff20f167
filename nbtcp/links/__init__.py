"""Where packets go: TUN devices, simulated wires, and the paths that impair them."""

from typing import Protocol


class Link(Protocol):
    """A way out of a stack. Packets are whole IP packets, `now` is nanoseconds; nothing here
    blocks.
    """

    def receive(self, now: int) -> list[bytes]:
        """Packets that have arrived, oldest first; [] when there are none. A link may give them in
        batches.
        """

    def send(self, packets: list[bytes], now: int) -> None:
        """Put packets on the way."""

    def deadline(self) -> int | None:
        """When `receive` should be called again though no file descriptor says so."""

    def fileno(self) -> int:
        """A descriptor that is readable when packets arrive, or -1."""

    def close(self) -> None:
        """Give the link back; more than once is harmless."""


class Device(Link, Protocol):
    """A link of this machine's: `size` is its MTU (octets), `batch` the most packets that one
    `receive` gives.
    """

    size: int
    batch: int
