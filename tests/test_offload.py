"""Segmentation offload: packets of 64 KiB with a virtio-net header.

They meet a scripted peer, a device that cuts them in simulation, and the kernel in the lab.
"""

import hashlib
import json
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import pytest
from device import cut
from hypothesis import given
from hypothesis import strategies as st
from peer import established

import nbtcp
from nbtcp import Config, ConfigError, EventLog, Stack
from nbtcp.inside import content
from nbtcp.links.path import Path, Pipe
from nbtcp.runtime.host import Host
from nbtcp.why import Why
from nbtcp.wire import segment as plain
from nbtcp.wire import vnet
from nbtcp.wire.ip import WireError, ones_sum
from nbtcp.wire.segment import ACK, CWR, Segment, pack_flow

FLOWS = [
    pack_flow(("10.0.0.2", 40000), ("10.0.0.1", 80)),
    pack_flow(("fd00::2", 40000), ("fd00::1", 80)),
]
OFFLOAD = Config(offload=True)


# --- the header (virtio 1.2, 5.1.6) ---


def header(flags: int, gso_type: int = 0, gso_size: int = 0, csum_offset: int = 16) -> bytes:
    return struct.pack("<BBHHHH", flags, gso_type, 0, gso_size, 20, csum_offset)


@pytest.mark.parametrize(("flow", "gso_type", "at"), [(FLOWS[0], 1, 20), (FLOWS[1], 4, 40)])
@pytest.mark.parametrize(("flags", "ecn"), [(ACK, 0), (ACK | CWR, 0x80)])
def test_the_header_of_what_the_device_cuts(
    flow: bytes, gso_type: int, at: int, flags: int, ecn: int
) -> None:
    packet = vnet.build(Segment(flow, flags, 1, 2, 3, bytes(3000), tsval=1, gso_size=1000))
    fields = struct.unpack_from("<BBHHHH", packet)
    assert fields == (vnet.NEEDS_CSUM, gso_type | ecn, at + 32, 1000, at, 16)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_segment_of_one_is_not_cut(flow: bytes) -> None:
    packet = vnet.build(Segment(flow, ACK, 1, 2, 3, bytes(1000)))
    assert struct.unpack_from("<BBxxH", packet) == (vnet.NEEDS_CSUM, 0, 0)


@pytest.mark.parametrize("flow", FLOWS)
@given(data=st.binary(max_size=200), seq=st.integers(0, 2**32 - 1))
def test_a_partial_checksum_completes_to_the_whole_one(flow: bytes, data: bytes, seq: int) -> None:
    """What the device does: the sum from csum_start on, the field's content included, inverted."""
    segment = Segment(flow, ACK, seq, 7, 1000, data, tsval=5, tsecr=6)
    packet = bytearray(vnet.build(segment))
    start, offset = struct.unpack_from("<6xHH", packet)
    del packet[: vnet.LENGTH]
    made = -ones_sum(bytes(packet[start:])) % 65535
    packet[start + offset : start + offset + 2] = made.to_bytes(2, "big")
    assert plain.parse(bytes(packet)) == segment


@pytest.mark.parametrize("flow", FLOWS)
@given(octets=st.integers(0, 65_000), size=st.integers(1, 65_535), flags=st.integers(0, 255))
def test_parse_undoes_build(flow: bytes, octets: int, size: int, flags: int) -> None:
    segment = Segment(flow, flags, 1, 2, 3, bytes(octets), gso_size=size if octets > size else 0)
    assert vnet.parse(vnet.build(segment)) == segment


