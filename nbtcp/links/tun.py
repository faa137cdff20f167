"""A TUN device as a link: IP packets out of and into the kernel, one for each read and write.

This file knows nothing of TCP and reads no clock. It must never block, and it must stay lean: at
100,000 packets a second each microsecond of a packet is a tenth of a processor.
Source: the kernel's Documentation/networking/tuntap.rst.
"""

import errno
import fcntl
import os
import struct
from typing import Self

from nbtcp.errors import MachineError, NbtcpError

DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
LARGEST_PACKET = 65535

# The file descriptor is of no use any more: closed by us, or its device went with its namespace.
_GONE = (errno.EBADF, errno.EBADFD)


class Tun:
    """A TUN device as a link: `receive`, `send`, `deadline`, `fileno`, `close`.

    `refused` counts the packets that the kernel did not take: queue full, device down, not IP.
    """

    def __init__(
        self, fd: int, batch: int = 128, *, name: str = "tun", size: int = LARGEST_PACKET
    ) -> None:
        """Take over an open TUN file descriptor, which is made non-blocking and closed by `close`.

        `batch` is the most packets that one `receive` returns. `size` (bytes) is the device's MTU:
        the kernel cuts longer packets, and asking for 1500 is 0.3 us faster than for 65535.
        """
        os.set_blocking(fd, False)
        self.name = name
        self.batch = batch
        self.size = size
        self.refused = 0
        self._fd = fd

    @classmethod
    def open(cls, name: str = "nbtcp%d", batch: int = 128) -> Self:
        """Make a TUN device in this network namespace (IFF_TUN, IFF_NO_PI), or open an existing.

        `%d` in the name becomes the first free number; `.name` tells the real one. The device goes
        with its last file descriptor. MachineError when this machine or this user cannot.
        """
        fd = open_device()
        try:
            reply = fcntl.ioctl(
                fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
            )
        except OSError as error:
            os.close(fd)
            raise MachineError(_no_interface(name, error)) from error
        return cls(fd, batch, name=reply[:16].rstrip(b"\0").decode())

    def receive(self, now: int) -> list[bytes]:
        """Return the packets that are there now, at most `batch`, or []. Never blocks.

        `now` (ns) is part of every link's signature; this one needs no time.
        NbtcpError when the device is gone.
        """
        packets: list[bytes] = []
        append, read, fd, size = packets.append, os.read, self._fd, self.size
        try:
            for _ in range(self.batch):
                append(read(fd, size))
        except BlockingIOError:
            pass
        except OSError as error:
            # What was read before is lost with the device: there is nobody left to answer.
            self._raise_if_gone(error)
        return packets

    def send(self, packets: list[bytes], now: int) -> None:
        """Give packets to the kernel. One that it refuses is dropped, as in a network, and counted.

        `now` (ns) is not used. NbtcpError when the device is gone.
        """
        write, fd = os.write, self._fd
        for packet in packets:
            try:
                write(fd, packet)
            except OSError as error:
                self._raise_if_gone(error)
                self.refused += 1

    def deadline(self) -> int | None:
        """When this link has work of its own to do (ns): never."""
        return None

    def fileno(self) -> int:
        """Return the file descriptor, readable when packets wait; -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Close the file descriptor. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _raise_if_gone(self, error: OSError) -> None:
        if error.errno in _GONE:
            why = "it was closed" if self._fd < 0 else "its network namespace has ended"
            raise NbtcpError(
                f"the TUN device {self.name} is gone: {why}; open a new one"
            ) from error


def open_device() -> int:
    """Open /dev/net/tun and return the file descriptor. No interface is made by this alone.

    MachineError in one line when it is missing or may not be opened.
    """
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(_no_device(error)) from error


def _no_device(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return (
            f"{DEVICE} is missing, so there can be no TUN device; load it with `modprobe tun`, "
            f"or start the container with `--device {DEVICE}`"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{DEVICE} may not be opened by user {os.geteuid()} ({error.strerror}); run as root; "
            f"for the lab alone `chmod 666 {DEVICE}` does too (in a container: `--device {DEVICE}`)"
        )
    return (
        f"{DEVICE} cannot be opened ({error.strerror}); load the driver with `modprobe tun`, "
        f"or start the container with `--device {DEVICE}`"
    )


def _no_interface(name: str, error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (
            f"user {os.geteuid()} may not make the TUN device {name!r} (no CAP_NET_ADMIN); "
            f"run as root, or start the container with `--cap-add NET_ADMIN`"
        )
    if error.errno == errno.EBUSY:
        return (
            f"the TUN device {name!r} is in use by another program; "
            f"choose another name, such as 'nbtcp%d'"
        )
    return (
        f"the TUN device {name!r} cannot be made ({error.strerror}); "
        f"choose a name of at most 15 letters and digits"
    )
