"""Traps that other TCPs fell into, one test for each; the name says which, the docstring who.

Some have longer tests elsewhere. Here they stand together, so that each can be found.
"""

import pytest
from peer import Peer, established, twice  # noqa: F401

from nbtcp import Lab, Path, Simulation, Stack, State
from nbtcp.wire.segment import parse

SECOND = 1_000_000_000


def sending(segments: int, **options: object) -> Peer:
    """`segments` of 1000 octets are in flight."""
    peer = established(mss=1000, cwnd=segments * 1000, **options)  # type: ignore[arg-type]
    peer.app_writes(segments * 1000)
    assert len(peer.sent()) == segments
    return peer


def test_a_rst_is_never_answered_with_a_rst() -> None:
    """PyTCP #5 looped for ever."""
    peer = Peer()
    for flags in ("R", "R.", "SR", "FR."):
        peer.sends(f"{flags} 0:0 ack 5")  # to a port where nobody is
        peer.expect()
    for flags in ("R", "R."):
        peer = established()
        for at in (1, 2, 90_000):  # exactly right, in the window, outside
            peer.sends(f"{flags} {at}:{at} ack 1")
            assert not [segment for segment in peer.sent() if segment.startswith("R")]


def test_a_challenge_ack_carries_snd_nxt_and_rcv_nxt_not_the_attackers_numbers() -> None:
    """FreeRTOS-Plus-TCP #1235 looped."""
    peer = sending(2)
    peer.sends("S 5000:5000 ack 77 win 1")
    peer.expect(". 2001:2001(0) ack 1 why challenge-ack")
    peer.sends("R 5000:5000 ack 77 win 1")
    peer.expect(". 2001:2001(0) ack 1 why challenge-ack")


def test_a_listening_socket_does_not_swallow_a_rst_meant_for_another_connection() -> None:
    """smoltcp #1058."""
    peer = established(passive=True)
    assert peer.sends("R 1:1") == "rst"
    assert peer.state is State.CLOSED
    assert not peer.listener.closed


def test_a_window_update_is_not_a_duplicate_ack() -> None:
    peer = sending(5)
    for more in range(1, 6):
        assert peer.acks(1, win=65_000 + more) == "window-update"
    peer.expect()


def test_the_sequence_number_is_checked_before_the_ack_so_an_old_ack_still_carries_its_data() -> (
    None
):
    """Smoltcp loses it."""
    peer = sending(2)
    peer.acks(2001)
    peer.sends("1:501 ack 1001")
    peer.wait(0.1)
    assert peer.app_reads() == 500


def test_an_rtt_sample_uses_the_time_at_which_the_ack_arrived() -> None:
    """Not that at which it was processed (gVisor): here both are the `now` of `receive`."""
    peer = sending(1, rtt=0.1)
    peer.wait(0.1)
    with peer.batch():
        peer.acks(1001)
        peer.wait(0.04)  # nobody looks at it for a while
    assert peer.conn.rtt.srtt == 100_000_000


def test_a_zero_window_is_probed_with_one_octet() -> None:
    """Linux may leave a probe without data unanswered (gVisor #10243)."""
    peer = established(mss=1000, win=0)
    peer.app_writes(3000)
    peer.expect()
    peer.expect_after(0.2, "1:2(1) why window-probe")


@pytest.mark.slow
@pytest.mark.root
def test_the_kernel_answers_our_zero_window_probe() -> None:
    """The same with the kernel at the other end, which reads nothing for a while."""
    program = (
        "import socket, sys\n"
        "s = socket.socket()\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n"
        "s.bind(('10.0.0.1', 7000)); s.listen()\n"
        "print('ready', flush=True)\n"
        "c, _ = s.accept(); sys.stdin.readline(); n = 0\n"
        "while d := c.recv(65536): n += len(d)\n"
        "print(n, flush=True)\n"
    )
    import subprocess
    import sys

    with Lab(seed=1) as lab:
        argv = [sys.executable, "-c", program]
        pipe = subprocess.PIPE
        with lab.popen(argv, stdin=pipe, stdout=pipe) as kernel:
            assert kernel.stdin is not None and kernel.stdout is not None
            kernel.stdout.readline()
            log = lab.new_log()
            with lab.connect(("10.0.0.1", 7000), 10, log=log) as sock:
                sock.settimeout(20)
                sock.sendall(bytes(100_000))
                sock.shutdown(1)
                while "window-probe" not in set(log.segments["why"]):
                    lab.wait(0.01)
                kernel.stdin.write(b"\n")
                kernel.stdin.flush()
                assert kernel.stdout.readline() == b"100000\n"


def test_receiver_silly_window_avoidance_does_not_pull_the_right_edge_left() -> None:
    """PyTCP advertises 0 below one MSS. The peer checks the edge of all that is sent."""
    peer = established(mss=1000, receive_buffer=2500, window_scale=False)
    edges = set()
    for start in range(1, 2500, 300):
        peer.sends(f"{start}:{min(start + 300, 2501)}")
        peer.wait(0.1)
        for segment in peer.sent():
            words = segment.split(" ")
            edges.add(int(words[words.index("ack") + 1]) + int(words[words.index("win") + 1]))
    assert edges == {2501}