def test_the_checksum_is_verified_unless_the_header_vouches_for_it() -> None:
    packet = bytearray(plain.build(Segment(FLOWS[0], ACK, 1, 2, 3, b"data")))
    assert vnet.parse(header(0) + packet).data == b"data"
    packet[-1] ^= 1
    with pytest.raises(WireError, match="bad-checksum"):
        vnet.parse(header(0) + packet)
    for flags in (vnet.NEEDS_CSUM, vnet.DATA_VALID):
        assert vnet.parse(header(flags) + packet).data == b"dat`"


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"", Why.MALFORMED),
        (bytes(9), Why.MALFORMED),
        (bytes(10), Why.NOT_TCP),  # nothing behind it
        (header(1, gso_type=1), Why.MALFORMED),  # to be cut in nothing
        (header(1, gso_size=1000), Why.MALFORMED),
        (header(1, gso_type=3, gso_size=1000), Why.NOT_TCP),  # UDP
        (header(1, csum_offset=6), Why.MALFORMED),  # UDP's
    ],
)
def test_headers_that_say_nothing_good(head: bytes, why: Why) -> None:
    packet = plain.build(Segment(FLOWS[0], ACK, 1, 2, 3)) if len(head) == 10 and any(head) else b""
    with pytest.raises(WireError) as problem:
        vnet.parse(head + packet)
    assert problem.value.why is why


@given(head=st.binary(max_size=12), tail=st.sampled_from([b"", *FLOWS]))
def test_any_header_gives_a_segment_or_a_wire_error(head: bytes, tail: bytes) -> None:
    packet = plain.build(Segment(tail, ACK, 1, 2, 3, bytes(50), tsval=1)) if tail else b""
    try:
        vnet.parse(head + packet)
    except WireError:
        return
    assert len(head) >= vnet.LENGTH


@given(packet=st.binary(max_size=120))
def test_a_stack_survives_any_octets(packet: bytes) -> None:
    stack = Stack("10.0.0.2", seed=1, observer=EventLog(), config=OFFLOAD)
    stack.receive(packet, 0)
    stack.receive(vnet.build(Segment(FLOWS[0], ACK, 1, 2, 3))[: vnet.LENGTH] + packet, 0)
    stack.transmit(0)


# --- what cannot be ---


def test_offload_is_not_for_scapy_nor_for_one_connection() -> None:
    with pytest.raises(ConfigError, match="codec='scapy' cannot do offload=True"):
        Config(offload=True, codec="scapy")
    stack = Stack("10.0.0.2", seed=1)
    with pytest.raises(ConfigError, match="offload is a setting of the whole host"):
        stack.connect(("10.0.0.1", 80), 0, config=OFFLOAD)


def test_corruption_would_pass_unnoticed() -> None:
    damaging = Path(corrupt=0.01)
    with pytest.raises(ConfigError, match="corrupt= cannot be with offload=True: checksums are"):
        nbtcp.Simulation(damaging).transfer(1, offload=True)
    for paths in ({"path": damaging}, {"up": damaging}, {"down": damaging}):
        with pytest.raises(ConfigError, match="corrupt="):
            nbtcp.Lab(**paths, config=OFFLOAD)


# --- how much goes into one (output.py) ---


def fast(**settings: Any) -> Any:
    """cwnd is 80 segments of 1000 octets, so one that the device cuts holds 10 at most."""
    given = {"mss": 1000, "cwnd": 80_000, "wscale": 4, "rtt": 0.05, **settings}
    return established(offload=True, **given)


def test_whole_segments_go_together_up_to_an_eighth_of_cwnd() -> None:
    peer = fast()
    peer.app_writes(25_500)
    peer.expect(
        ". 1:10001(10000)", ". 10001:20001(10000)", ". 20001:25001(5000)", "P. 25001:25501(500)"
    )
    assert [segment.gso_size for segment in peer.segments[-4:]] == [1000, 1000, 1000, 0]


def test_at_most_64_kib_go_together() -> None:
    peer = established(mss=1460, cwnd=10_000_000, wscale=8, offload=True)
    peer.acks(1)  # SYNs have no scaled window
    peer.app_writes(70_000)
    peer.expect(". 1:64241(64240)", ". 64241:68621(4380)", "P. 68621:70001(1380)")


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_largest_is_an_ip_packet_still(ipv6: bool) -> None:
    mss = 65_435
    peer = established(
        mss=mss, cwnd=10_000_000, wscale=8, tsval=1, offload=True, ipv6=ipv6, send_buffer=1 << 22
    )
    peer.app_writes(1_000_000)
    assert peer.sent()
    assert max(map(len, peer.packets)) <= 65_535


