"""nbtcp.testing.attacks, as notebook 10 uses it: attacks on simulated hosts, and on no others."""

import random
from functools import partial
from itertools import pairwise

import pytest
from loopback import LoopbackHost

from nbtcp import Path, Simulation, State
from nbtcp.testing.attacks import download, forge, impersonate, number_as_in_1985, steps

SIMULATION = Simulation(Path(delay=0.02), seed=1)
COMMAND = b"echo + + >> .rhosts"


def test_forged_is_what_the_host_sees() -> None:
    pair = SIMULATION.pair()
    tcb, peer = pair.client.connection.tcb, pair.client.getpeername()
    attack = partial(forge, pair.host, peer, pair.client.getsockname()[1])
    attack("R", tcb.rcv.irs + tcb.rcv.nxt + 5000)
    last = pair.log.segments.query("host == '10.0.0.1'").tail(2)
    assert list(last["why"]) == ["blind-rst", "challenge-ack"]
    attack("R", tcb.rcv.irs + tcb.rcv.nxt)
    assert pair.client.connection.state is State.CLOSED


def test_a_host_in_real_time_is_not_attacked() -> None:
    with LoopbackHost() as host, pytest.raises(ValueError, match="for simulated hosts"):
        forge(host, ("10.0.0.9", 1024), 80, "S", 0)


def test_a_cookie_that_says_it_is_older_than_the_clock_is_none() -> None:
    """A stack never raises, whatever the bytes; its clock may begin at 0."""
    _, server = SIMULATION.hosts()
    server.listen(80, backlog=1)
    forge(server, ("10.0.0.9", 1), 80, "S", 0)
    forge(server, ("10.0.0.9", 2), 80, "S", 0)  # from now on ACKs may bring cookies
    for age in range(32):
        forge(server, ("10.0.0.9", 3), 80, "A", 1, (-age % 32 << 27) + 1)
    assert len(server.stack.connections) == 1
    assert list(server.log.segments["flags"].tail(2)) == ["A", "R"]


@pytest.mark.parametrize("old", [True, False])
def test_a_number_that_can_be_guessed_lets_strangers_in(old: bool) -> None:
    client, server = SIMULATION.hosts()
    if old:
        number_as_in_1985(server.stack)
    listener = server.listen(80)
    impersonate(client, server, ("10.0.0.9", 1023), COMMAND)
    accepted = [listener.accept() for _ in range(1 + old)]
    strangers = [sock.recv(100) for sock, peer in accepted if peer == ("10.0.0.9", 1023)]
    assert strangers == [COMMAND] * old


def test_numbers_of_1985_advance_by_128_a_second_and_64_a_connection() -> None:
    client, server = SIMULATION.hosts()
    number_as_in_1985(server.stack)
    listener, numbers = server.listen(80), []
    for _ in range(3):
        numbers.append(client.connect((server.address, 80)).connection.tcb.rcv.irs)
        listener.accept()
        client.wait(1 - 0.06)
    assert [after - before for before, after in pairwise(numbers)] == [192, 192]


def test_who_acknowledges_what_is_not_here_yet_is_faster() -> None:
    path = Path(delay=0.1, rate=100e6)
    honest, liar = download(path, 300_000), download(path, 300_000, step=14_600)
    assert honest.complete and liar.complete
    assert liar.duration < honest.duration / 2
    assert set(liar.log.segments["why"]) & {"ack-unsent", "timeout"} == set()


def test_steps_are_of_the_circle() -> None:
    picture = steps([2**32 - 2**30, 0, 2**30, 2**30 - 2**29], "some")
    assert picture.data.to_numpy().tolist() == [[0.25, 0.25], [0.25, -0.125]]
    assert repr(picture) == "<steps of initial sequence numbers: 2 points>"
    scattered = steps([random.Random(seed).randrange(2**32) for seed in range(50)], "random")
    assert scattered.data.abs().to_numpy().max() <= 0.5
