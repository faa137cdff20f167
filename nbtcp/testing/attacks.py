"""What an attacker does, against hosts of a simulation and no others: no packet leaves the program.

    client, server = nbtcp.Simulation().hosts()
    attacks.forge(server, ("10.0.0.9", 1023), 80, "S", seq=1000)

A forger is off the path, or "blind" (RFC 5961 1): it puts whatever it likes into a packet, its
source address too, and sees no answer.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..links.path import Path
from ..runtime.host import Host
from ..simulation import Simulation, Transfer
from ..stack import Stack
from ..wire.segment import FLAG_LETTERS, Segment, build, pack_flow
from ..wire.seq import MODULUS

if TYPE_CHECKING:
    from ..trace.picture import Picture

SECOND = 1_000_000_000


def forge(
    host: Host,
    source: tuple[str, int],
    port: int,
    flags: str,
    seq: int,
    ack: int = 0,
    data: bytes = b"",
    **fields: Any,
) -> None:
    """`host` gets a segment at `port` that says it comes from `source`, (address, port).

    `flags` as scapy writes them ("SA"), `seq` and `ack` as on the wire, modulo 2**32; `fields` are
    others of wire.segment.Segment. Raises ValueError when the host is no simulated one.
    """
    if host.loop.in_real_time:
        raise ValueError("this is for simulated hosts, as nbtcp.Simulation().hosts() makes them")
    bits = sum(1 << FLAG_LETTERS.index(letter) for letter in flags)
    flow = pack_flow(source, (host.address, port))
    segment = Segment(flow, bits, seq % MODULUS, ack % MODULUS, 65535, data)
    for name, value in fields.items():
        setattr(segment, name, value)
    with host.loop.lock:
        host.stack.receive(build(segment), host.loop.now())
        host.loop.flush()


def number_as_in_1985(stack: Stack) -> None:
    """From now on `stack` takes its initial sequence numbers from one counter for all connections,
    which gains 128 each second and 64 with each connection, as 4.2BSD did (Bellovin 1989).
    """
    opened = 0

    def isn(flow: bytes, now: int) -> int:
        nonlocal opened
        opened += 1
        return (1_000_000 + now // SECOND * 128 + opened * 64) % MODULUS

    stack._initial_sequence_number = isn  # type: ignore[method-assign]


def impersonate(client: Host, server: Host, trusted: tuple[str, int], data: bytes) -> None:
    """Open a connection to port 80 of `server` in the name of `trusted`, (address, port), without
    seeing an answer, and send `data` (Morris 1985).

    The `client` connects under its own name first, to see one initial sequence number; the next one
    is taken to be that of 4.2BSD, 64 above it.
    """
    with client.connect((server.address, 80), timeout=1.0) as own:
        conn = own.connection
        assert conn is not None
        guess = conn.tcb.rcv.irs + 64
    forge(server, trusted, 80, "S", seq=5000)
    forge(server, trusted, 80, "A", seq=5001, ack=guess + 1)
    forge(server, trusted, 80, "PA", seq=5001, ack=guess + 1, data=data)
    client.wait(0.2)


def download(
    path: Path, octets: int, *, step: int = 0, every: float = 0.005, limit: float = 10.0
) -> Transfer:
    """The server sends `octets` to the client over `path`, with Reno.

    With a `step` the client lies: from the start it acknowledges so many octets more every `every`
    seconds, whether they are here or not (Savage and others 1999, 2.3). Until all is here, or
    `limit` seconds are over.
    """
    sim = Simulation(up=Path(delay=path.delay), down=path)
    client, server = sim.hosts(
        timestamps=False, autotune=False, congestion="reno", send_buffer=max(octets, 1)
    )
    listener, loop = server.listen(80), client.loop
    ours = client.connect((server.address, 80))
    conn = ours.connection
    assert conn is not None
    listener.accept()[0].sendall(bytes(octets))
    began, end, lie, got = loop.now(), octets + 1, 1, 0
    while got < octets and loop.now() - began < limit * SECOND:
        client.wait(every)
        if step and lie < end:
            lie = min(lie + step, end)
            seq, ack = conn.tcb.snd.iss + conn.tcb.snd.nxt, conn.tcb.rcv.irs + lie
            forge(server, ours.getsockname(), 80, "A", seq, ack)
        with loop.lock:
            got += len(conn.recv(octets, loop.now()))
    return Transfer(got, (loop.now() - began) / SECOND, got == octets, client.log)


def steps(numbers: Sequence[int], name: str) -> "Picture":
    """Each step from one initial sequence number to the next against the step before it, as
    Zalewski (2001) drew them: what can be predicted gathers in points, what cannot fills the
    square. `data` has before and after, in 2**32 as of a circle: -0.5 to 0.5.
    """
    import pandas as pd

    from ..trace.picture import Picture, new_axes

    turns = [
        ((after - before + MODULUS // 2) % MODULUS - MODULUS // 2) / MODULUS
        for before, after in pairwise(numbers)
    ]
    data = pd.DataFrame({"before": turns[:-1], "after": turns[1:]})
    ax = new_axes(5.5, 5)
    ax.plot(data["before"], data["after"], ".", color="#0072B2", markersize=5)
    ax.set(xlim=(-0.52, 0.52), ylim=(-0.52, 0.52), aspect="equal")
    ax.set(xlabel="one step (of 2³²)", ylabel="the next step (of 2³²)")
    title = f"{name}: {len(numbers)} initial sequence numbers"
    ax.set_title(title, loc="left")
    return Picture(ax, data, f"steps of initial sequence numbers: {len(data)} points", title)