def test_the_window_limits_it_to_whole_segments() -> None:
    """And the silly-window avoidance holds what is left (RFC 9293 MUST-38)."""
    peer = fast(wscale=None, win=12_500)
    peer.app_writes(25_500)
    peer.expect(". 1:10001(10000)", ". 10001:12001(2000)")
    peer.acks(10_001)
    peer.expect(". 12001:22001(10000)")


def test_a_small_cwnd_sends_single_segments() -> None:
    peer = fast(cwnd=4000)
    peer.app_writes(10_000)
    peer.expect(". 1:1001(1000)", ". 1001:2001(1000)", ". 2001:3001(1000)", ". 3001:4001(1000)")


def test_nagle_holds_the_rest_of_a_write() -> None:
    """RFC 9293 SHLD-7."""
    peer = fast()
    peer.app_writes(10)
    peer.app_writes(2500)
    peer.expect("P. 1:11(10)", ". 11:2011(2000)")
    peer.acks(11)
    peer.expect("P. 2011:2511(500)")


def test_the_fin_goes_with_the_last_of_them() -> None:
    peer = fast()
    with peer.batch():
        peer.app_writes(5000)
        peer.app_shuts_down()
    peer.expect("FP. 1:5001(5000)")
    peer.acks(5002)
    assert peer.state is nbtcp.State.FIN_WAIT_2


def test_urgent_data_goes_in_single_segments() -> None:
    """RFC 9293 MUST-62: the pointer counts from each segment's own number."""
    peer = fast()
    with peer.batch():
        peer.app_writes(1500)
        peer.app_writes(1, urgent=True)
        peer.app_writes(3499)
    peer.expect(".U 1:1001(1000)", ".U 1001:2001(1000)", "P. 2001:5001(3000)")
    assert [segment.urgent for segment in peer.segments[-3:]] == [1501, 501, 0]


def test_bbr_sends_no_more_at_once_than_its_quantum() -> None:
    """draft-ietf-ccwg-bbr-06 5.6.3: 1 ms at the pacing rate, two segments at least."""
    peer = fast(congestion="bbr", rtt=0.1, cwnd=160_000)  # 2.77 * 160000 / 0.1 = 4.4 MB/s
    peer.app_writes(60_000)
    peer.expect(". 1:4001(4000)")
    peer.wait(0.01)
    sizes = [len(segment.data) for segment in peer.segments if segment.data]
    assert max(sizes) == 4000
    assert 40_000 <= sum(sizes) <= 0.01 * 4.5e6 + 4000


# --- what is lost of it ---


def test_only_what_the_peer_lacks_of_it_is_sent_again() -> None:
    """RFC 2018 5.1: the device has cut the segment, and the network has lost two of its parts."""
    peer = fast(sack=True)
    peer.app_writes(20_000)
    peer.expect(". 1:10001(10000)", "P. 10001:20001(10000)")
    peer.wait(0.05)
    with peer.batch():
        peer.acks(3001)
        peer.acks(3001, sack="4001:8001")
        peer.acks(3001, sack="9001:20001 4001:8001")
    peer.expect(". 3001:4001(1000) why rack", ". 8001:9001(1000) why rack")
    peer.acks(20_001)
    assert not peer.conn.queue.spans


def test_an_edge_between_the_cuts_divides_nothing() -> None:
    """No peer can make us keep book of single octets."""
    peer = fast(sack=True)
    peer.app_writes(10_000)
    peer.expect("P. 1:10001(10000)")
    for position in range(2, 1000):
        peer.acks(1, sack=f"{position}:{position + 1}")
    assert len(peer.conn.queue.spans) == 1