def test_the_first_window_probe_comes_after_one_rto() -> None:
    """Not after a fixed second (RFC 9293 SHLD-29)."""
    peer = established(mss=1000, win=0, rtt=0.1)
    peer.app_writes(10)
    peer.expect_after(0.3, "1:2(1) why window-probe")


def test_syns_are_repeated_for_three_minutes() -> None:
    """Six from one second on make about 127 s, less than MUST-23 wants."""
    peer = Peer()
    peer.connects()
    peer.wait(179)
    assert peer.state is State.SYN_SENT
    assert len(peer.sent()) >= 8
    peer.wait(70)
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, TimeoutError)


def test_a_fin_behind_a_hole_waits_until_the_hole_is_filled() -> None:
    peer = established()
    peer.sends("F. 1001:2001")
    peer.expect(". 1:1(0) ack 1")
    assert peer.state is State.ESTABLISHED
    assert not peer.conn.eof
    peer.sends("1:1001")
    peer.expect(". 1:1(0) ack 2002")
    assert peer.state is State.CLOSE_WAIT
    assert peer.app_reads() == 2000


def test_nagle_does_not_hold_back_a_retransmission() -> None:
    peer = established(mss=1000)
    peer.app_writes(10)
    peer.app_writes(10)
    peer.expect("1:11(10)")  # the second one is held
    peer.wait(5)
    assert any("1:11(10)" in segment and "timeout" in segment for segment in peer.sent())


@pytest.mark.parametrize("recovery", ["rack", "sack", "newreno", "reno"])
def test_ssthresh_is_cut_once_per_loss_episode(recovery: str) -> None:
    """Not once per duplicate ACK (smoltcp #1155)."""
    sack = recovery in ("rack", "sack")
    peer = sending(20, recovery=recovery, sack=sack, rtt=0.1, congestion="reno")
    peer.wait(0.1)
    for end in range(2001, 20_001, 1000):
        peer.acks(1, sack=f"1001:{end}" if sack else "")
    assert peer.conn.cc.ssthresh == 10_000


def test_a_timer_is_restarted_only_by_an_ack_of_new_data() -> None:
    """Smoltcp #62: duplicates for ever kept it from firing."""
    peer = sending(2, rtt=0.1)
    for _ in range(2):
        peer.wait(0.14)
        peer.acks(1)
    peer.expect_after(0.02, "1:1001 why timeout")  # 0.3 s after it was sent


@pytest.mark.parametrize("passive", [False, True])
def test_data_riding_on_a_syn_is_queued_not_lost(passive: bool) -> None:
    peer = Peer(timestamps=False)
    if passive:
        peer.listens()
        peer.sends("S 0:500 win 65535 <mss 1000>")
        peer.acks(1)
        peer.listener.accept()
    else:
        peer.connects()
        peer.sends("S. 0:500 ack 1 win 65535 <mss 1000>")
    peer.wait(0.1)
    assert peer.app_reads() == 500


def test_data_riding_with_a_fin_is_queued_not_lost() -> None:
    peer = established()
    peer.sends("F. 1:501")
    peer.expect(". 1:1(0) ack 502")
    assert peer.app_reads() == 500
    assert peer.conn.eof


@pytest.mark.parametrize("iss", [2**32 - 1, 2**32 - 700, 2**31 - 700, 0])
def test_sequence_numbers_wrap(iss: int) -> None:
    """PyTCP and scapy's TCP_client both compare them as plain numbers."""
    peer = established(iss=iss, mss=1000)
    for start in (1001, 501, 1):  # backwards, across the wrap
        peer.sends(f"{start}:{start + 500}")
    assert peer.app_reads() == 1500
    peer.sent()
    # Ours likewise, from the same initial number on.
    peer.conn.tcb.snd.iss, shift = iss, peer.conn.tcb.snd.iss
    peer.irs += iss - shift
    peer.app_writes(3000)
    peer.expect("1:1001", "1001:2001", "2001:3001")
    for ack in (1001, 2001, 3001):
        assert peer.acks(ack) == "ack-new"
    assert not peer.conn.queue.spans


@pytest.mark.slow
@pytest.mark.root
def test_the_kernel_does_not_reset_our_connections() -> None:
    """It does those of a stack on raw sockets that shares its address (scapy #3215, #3627, #2439):
    ours has an address of its own.
    """
    with Lab(seed=1) as lab:
        assert lab.address != lab.kernel_address
        page = lab.fetch("/bytes/100000")
        assert len(page.content) == 100_000
        assert not page.log.segments["flags"].str.contains("R").any()
        assert lab.counters()["Tcp"]["OutRsts"] == 0


def test_two_stacks_on_one_simulated_wire_have_addresses_of_their_own_too() -> None:
    client, server = Simulation(Path()).hosts()
    assert client.address != server.address
    stack = Stack(client.address, seed=1)
    stack.connect((server.address, 80), 0)
    (syn,) = stack.transmit(0)
    assert parse(syn).source[0] == client.address
