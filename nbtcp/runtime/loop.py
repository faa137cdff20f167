"""One run loop for virtual and for real time: packets in, timers, packets out.

Whoever waits for something turns the loop meanwhile (`run_until`); there is no hand-over between
threads for a packet. Of several threads that wait one turns, and wakes the others when what they
wait for has come. In real time `mind_in_background` starts a thread that turns the loop while
nobody waits. An event loop, which waits by itself, joins by `watch` and calls `step`.
"""

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import NbtcpError
from ..links import Link
from ..stack import Stack

SECOND = 1_000_000_000
GRACE = 0.005  # seconds after which the background thread takes over from a caller that has left


class Clock(Protocol):
    """Time, and how to let it pass."""

    def now(self) -> int:
        """Nanoseconds, never decreasing."""

    def sleep(self, until: int | None, descriptors: list[int]) -> None:
        """Return at `until` (None: never), or earlier when a descriptor is readable or `wake` was
        called.
        """

    def wake(self) -> None:
        """End a sleep."""

    def close(self) -> None: ...


class VirtualClock:
    """Time that jumps to whatever is next."""

    def __init__(self) -> None:
        self._now = 0

    def now(self) -> int:
        return self._now

    def sleep(self, until: int | None, descriptors: list[int]) -> None:
        if until is not None:
            self._now = max(self._now, until)

    def wake(self) -> None:
        """Nobody sleeps in virtual time."""

    def close(self) -> None: ...