def test_a_tail_loss_probe_is_one_segment() -> None:
    """RFC 8985 7.3."""
    peer = fast(sack=True)
    peer.app_writes(20_000)
    peer.expect(". 1:10001(10000)", "P. 10001:20001(10000)")
    peer.expect_after(0.1, "P. 19001:20001(1000) why tail-loss-probe")


def test_after_a_timeout_one_segment_goes_again() -> None:
    """RFC 5681 3.1: cwnd is one SMSS; the rest follows as it grows."""
    peer = fast(sack=True, recovery="sack")
    peer.app_writes(20_000)
    peer.expect(". 1:10001(10000)", "P. 10001:20001(10000)")
    peer.expect_after(0.2, ". 1:1001(1000) why timeout")
    peer.wait(0.05)
    peer.acks(1001)
    peer.expect(". 1001:2001(1000) why go-back-n", ". 2001:3001(1000) why go-back-n")


@pytest.mark.parametrize("recovery", ["newreno", "reno"])
def test_three_duplicates_send_one_segment_again(recovery: str) -> None:
    """RFC 5681 3.2 step 3: what seems lost is one segment, whatever it was built with."""
    peer = fast(recovery=recovery)
    peer.acks(1)  # SYNs have no scaled window
    peer.app_writes(20_000)
    peer.expect(". 1:10001(10000)", "P. 10001:20001(10000)")
    with peer.batch():
        for _ in range(3):
            peer.acks(1)
    peer.expect(". 1:1001(1000) why fast-retransmit")


def test_a_rescue_is_one_segment() -> None:
    """RFC 6675 4, NextSeg rule 4: the last one."""
    peer = fast(sack=True, recovery="sack")
    peer.app_writes(20_000)
    peer.expect(". 1:10001(10000)", "P. 10001:20001(10000)")
    with peer.batch():
        peer.acks(1, sack="4001:7001")
    peer.sent()
    peer.wait(0.05)
    peer.acks(11_001)
    assert any(text.startswith("P. 19001:20001(1000)") for text in peer.sent())


def test_a_window_probe_is_one_segment() -> None:
    """The peer has taken its window back (RFC 9293 SHLD-15) with much on the way."""
    peer = fast(wscale=None, win=30_000)
    peer.app_writes(20_000)
    peer.expect(". 1:10001(10000)", "P. 10001:20001(10000)")
    peer.acks(1, win=0)
    peer.expect_after(0.2, ". 1:1001(1000) why window-probe")


def test_a_smaller_path_divides_what_is_out() -> None:
    """RFC 1191 6.5: what was too large goes again in parts."""
    peer = fast(mss=1460)
    peer.app_writes(8760)
    peer.expect("P. 1:8761(8760)")
    assert peer.reports(3, 4, mtu=1500 - 500) == "packet-too-big"
    sent = peer.sent()
    assert len(sent) == 10
    assert all("(960)" in text for text in sent[:9])


# --- what comes in ---


def test_two_segments_in_one_are_acknowledged_at_once() -> None:
    """RFC 9293 SHLD-19: the header says how large the peer's segments are."""
    peer = established(offload=True)
    peer.sends(". 1:2001(2000)", gso_size=1000)
    peer.expect(". 1:1 ack 2001 why ack")
    peer.sends(". 2001:3001(1000)")
    peer.expect()
    peer.sends(". 3001:4001(1000)")
    peer.expect(". 1:1 ack 4001 why ack")


def test_one_of_64_kib_is_taken_like_any_other() -> None:
    peer = established(offload=True)
    assert peer.sends("P. 1:60001(60000)", gso_size=1000) == "in-order"
    assert peer.app_reads() == 60_000


# --- a device that cuts, in simulation ---


class Device(Pipe):
    """A network behind a device that cuts."""

    def send(self, packet: bytes, now: int) -> None:
        for part in cut(vnet.parse(packet)):
            super().send(vnet.build(part), now)


