"""A file descriptor that is readable or writable when we say so, for select, poll, epoll and
selectors.

It is one end of a pair of the kernel's sockets. An octet in it makes it readable, and its send
buffer, full with what the other end does not take, makes it not writable. Level-triggered: with
EPOLLET news that comes while it is readable already is no event.
"""

import contextlib
import os
import socket


class Descriptor:
    """Neither readable nor writable at first. Only to wait with: what is read of it or written to
    it is not of the connection.
    """

    def __init__(self) -> None:
        self._outer, self._inner = socket.socketpair()
        self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # the least the kernel has
        self._readable, self._writable = False, True
        self.show(False, False)

    def fileno(self) -> int:
        return self._outer.fileno()

    def set_blocking(self, blocking: bool) -> None:
        """The O_NONBLOCK flag, for who looks at it."""
        os.set_blocking(self._outer.fileno(), blocking)

    def show(self, readable: bool, writable: bool) -> None:
        """What is so from now on. Costs nothing when it is so already."""
        with contextlib.suppress(OSError):  # somebody has closed or used it: his loss alone
            if readable != self._readable:
                self._readable = readable
                if readable:
                    self._inner.send(b"!")
                else:
                    self._outer.recv(1, socket.MSG_DONTWAIT)
            if writable != self._writable:
                self._writable = writable
                if writable:
                    self._inner.recv(1 << 16, socket.MSG_DONTWAIT)
                else:
                    self._outer.send(bytes(4096), socket.MSG_DONTWAIT)

    def abandon(self) -> None:
        """Somebody else will close it."""
        self._outer.detach()
        self._inner.close()

    def close(self) -> None:
        self._outer.close()
        self._inner.close()
