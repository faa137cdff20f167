"""The states of a connection and all transitions between them, as one table (RFC 9293 3.3.2, L-16,
L-17).

`Connection.transition` is the only place where a state changes, and what this table does not hold
cannot happen: `next_state` raises. The state diagram of the notebooks is drawn from the same table.
"""

from ..why import Labelled


class State(Labelled):
    """RFC 9293 3.3.2; `label` is the name as the RFC writes it."""

    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    ESTABLISHED = 4
    FIN_WAIT_1 = 5
    FIN_WAIT_2 = 6
    CLOSE_WAIT = 7
    CLOSING = 8
    LAST_ACK = 9
    TIME_WAIT = 10

    def __init__(self, value: int) -> None:
        self.label = self._name_.replace("_", "-")


class Cause(Labelled):
    """What makes a state change: a call, a segment, a timer."""

    PASSIVE_OPEN = 0
    ACTIVE_OPEN = 1
    RCV_SYN = 2
    RCV_SYN_ACK = 3  # a SYN that also acknowledges ours
    RCV_ACK_OF_SYN = 4
    CLOSE = 5
    RCV_FIN = 6
    RCV_ACK_OF_FIN = 7
    TIME_WAIT_OVER = 8
    RCV_RST = 9
    BACK_TO_LISTEN = 10  # a RST, a second SYN or a hard ICMP error in a passive SYN-RECEIVED
    ABORT = 11
    TIMEOUT = 12  # R2 reached, or nobody left to wait for the peer's FIN
    RCV_ICMP = 13  # a hard error about our SYN


class ImpossibleTransitionError(AssertionError):
    """The code asked for an edge that the table does not have: a bug in nbtcp."""


RECEIVING = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})

TRANSITIONS: dict[tuple[State, Cause], State] = {
    (State.CLOSED, Cause.PASSIVE_OPEN): State.LISTEN,
    (State.CLOSED, Cause.ACTIVE_OPEN): State.SYN_SENT,
    (State.LISTEN, Cause.RCV_SYN): State.SYN_RECEIVED,
    (State.LISTEN, Cause.CLOSE): State.CLOSED,
    (State.SYN_SENT, Cause.RCV_SYN): State.SYN_RECEIVED,  # simultaneous open
    (State.SYN_SENT, Cause.RCV_SYN_ACK): State.ESTABLISHED,
    (State.SYN_SENT, Cause.CLOSE): State.CLOSED,
    (State.SYN_SENT, Cause.RCV_ICMP): State.CLOSED,
    (State.SYN_RECEIVED, Cause.RCV_ACK_OF_SYN): State.ESTABLISHED,
    (State.SYN_RECEIVED, Cause.CLOSE): State.FIN_WAIT_1,
    (State.SYN_RECEIVED, Cause.RCV_ICMP): State.CLOSED,  # after an active open
    (State.SYN_RECEIVED, Cause.BACK_TO_LISTEN): State.LISTEN,
    (State.ESTABLISHED, Cause.CLOSE): State.FIN_WAIT_1,
    (State.ESTABLISHED, Cause.RCV_FIN): State.CLOSE_WAIT,
    (State.FIN_WAIT_1, Cause.RCV_ACK_OF_FIN): State.FIN_WAIT_2,
    (State.FIN_WAIT_1, Cause.RCV_FIN): State.CLOSING,
    (State.FIN_WAIT_2, Cause.RCV_FIN): State.TIME_WAIT,
    (State.CLOSE_WAIT, Cause.CLOSE): State.LAST_ACK,
    (State.CLOSING, Cause.RCV_ACK_OF_FIN): State.TIME_WAIT,
    (State.LAST_ACK, Cause.RCV_ACK_OF_FIN): State.CLOSED,
    (State.TIME_WAIT, Cause.TIME_WAIT_OVER): State.CLOSED,
    # A RST (in SYN-RECEIVED after an active open), the application and R2 end it from everywhere;
    # but a RST does not end TIME-WAIT, or old duplicates could (RFC 1337 3, F1).
    **{
        (state, cause): State.CLOSED
        for state in tuple(State)[State.SYN_SENT :]
        for cause in (Cause.RCV_RST, Cause.ABORT, Cause.TIMEOUT)
        if state is not State.TIME_WAIT or cause is Cause.ABORT
    },
}


def next_state(state: State, cause: Cause) -> State:
    """The state after `cause`; ImpossibleTransitionError when the table has no such edge."""
    try:
        return TRANSITIONS[state, cause]
    except KeyError:
        raise ImpossibleTransitionError(f"{cause.label} in {state.label}") from None