ROADS = {
    "clean": Path(delay=0.02, rate=50e6, queue=200),
    "lossy": Path(delay=0.02, rate=50e6, queue=200, loss=0.005, seed=3),
    "shallow": Path(delay=0.02, rate=50e6, queue=40),
    "disordered": Path(delay=0.02, rate=50e6, queue=200, reorder=0.01, seed=3),
    "marked": Path(delay=0.02, rate=50e6, queue=200, mark=30),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("road", "recovery"),
    [
        *((road, "rack") for road in ROADS),
        *(("shallow", recovery) for recovery in ("sack", "newreno", "reno", "tahoe")),
    ],
)
def test_a_device_that_cuts_changes_nothing(
    road: str, recovery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss recovery works on segments, whatever was built as one: the same throughput, the same
    octets sent again.
    """

    def run(offload: bool) -> tuple[float, int, int]:
        simulation = nbtcp.Simulation(ROADS[road], seed=1)
        transfer = simulation.transfer(3_000_000, ecn="ask", offload=offload, recovery=recovery)
        assert transfer.complete
        rows = transfer.log.segments
        sent = rows[(rows.event == "send") & (rows.len > 0)]
        return transfer.throughput, sent.len.sum() - 3_000_000, sent.len.max()

    without = run(offload=False)

    def pipe(host: Host, path: Path | None, direction: str) -> Pipe:
        return Device(path or Path(), direction, host.drop, host.queued, host.stack.header)

    monkeypatch.setattr(Host, "pipe", pipe)
    throughput, again, largest = run(offload=True)
    assert largest > 2 * 1448
    assert throughput == pytest.approx(without[0], rel=0.1)
    assert again <= 1.25 * without[1] + 30_000


def test_two_of_our_hosts_offload_to_each_other() -> None:
    """And a path loses and marks whole packets, which its log shows."""
    path = Path(delay=0.01, rate=100e6, queue=50, mark=20, loss=0.01, seed=1)
    simulation = nbtcp.Simulation(path, seed=5, config=OFFLOAD.but(ecn="ask"))
    runs = [simulation.transfer(3_000_000) for _ in range(2)]
    assert bytes(runs[0].log) == bytes(runs[1].log)
    assert runs[0].complete
    rows = runs[0].log.segments
    assert rows.len.max() > 2 * 1448
    assert (rows[rows.event == "drop"].len > 1448).any()
    flags = set("".join(rows["flags"].astype(str)))
    assert {"C", "E"} <= flags


# --- the kernel ---


@pytest.fixture(scope="module")
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab(seed=1, config=OFFLOAD) as lab:
        yield lab
        assert_content(lab)


def assert_content(lab: nbtcp.Lab) -> None:
    """The kernel saw no bad segment and no bad checksum, and its device took all."""
    counters = lab.counters()["Tcp"]
    assert counters["InErrs"] == counters["InCsumErrors"] == 0
    assert lab.namespace.tun.refused == 0


def sha256_of(octets: int) -> str:
    return hashlib.sha256(b"".join(content(octets))).hexdigest()


def largest(log: EventLog, event: str) -> int:
    rows = log.segments
    return int(rows[rows.event == event].len.max())


def upload(lab: nbtcp.Lab, octets: int, address: str, **settings: Any) -> EventLog:
    """POST so many octets to the kernel's server, which must find what we have sent."""
    head = f"POST /sink HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {octets}\r\n"
    log = lab.new_log()
    with lab.connect((address, 80), 10, log=log, **settings) as sock:
        sock.settimeout(60)
        sock.sendall(f"{head}\r\n".encode())
        sock.sendall(b"".join(content(octets)))
        answer = sock.makefile("rb").read()
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told == {"bytes": octets, "sha256": sha256_of(octets)}
    lab.settle(log)
    return log


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernels_octets_come_in_large_segments(lab: nbtcp.Lab, family: int) -> None:
    page = lab.fetch("/bytes/5000000", family=family)
    assert hashlib.sha256(page.content).hexdigest() == sha256_of(5_000_000)
    assert largest(page.log, "recv") > 2 * 1448
    rows = page.log.segments
    assert not set(rows.why) & {"bad-checksum", "malformed"}
    mine = rows[(rows.event == "send") & rows.why.isin(["ack", "delayed-ack"])]
    assert len(mine) <= (rows.event == "recv").sum()  # one for each at most


@pytest.mark.root
@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_takes_our_large_segments(lab: nbtcp.Lab, family: int, congestion: str) -> None:
    address = lab.kernel_address if family == 4 else lab.kernel_address6
    log = upload(lab, 5_000_000, address, congestion=congestion)
    assert largest(log, "send") > 2 * 1420


@pytest.mark.root
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_repairs_and_is_repaired(family: int) -> None:
    """Over a path that loses and marks: recovery, and CWR on what the device is to cut."""
    path = Path(delay=0.002, rate=400e6, mark=12, drop=tuple(range(50, 5000, 150)))
    with nbtcp.Lab(path, seed=1, config=OFFLOAD.but(ecn="ask")) as lab:
        address = lab.kernel_address if family == 4 else lab.kernel_address6
        page = lab.fetch("/bytes/5000000", family=family)
        assert hashlib.sha256(page.content).hexdigest() == sha256_of(5_000_000)
        log = upload(lab, 5_000_000, address)
        rows = log.segments
        assert_content(lab)
    mine = rows[rows.event == "send"]
    assert mine.len.max() > 2 * 1420
    assert (rows.event == "drop").any()
    assert mine["flags"].astype(str).str.contains("C").any()


@pytest.mark.root
def test_urgent_data_reaches_the_kernel(lab: nbtcp.Lab) -> None:
    """RFC 9293 MUST-30, MUST-62."""
    program = (
        "import select, socket; s = socket.create_server(('10.0.0.1', 7));"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1); print('go', flush=True);"
        "c, _ = s.accept(); data = b'';"
        "urgent = select.select([], [], [c], 60)[2]\n"
        "while part := c.recv(1 << 16): data += part\n"
        "print(len(urgent), len(data), data.index(b'!'))"
    )
    server = lab.popen([sys.executable, "-c", program], stdout=-1, text=True)
    assert server.stdout.readline() == "go\n"
    log = lab.new_log()
    with lab.connect((lab.kernel_address, 7), 10, log=log) as sock:
        sock.sendall(bytes(300_000))
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(bytes(300_000))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    assert server.communicate(timeout=60)[0] == "1 600001 300000\n"
    assert largest(log, "send") > 2 * 1448


