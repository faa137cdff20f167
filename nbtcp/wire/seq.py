"""Sequence numbers: 32 bits on the wire, plain integers inside (RFC 9293 3.4).

Positions count from the initial sequence number: the SYN is at 0, the first octet of data at 1, and
they never wrap. These functions are the whole border between the two worlds.
"""

MODULUS = 1 << 32
HALF = 1 << 31


def wrap(position: int, initial: int) -> int:
    """The 32-bit sequence number of `position` on a connection that began at `initial`."""
    return (position + initial) % MODULUS


def unwrap(number: int, initial: int, near: int) -> int:
    """The position of 32-bit `number` that lies nearest to position `near`.

    Numbers up to 2**31 - 1 ahead of `near` and 2**31 behind it are told apart; what is older than
    the connection has a negative position.
    """
    return near + ((number - initial - near + HALF) % MODULUS) - HALF


def wrap_blocks(blocks: tuple[tuple[int, int], ...], initial: int) -> tuple[tuple[int, int], ...]:
    """The 32-bit numbers of both edges of each SACK block."""
    return tuple((wrap(left, initial), wrap(right, initial)) for left, right in blocks)


def unwrap_blocks(
    blocks: tuple[tuple[int, int], ...], initial: int, near: int
) -> tuple[tuple[int, int], ...]:
    """The positions of both edges of each SACK block."""
    return tuple(
        (unwrap(left, initial, near), unwrap(right, initial, near)) for left, right in blocks
    )