class RealClock:
    """The machine's monotonic clock."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep(self, until: int | None, descriptors: list[int]) -> None:
        wait = None if until is None else max(0, until - time.monotonic_ns())
        watched = [*descriptors, self._event]
        if max(watched) < 1024:  # select waits for microseconds, poll for milliseconds
            readable = select.select(watched, [], [], None if wait is None else wait / SECOND)[0]
        else:
            poll = select.poll()
            for descriptor in watched:
                poll.register(descriptor, select.POLLIN)
            milliseconds = None if wait is None else -(-wait // 1_000_000)
            readable = [descriptor for descriptor, _ in poll.poll(milliseconds)]
        if self._event in readable:
            os.eventfd_read(self._event)

    def wake(self) -> None:
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        if self._event >= 0:
            os.close(self._event)
            self._event = -1


class _Waiter:
    """A thread that waits for `predicate` while another turns the loop."""

    __slots__ = ("event", "predicate")

    def __init__(self, predicate: Callable[[], bool]) -> None:
        self.predicate = predicate
        self.event: threading.Event | None = None  # made when another thread turns the loop

    @property
    def overdue(self) -> bool:
        """What it waits for has come, and it does not know: it is told before anybody sleeps. Who
        knows needs the lock, which a sleep sets free.
        """
        told = self.event is not None and self.event.is_set()
        return not told and self.predicate()

    def wake(self) -> None:
        if self.event is not None:
            self.event.set()


class Loop:
    """Stacks, each with its link, and one clock. `lock` guards all of them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.failure: OSError | None = None
        self.quiet = True  # nothing more was there to be moved when the loop was last turned
        self._watchers: list[Callable[[], None]] = []
        self.outsiders = 0  # who waits for `Connection.watch`, outside: see `count_outsiders`
        self._pairs: list[tuple[Stack, Link]] = []
        self._waiters: list[_Waiter] = []
        self._turning = False
        self._in_background = False  # the background thread is the one that turns
        self._sleeping_until: int | None = 0
        self._left_at = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._relay = threading.Event()  # the background thread shall look at once

    def add(self, stack: Stack, link: Link) -> None:
        """From now on `stack` sends and receives over `link`."""
        self._pairs.append((stack, link))

    def now(self) -> int:
        return self.clock.now()

    # --- with the lock held ---

    def turn(self, now: int) -> bool:
        """Move all that can be moved at `now`; False if there was nothing.

        Packets that arrive together are taken in groups of `Config.ack_every`: all of a group are
        processed before anything is acknowledged (RFC 9293 MUST-59), and no more than that, so that
        acknowledgments are as frequent as SHLD-19 wants them.
        """
        moved = False
        for stack, link in self._pairs:
            packets = link.receive(now)
            group = stack.config.ack_every
            for start in range(0, len(packets), group):
                moved = True
                for packet in packets[start : start + group]:
                    stack.receive(packet, now)
                if out := stack.transmit(now):
                    link.send(out, now)
            if stack.due(now):
                moved = True
                stack.handle_timer(now)
            if out := stack.transmit(now):
                moved = True
                link.send(out, now)
        return moved

    def flush(self) -> None:
        """Send what the stacks have to send after a call of the application."""
        if self.failure is not None:
            raise self.failure
        now = self.clock.now()
        for stack, link in self._pairs:
            if out := stack.transmit(now):
                try:
                    link.send(out, now)
                except (OSError, NbtcpError) as problem:
                    self.fail(str(problem))
                    raise self.failure from problem  # type: ignore[misc]
        if self._turning and self._sleeping_until != 0:
            due = self.deadline()
            if due is not None and (self._sleeping_until is None or due < self._sleeping_until):
                self.clock.wake()
        self._call_watchers()

    def step(self) -> bool:
        """Turn once, for an event loop that waits by itself; False when there was nothing to do."""
        self._left_at = time.monotonic()
        self.quiet = not self._try_turn(self.clock.now())
        self._tell()
        return not self.quiet

    def watch(self, watcher: Callable[[], None]) -> None:
        """An event loop turns this one from now on; `watcher` is called after each turn and flush,
        in any thread, to see what others have done.
        """
        self._watchers.append(watcher)
        if self._in_background:
            self.clock.wake()

    def unwatch(self, watcher: Callable[[], None]) -> None:
        self._watchers.remove(watcher)

    def fail(self, reason: str) -> None:
        """Nothing can be sent or received any more: every call raises ENETDOWN from now on."""
        if self.failure is None:
            self.failure = OSError(errno.ENETDOWN, reason)
            for stack, _ in self._pairs:
                stack.call_watches()

    def deadline(self) -> int | None:
        """When something is next due."""
        sources: list[Stack | Link] = [part for pair in self._pairs for part in pair]
        due = [at for source in sources if (at := source.deadline()) is not None]
        return min(due, default=None)

    def descriptors(self) -> list[int]:
        """What is readable when packets arrive."""
        return [fd for _, link in self._pairs if (fd := link.fileno()) >= 0]

    def run_until(self, predicate: Callable[[], bool], until: int | None = None) -> bool:
        """Let time pass until `predicate` holds (True) or `until` is reached (False).

        The lock is held on entry and on return, and free in between. OSError when the loop has
        failed.
        """
        if predicate():
            return True
        if self._turning and until is not None and until <= self.clock.now():
            return False
        waiter = _Waiter(predicate)
        self._waiters.append(waiter)
        if self._in_background:
            self.clock.wake()
        try:
            return self._wait(waiter, until)
        finally:
            self._waiters.remove(waiter)
            self._left_at = time.monotonic()
            self._pass_on()

    # --- background ---

    @property
    def in_real_time(self) -> bool:
        """True when a thread turns the loop while nobody waits."""
        return self._thread is not None

    def count_outsiders(self, more: int) -> None:
        """So many `more` (1 or -1) are told of news by `Connection.watch` and wait elsewhere, in
        `select` or an event loop: the background thread takes over without a GRACE.
        """
        self.outsiders += more
        self._relay.set()

    def mind_in_background(self) -> None:
        """Start a thread that turns the loop while no caller does, until `close`."""
        self._thread = threading.Thread(target=self._mind, name="nbtcp loop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the background thread."""
        with self.lock:
            self._closed = True
            self.clock.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self.clock.close()

    # --- inside ---

    def _wait(self, waiter: _Waiter, until: int | None) -> bool:
        looked = -1  # when it was turned here: once in any case, or polling would stop it
        while True:
            if waiter.predicate():
                return True
            if self.failure is not None:
                raise self.failure
            now = self.clock.now()
            # Who wakes up too late looks once more: it may have come by then.
            in_time = looked >= 0 and now == until
            if until is not None and now >= until and (self._turning or in_time or looked >= until):
                return False
            if self._turning:
                self._wait_for_turner(waiter, now, until)
            else:
                if waiter.event is not None:  # it will see for itself
                    waiter.event.clear()
                self._turn_or_sleep(now, until)
                looked = now

    def _wait_for_turner(self, waiter: _Waiter, now: int, until: int | None) -> None:
        waiter.event = waiter.event or threading.Event()
        self.lock.release()
        try:
            waiter.event.wait(None if until is None else (until - now) / SECOND)
        finally:
            self.lock.acquire()
            waiter.event.clear()

    def _turn_or_sleep(self, now: int, until: int | None) -> None:
        self._turning = True
        try:
            self.quiet = not self._try_turn(now)
            if self.quiet and not any(waiter.overdue for waiter in self._waiters):
                self._sleep(until)
        finally:
            self._turning = False
            self._tell()

    def _tell(self) -> None:
        """A turn is over: those for whom it brought something shall look."""
        asleep = self._sleeping_until != 0  # one of them, in `_sleep`, while an event loop turns
        for waiter in self._waiters:
            if waiter.event is None and not asleep:
                continue
            if self.failure is not None or waiter.predicate():
                waiter.wake()
                if asleep:
                    self.clock.wake()
        self._call_watchers()

    def _call_watchers(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()

    def _try_turn(self, now: int) -> bool:
        try:
            return self.turn(now)
        except (OSError, NbtcpError) as problem:  # the link is gone
            self.fail(str(problem))
            return True

    def _sleep(self, until: int | None) -> None:
        """Wait for a packet, a deadline or a wake-up, with the lock free."""
        due = self.deadline()
        if due is None or (until is not None and until < due):
            due = until
        descriptors = self.descriptors()
        if due is None and not descriptors:
            raise OSError(errno.EDEADLK, "nothing is left to happen: all would wait for ever")
        self._sleeping_until = due
        self.lock.release()
        try:
            self.clock.sleep(due, descriptors)
        finally:
            self.lock.acquire()
            self._sleeping_until = 0

    def _mind(self) -> None:
        while not self._closed:
            self._relay.wait(4 * GRACE if self._watchers else GRACE)  # those are seldom late
            self._relay.clear()
            with self.lock:
                self._in_background = True
                try:
                    while not (self._closed or self._turning or self.failure or self._attended()):
                        self._turn_or_sleep(self.clock.now(), None)
                finally:
                    self._in_background = False
                    if self._waiters:
                        self._pass_on()

    def _pass_on(self) -> None:
        """Whoever has turned the loop leaves it: another that waits has to."""
        if self._turning:
            return
        if self._waiters:
            self._waiters[0].wake()
        elif self.outsiders:
            self._relay.set()

    def _attended(self) -> bool:
        """True while a caller turns the loop or did so a moment ago, or an event loop keeps up."""
        grace = 0 if self.outsiders else GRACE
        if self._waiters or time.monotonic() - self._left_at < grace:
            return True
        return bool(self._watchers) and not self._overdue()

    def _overdue(self) -> bool:
        """True when there is something to do that nobody does: an event loop is busy elsewhere."""
        poll = select.poll()
        for descriptor in self.descriptors():
            poll.register(descriptor, select.POLLIN)
        due = self.deadline()
        return (due is not None and due <= self.clock.now()) or bool(poll.poll(0))