@pytest.mark.root
def test_the_kernel_connects_to_us(lab: nbtcp.Lab) -> None:
    program = (
        "import socket; s = socket.create_connection(('10.0.0.2', 5)); s.sendall(bytes(2000000));"
        "s.shutdown(1); n = 0\n"
        "while part := s.recv(1 << 16): n += len(part)\n"
        "print(n)"
    )
    with lab.listen(5) as listener:
        client = lab.popen([sys.executable, "-c", program], stdout=-1, text=True)
        sock, _ = listener.accept()
        with sock:
            got = len(sock.makefile("rb").read())
            sock.sendall(bytes(2_000_000))
    assert (got, client.communicate(timeout=60)[0]) == (2_000_000, "2000000\n")


@pytest.mark.root
def test_a_closed_port_is_told_by_the_kernel(lab: nbtcp.Lab) -> None:
    with pytest.raises(ConnectionRefusedError):
        lab.connect((lab.kernel_address, 9), 5)


@pytest.mark.root
def test_a_capture_of_large_segments_is_read_again(lab: nbtcp.Lab, tmp_path: File) -> None:
    """As Linux's captures show them: one packet of 64 KiB."""
    page = lab.fetch("/bytes/3000000")
    back = nbtcp.read_capture(page.log.to_pcapng(tmp_path / "large.pcapng"))
    assert back.segments.len.sum() == page.log.segments.len.sum()
    assert back.segments.len.max() == page.log.segments.len.max() > 2 * 1448
    assert not back.meta["problems"]
