"""A host of ours that talks to itself, in real time: sockets with both ends ours, without root."""

import os
import socket

from nbtcp import Config
from nbtcp.runtime.host import Host
from nbtcp.runtime.loop import Loop, RealClock

ADDRESS, ADDRESS6 = "127.0.0.1", "::1"


class Loopback:
    """What is sent is received; a descriptor says when."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def receive(self, now: int) -> list[bytes]:
        packets, self._packets = self._packets, []
        if packets:
            os.eventfd_read(self._news)
        return packets

    def send(self, packets: list[bytes], now: int) -> None:
        self._packets += packets
        os.eventfd_write(self._news, 1)

    def deadline(self) -> int | None:
        return None

    def fileno(self) -> int:
        return self._news

    def close(self) -> None:
        if self._news >= 0:
            os.close(self._news)
            self._news = -1


class LoopbackHost(Host):
    """127.0.0.1 and ::1, which it knows as localhost."""

    def __init__(self, config: Config | None = None) -> None:
        loop = Loop(RealClock())
        super().__init__((ADDRESS, ADDRESS6), loop, config=config)
        self.attach(Loopback())
        loop.mind_in_background()

    def resolve(self, name: str) -> list[str]:
        return [ADDRESS] if name in ("localhost", socket.gethostname()) else super().resolve(name)
