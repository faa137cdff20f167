"""The table of transitions: every edge is taken, by a script through the public interface."""

from collections.abc import Callable

import pytest
from peer import Peer, established, twice  # noqa: F401

from nbtcp.tcp.state import TRANSITIONS, Cause, ImpossibleTransitionError, State, next_state


def test_every_edge_of_the_table_has_a_script() -> None:
    assert set(scripts()) == set(TRANSITIONS)


@pytest.mark.parametrize("edge", TRANSITIONS, ids=lambda e: f"{e[0].label} {e[1].label}")
def test_edge_is_taken(edge: tuple[State, Cause]) -> None:
    """RFC 9293 3.3.2."""
    (old, cause), new = edge, TRANSITIONS[edge]
    peer = scripts()[edge]()
    events = peer.log.events
    taken = events[events.event == "state"][["old", "new", "why"]]
    assert (old.label, new.label, cause.label) in set(taken.itertuples(index=False, name=None))


@pytest.mark.parametrize("cause", Cause, ids=lambda c: c.label)
@pytest.mark.parametrize("state", State, ids=lambda s: s.label)
def test_what_the_table_does_not_have_cannot_happen(state: State, cause: Cause) -> None:
    if (state, cause) in TRANSITIONS:
        assert next_state(state, cause) is TRANSITIONS[state, cause]
    else:
        with pytest.raises(ImpossibleTransitionError, match=f"{cause.label} in {state.label}"):
            next_state(state, cause)


@pytest.mark.parametrize("state", list(State)[State.SYN_SENT :], ids=lambda s: s.label)
def test_every_state_can_end(state: State) -> None:
    """From everywhere there is a way to CLOSED; nothing is left then."""
    peer = REACHED[state]()
    assert peer.state is state
    peer.app_aborts()
    assert peer.state is State.CLOSED
    assert peer.stack.deadline() is None
    assert not peer.stack.connections


# --- how to get into a state ---


def syn_sent() -> Peer:
    peer = Peer()
    peer.connects()
    return peer


def syn_received() -> Peer:
    """After an active open."""
    peer = syn_sent()
    peer.sends("S 0:0")
    return peer


def syn_received_passively() -> Peer:
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0")
    return peer


def fin_wait_1() -> Peer:
    peer = established()
    peer.app_shuts_down()
    return peer


def fin_wait_2() -> Peer:
    peer = fin_wait_1()
    peer.acks(2)
    return peer


def close_wait() -> Peer:
    peer = established()
    peer.sends("F. 1:1 ack 1")
    return peer


def closing() -> Peer:
    peer = fin_wait_1()
    peer.sends("F. 1:1 ack 1")
    return peer


def last_ack() -> Peer:
    peer = close_wait()
    peer.app_shuts_down()
    return peer


def time_wait() -> Peer:
    peer = fin_wait_2()
    peer.sends("F. 1:1 ack 2")
    return peer


REACHED: dict[State, Callable[[], Peer]] = {
    State.SYN_SENT: syn_sent,
    State.SYN_RECEIVED: syn_received,
    State.ESTABLISHED: established,
    State.FIN_WAIT_1: fin_wait_1,
    State.FIN_WAIT_2: fin_wait_2,
    State.CLOSE_WAIT: close_wait,
    State.CLOSING: closing,
    State.LAST_ACK: last_ack,
    State.TIME_WAIT: time_wait,
}


# --- what makes it change ---


def rst(peer: Peer) -> None:
    peer.sends("R. 0:0 ack 1" if peer.state is State.SYN_SENT else f"R {peer.nxt}:{peer.nxt}")


def timeout(peer: Peer) -> None:
    """Nobody answers any more, and in FIN-WAIT-2 nobody waits for an answer."""
    if peer.state in (State.ESTABLISHED, State.CLOSE_WAIT):
        peer.app_writes(1)
    elif peer.state is State.FIN_WAIT_2:
        peer.app_closes()
    peer.wait(1000)


def listen_again(peer: Peer) -> None:
    peer.sends("R 1:1")


def close_in_listen(peer: Peer) -> None:
    """A connection that a RST has put back to LISTEN is in that state until the next transmit."""
    with peer.batch():
        peer.sends("R 1:1")
        peer.app_aborts()


def scripts() -> dict[tuple[State, Cause], Callable[[], Peer]]:
    """For every edge a script that takes it."""
    everywhere = {Cause.ABORT: Peer.app_aborts, Cause.RCV_RST: rst, Cause.TIMEOUT: timeout}
    ways: dict[tuple[State, Cause], tuple[Callable[[], Peer], Callable[[Peer], object]]] = {
        (state, cause): (reach, action)
        for state, reach in REACHED.items()
        for cause, action in everywhere.items()
        if state is not State.TIME_WAIT or cause is Cause.ABORT
    }
    ways |= {
        (State.CLOSED, Cause.PASSIVE_OPEN): (Peer, syn_to_listener),
        (State.CLOSED, Cause.ACTIVE_OPEN): (Peer, Peer.connects),
        (State.LISTEN, Cause.RCV_SYN): (Peer, syn_to_listener),
        (State.LISTEN, Cause.CLOSE): (syn_received_passively, close_in_listen),
        (State.SYN_SENT, Cause.RCV_SYN): (syn_sent, lambda p: p.sends("S 0:0")),
        (State.SYN_SENT, Cause.RCV_SYN_ACK): (syn_sent, lambda p: p.sends("S. 0:0 ack 1")),
        (State.SYN_SENT, Cause.CLOSE): (syn_sent, Peer.app_closes),
        (State.SYN_SENT, Cause.RCV_ICMP): (syn_sent, lambda p: p.reports(3, 3)),
        (State.SYN_RECEIVED, Cause.RCV_ACK_OF_SYN): (syn_received, lambda p: p.acks(1)),
        (State.SYN_RECEIVED, Cause.CLOSE): (syn_received, Peer.app_closes),
        (State.SYN_RECEIVED, Cause.RCV_ICMP): (syn_received, lambda p: p.reports(3, 3)),
        (State.SYN_RECEIVED, Cause.BACK_TO_LISTEN): (syn_received_passively, listen_again),
        (State.ESTABLISHED, Cause.CLOSE): (established, Peer.app_closes),
        (State.ESTABLISHED, Cause.RCV_FIN): (established, lambda p: p.sends("F. 1:1 ack 1")),
        (State.FIN_WAIT_1, Cause.RCV_ACK_OF_FIN): (fin_wait_1, lambda p: p.acks(2)),
        (State.FIN_WAIT_1, Cause.RCV_FIN): (fin_wait_1, lambda p: p.sends("F. 1:1 ack 1")),
        (State.FIN_WAIT_2, Cause.RCV_FIN): (fin_wait_2, lambda p: p.sends("F. 1:1 ack 2")),
        (State.CLOSE_WAIT, Cause.CLOSE): (close_wait, Peer.app_closes),
        (State.CLOSING, Cause.RCV_ACK_OF_FIN): (closing, lambda p: p.acks(2)),
        (State.LAST_ACK, Cause.RCV_ACK_OF_FIN): (last_ack, lambda p: p.acks(2)),
        (State.TIME_WAIT, Cause.TIME_WAIT_OVER): (time_wait, lambda p: p.wait(60)),
    }
    return {edge: lambda way=way: acted(*way) for edge, way in ways.items()}  # type: ignore[misc]


def syn_to_listener(peer: Peer) -> None:
    peer.listens()
    peer.sends("S 0:0")


def acted(reach: Callable[[], Peer], action: Callable[[Peer], object]) -> Peer:
    peer = reach()
    action(peer)
    return peer
