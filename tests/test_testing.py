"""nbtcp.testing: scripts are read as people write them, pass when the stack does what they say, and
fail, saying what came, when it does anything else.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbtcp import Config, testing
from nbtcp.runtime.tcp_info import NAMES
from nbtcp.testing import Script, ScriptError, ScriptFailure
from nbtcp.testing.parser import ANY, Call, Code, Command, Icmp, Packet, Time
from nbtcp.wire.segment import ACK, FIN, PSH, SYN

MS = 1_000_000
ROOT = Path(__file__).resolve().parents[1]

HEAD = "--config=recovery=newreno,congestion=reno,sack=False,timestamps=False,window_scale=False\n"
SERVER = """
    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
   +0 bind(3, ..., ...) = 0
   +0 listen(3, 1) = 0
   +0 < S 0:0(0) win 65535 <mss 1000>
   +0 > S. 0:0(0) ack 1 win 65535 <mss 1460>
  +.1 < . 1:1(0) ack 1 win 65535
   +0 accept(3, ..., ...) = 4
"""
WRITES = "+0 write(4, ..., 1000) = 1000\n"


def passes(script: str, head: str = HEAD + SERVER, **settings: Any) -> testing.Result:
    return testing.run(head + script + "\n", Config(**settings))


def fails(script: str, head: str = HEAD + SERVER) -> str:
    with pytest.raises(ScriptFailure) as failure:
        testing.run(head + script + "\n", name="x.pkt")
    message = str(failure.value)
    assert message.startswith("x.pkt:")
    assert "\ntranscript so far\n    0.000000 " in message
    return message


def wrong(script: str) -> str:
    with pytest.raises(ScriptError) as error:
        testing.run(script + "\n", name="x.pkt")
    message = str(error.value)
    assert "\n" not in message
    return message


def actions(text: str) -> list[Any]:
    return [event.action for event in Script.parse(text).events]


def action(text: str) -> Any:
    (found,) = actions(f"0 {text}")
    return found


# --- the notation ---


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("0", Time(0)),
        ("0.100", Time(100 * MS)),
        ("+0", Time(0, relative=True)),
        ("+.1", Time(100 * MS, relative=True)),
        ("+0.05~+0.07", Time(50 * MS, 70 * MS, relative=True)),
        ("1~1.5", Time(1000 * MS, 1500 * MS)),
        ("*", Time(None)),
    ],
)
def test_times(text: str, time: Time) -> None:
    (event,) = Script.parse(f"{text} > . 1:1(0) ack 1").events
    assert event.time == time


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("0.1...0.2", Time(100 * MS, until=200 * MS)),
        ("+0...0.200", Time(0, relative=True, until=200 * MS)),
        ("+.002 ... 0.004", Time(2 * MS, relative=True, until=4 * MS)),
    ],
)
def test_times_of_calls_that_wait(text: str, time: Time) -> None:
    (event,) = Script.parse(f"{text} connect(3, ..., ...) = 0").events
    assert event.time == time


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("S", SYN),
        ("S.", SYN | ACK),
        (".", ACK),
        ("P.", PSH | ACK),
        ("FP.", FIN | PSH | ACK),
        ("-", 0),
        ("SEW", SYN | 64 | 128),
        ("U.", 32 | ACK),
    ],
)
def test_flags(text: str, flags: int) -> None:
    assert action(f"< {text} 1:1(0) ack 1 win 5").flags == flags


def test_a_packet_with_everything() -> None:
    packet = action(
        "< [ce] PE. 1001:2001(1000) ack 5 win 257 urg 9"
        " <mss 1460,sackOK,TS val 100 ecr 0,nop,wscale 7,sack 1:1001 2001:3001,eol>"
    )
    assert packet == Packet(
        True, PSH | ACK | 64, 1001, 2001, 5, 257, 9,
        {"mss": 1460, "sack_permitted": True, "tsval": 100, "tsecr": 0, "wscale": 7,
         "sack": ((1, 1001), (2001, 3001))},
        (3,),
    )  # fmt: skip
    assert action("> . 1:1(0) ack 1 <...>").options is None
    assert action("> . 1:1(0) ack 1").options == {}


@pytest.mark.parametrize(
    "text",
    [
        "< icmp unreachable frag_needed mtu 1200 [1:1461(1460)]",
        "< [1:1461(1460)] icmp unreachable frag_needed mtu 1200",
    ],
)
def test_icmp(text: str) -> None:
    assert action(text) == Icmp("unreachable", "frag_needed", 1200, (1, 1461))


def test_calls() -> None:
    poll = "poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLIN}], 1, -1) = 1"
    assert action(poll) == Call(
        "poll",
        [[{"fd": 4, "events": {"POLLIN", "POLLOUT"}, "revents": {"POLLIN"}}], 1, -1],
        1,
        None,
    )
    connect = "connect(3, {sa_family = AF_INET, sin_port = htons(80),"
    connect += ' sin_addr = inet_addr("192.0.2.9")}, ...) = -1 EINPROGRESS (Operation now)'
    call = action(connect)
    assert call.arguments[1]["sin_port"] == 80
    assert call.arguments[1]["sin_addr"] == "192.0.2.9"
    assert (call.result, call.errno, call.arguments[2]) == (-1, "EINPROGRESS", ANY)


def test_comments_commands_and_code() -> None:
    text = """--tolerance_usecs=100 // a comment
`sysctl -q net.ipv4.tcp_sack=0  # another
true`
/* and
   another */ 0 %{ assert 1 }% # and another
"""
    script = Script.parse(text)
    assert script.options == [(1, "tolerance_usecs", "100")]
    assert [type(event.action) for event in script.events] == [Command, Code]
    assert [event.line for event in script.events] == [2, 5]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0 < X 0:0(0)", "x.pkt:1: found X, expected flags such as S"),
        ("\n0 < S 0:1(0)", "x.pkt:2: found 0, expected the length 1 of 0:1"),
        ("0 < S 0:0(0) win 65536", "found 65536, expected a window below 65536"),
        ("0 < S 0:0(0) <mss 1460,what 3>", "found what, expected one of mss, wscale, sackOK"),
        ("0 < S 0:0(0) <mss>", "found >, expected an MSS"),
        ("0 < . 1:1(0) ack 1 win 5 <sack>", "found >, expected 1 to 4 blocks"),
        ("0 < S 1:1(0) win 5 <...>", "<...> is for > lines"),
        ("0 < . 1:70001(70000)", "at most 65495 octets in one packet"),
        ("0 < . 1:1(0) win 5", "found the end, expected ack and a number"),
        ("0 < . 1:1(0) ack 5\n1 > . 1:1(0)", "x.pkt:2: found 1, expected win and a number"),
        ("0 < [ect3] . 1:1(0)", "found ect3, expected noecn, ect0"),
        ("0 ! 1", "found !, expected <, >, a call"),
        ("0 <", "found the end, expected flags"),
        ("socket() = 3", "found socket, expected a time"),
        ("0 socket(..., SOCK_STREAM", "found the end, expected a comma or )"),
        ("0 socket(...)", "expected = and the result"),
        ("0 close(" + "[" * 999 + "]" * 999 + ") = 0", "expected values such as 3"),
        ("0 close(3, [) = 0", "x.pkt:1: found 3, expected values such as 3, ..., [1], A|B, {fd=4}"),
        ("0 close(3 + 4) = 0", "expected values such as 3"),
        ("0 close(1.5) = 0", "expected values such as 3"),
        ("0 close(9223372036854775808) = 0", "expected values such as 3"),
        ("0 %{ assert ( }%", "expected Python, but "),
        ("* < . 1:1(0) ack 1 win 5", "only a > line may come at any time"),
        ("0~1 close(3) = 0", "only a > line may come at any time"),
        ("0...1 < - 1:1(0) win 5", "only a call has an end time"),
        ("0 > icmp unreachable", "ICMP coming in"),
        ("0 " + "9" * 30 + "(3) = 0", "expected <, >, a call"),
        ("9" * 30 + " close(3) = 0", "expected a time of at most 100000000 s"),
    ],
)
def test_what_is_not_understood_is_said(text: str, complaint: str) -> None:
    message = wrong(text)
    assert message.startswith("x.pkt:")
    assert complaint in message


@pytest.mark.slow
@given(st.text())
@example("0 close({" * 40)
@example("0 %{ \0 }%")
@example("--a=b\n* > ٣:3(0)")
def test_any_text_gives_a_script_or_an_error(text: str) -> None:
    try:
        Script.parse(text)
    except ScriptError as error:
        assert str(error).startswith("script:")


PIECES = "0 +.1 * < > S . P. - 0:0(0) 1:1001(1000) ack 1 win 5 <mss 1460> <...> [ect0] icmp mtu"
PIECES += " unreachable socket(...) = 3 close(3) 0.1...0.2 ~ ( ) [ ] { } , | : `true` %{pass}% sack"
PIECES += (
    ' --tolerance_usecs=3 TS val ecr -1 EAGAIN (note) fd=4 0x10 " ... \n // /* */ # 99999999999'
)


@given(st.lists(st.sampled_from(PIECES.split(" ")), max_size=25))
def test_any_pieces_of_a_script_give_a_script_or_an_error(pieces: list[str]) -> None:
    try:
        Script.parse(" ".join(pieces))
    except ScriptError as error:
        assert str(error).startswith("script:")


@pytest.mark.slow
@given(st.lists(st.sampled_from(PIECES.split(" ")), max_size=12))
def test_any_script_runs_or_fails_or_is_wrong(pieces: list[str]) -> None:
    try:
        testing.run(HEAD + SERVER + " ".join(pieces) + "\n")
    except (ScriptError, ScriptFailure) as problem:
        assert str(problem).startswith("script:")


# --- scripts that pass ---


def test_a_script_gives_a_log_and_a_transcript() -> None:
    result = passes(WRITES + "+0 > P. 1:1001(1000) ack 1\n+0 %{ print(tcpi_snd_cwnd) }%")
    assert result.printed == "10\n"
    assert result.transcript.splitlines()[-4:] == [
        "0.100000 write(4, ..., 1000) = 1000",
        "0.100000 > P. 1:1001(1000) ack 1 win 65535",
        "0.100000 %{ print(tcpi_snd_cwnd) }%",
        "0.100000 // 10",
    ]
    (connection,) = result.log.records
    assert connection.opened == "passive"
    again = passes(WRITES + "+0 > P. 1:1001(1000) ack 1\n+0 %{ print(tcpi_snd_cwnd) }%")
    assert bytes(again.log) == bytes(result.log)


def test_a_large_segment_may_come_as_several() -> None:
    passes("+0 write(4, ..., 3500) = 3500\n+0 > P. 1:3501(3500) ack 1")
    passes(
        "+0 write(4, ..., 2000) = 2000\n+0 > . 1:1001(1000) ack 1\n+0 > P. 1001:2001(1000) ack 1"
    )
    message = fails("+0 write(4, ..., 3500) = 3500\n+0 > P. 1:3001(3000) ack 1")
    assert "flags is ., not P." in message
    message = fails("+0 write(4, ..., 2000) = 2000\n+0 > P. 1:3001(3000) ack 1")
    assert "P., not ." in message
    message = fails("+0 write(4, ..., 2000) = 2000\n+0 > P. 1:2501(2500) ack 1\n")
    assert "flags" in message


def test_sack_blocks_are_numbered_as_the_script_has_them() -> None:
    head = "--config=recovery=sack,congestion=reno,sack=True,timestamps=False,window_scale=False\n"
    syn = SERVER.replace("<mss 1000>", "<mss 1000,sackOK>").replace(
        "<mss 1460>", "<mss 1460,sackOK>"
    )
    syn = syn.replace("S. 0:0(0)", "S. 500:500(0)").replace(
        "1:1(0) ack 1 win", "1:1(0) ack 501 win"
    )
    data = "+0 write(4, ..., 5000) = 5000\n+0 > P. 501:5501(5000) ack 1\n"
    sack = "+.1 < . 1:1(0) ack 501 win 65535 <sack 1501:2501 3501:4501>\n"
    passes(data + sack + "+0 %{ assert tcpi_sacked == 2 }%", head + syn)
    early = "+0 < . 1001:2001(1000) ack 501 win 9\n+0 > . 501:501(0) ack 1 <sack {}>"
    passes(early.format("1001:2001"), head + syn)
    assert "options are <sack 1001:2001>" in fails(early.format("1001:2002"), head + syn)


def test_a_segment_may_be_late_within_the_tolerance() -> None:
    data = "+0 < P. 1:101(100) ack 1 win 65535\n"
    passes(data + "+.037 > . 1:1(0) ack 101")
    passes(data + "+.043 > . 1:1(0) ack 101")
    passes(data + "+.03~+.05 > . 1:1(0) ack 101\n+.1 < . 101:101(0) ack 1 win 65535")
    passes(data + "* > . 1:1(0) ack 101")
    passes(data + "+.02 > . 1:1(0) ack 101", "--tolerance_usecs=30000\n" + HEAD + SERVER)
    assert "this came 0.005000 s early" in fails(data + "+.045 > . 1:1(0) ack 101")
    message = fails(data + "+.035 > . 1:1(0) ack 101")
    assert "nothing was sent in time; next came\n    0.140000 > . 1:1(0) ack 101" in message


def test_timestamps_are_numbered_as_the_script_has_them() -> None:
    head = HEAD.replace("timestamps=False", "timestamps=True")
    syn = SERVER.replace("<mss 1000>", "<mss 1000,TS val 7 ecr 0>")
    syn = syn.replace("<mss 1460>", "<mss 1460,TS val 100 ecr 7>")
    syn = syn.replace(
        "ack 1 win 65535\n   +0 accept", "ack 1 win 65535 <TS val 8 ecr 100>\n   +0 accept"
    )
    last = "+0 > P. 1:1001(1000) ack 1 <nop,nop,TS val {} ecr 8>"
    passes(WRITES + last.format(200), head + syn)
    passes(WRITES + last.format(999), head + syn)  # as in packetdrill, which does not look
    checked = "--tcp_ts_tick_usecs=1000\n" + head + syn
    passes(WRITES + last.format(203), checked)
    assert "<TS val 200 ecr 8>, not <TS val 210 ecr 8>" in fails(WRITES + last.format(210), checked)
    assert "ecr 8>, not" in fails(WRITES + last.replace("ecr 8", "ecr 9").format(200), head + syn)


def test_silence_can_be_asked_for_less_often() -> None:
    twice = "+0 write(4, ..., 1000) = 1000\n" * 2
    both = "+0 > P. 1:1001(1000) ack 1\n+0 > P. 1001:2001(1000) ack 1\n"
    assert "this was not expected" in fails(twice + both)
    passes(twice + both, "--silence=time\n" + HEAD + SERVER)
    assert "this was not expected" in fails(
        twice + "+1 close(4) = 0", "--silence=time\n" + HEAD + SERVER
    )
    passes(twice + "+.05 < . 1:1(0) ack 2001 win 9", "--silence=off\n" + HEAD + SERVER)
    passes(WRITES + "+0 > . 1:1001(1000) ack 1", "--push=ignore\n" + HEAD + SERVER)


def test_sysctls_change_the_configuration() -> None:
    sysctl = "`sysctl -q net.ipv4.tcp_timestamps=0 net.ipv4.tcp_window_scaling=0`\n"
    script = SERVER.replace("<mss 1000>", "<mss 1000,TS val 7 ecr 0,wscale 7>")
    passes("", sysctl + script)
    paths = "`../common/set_sysctls.py /proc/sys/net/ipv4/tcp_timestamps=0 \\\n"
    paths += '  /proc/sys/net/ipv4/tcp_rmem="4096 131072 15728640"`\n'
    script = SERVER.replace("<mss 1000>", "<mss 1000,wscale 7>")
    passes("", paths + script.replace("<mss 1460>", "<mss 1460,nop,wscale 8>"))
    passes("", "`./defaults.sh\ntc qdisc add dev tun0 root fq`\n" + SERVER)


def test_the_configuration_can_be_given() -> None:
    passes("+0 %{ assert conn.config.initial_rto == 2 }%", initial_rto=2.0)
    passes("+0 %{ assert conn.config.initial_rto == 3 }%", "--config=initial_rto=3\n" + SERVER)


def test_a_script_is_a_path_a_text_or_a_script(tmp_path: Path) -> None:
    path = tmp_path / "x.pkt"
    path.write_text(HEAD + SERVER)
    assert testing.run(path).name == "x.pkt"
    assert testing.run(str(path)).transcript == testing.run(Script.parse(HEAD + SERVER)).transcript
    with pytest.raises(ScriptError, match=r"no\.pkt: cannot be read"):
        testing.run("no.pkt")


def test_the_script_of_the_documentation_passes() -> None:
    script = (ROOT / "docs" / "scripts.md").read_text().split("```")[1]
    assert "TCP_CA_Recovery" in testing.run(script).transcript


def test_socket_options_are_set_and_read() -> None:
    passes("""+0 setsockopt(4, SOL_SOCKET, SO_SNDBUF, [5000], 4) = 0
+0 getsockopt(4, SOL_SOCKET, SO_SNDBUF, [10000], [4]) = 0
+0 setsockopt(4, SOL_TCP, TCP_NODELAY, [1], 4) = 0
+0 getsockopt(4, SOL_TCP, TCP_NODELAY, [1], [4]) = 0
+0 setsockopt(4, SOL_TCP, TCP_USER_TIMEOUT, [2500], 4) = 0
+0 getsockopt(4, SOL_TCP, TCP_USER_TIMEOUT, [2500], [4]) = 0
+0 getsockopt(4, SOL_TCP, TCP_CONGESTION, "reno", [4]) = 0
+0 getsockopt(4, SOL_SOCKET, SO_ERROR, [0], [4]) = 0
+0 %{ assert (conn.queue.capacity, conn.config.nagle) == (5000, False) }%
+0 %{ assert conn.config.user_timeout == 2.5 }%
""")


def test_names_of_tcp_info() -> None:
    names = (
        "state ca_state snd_cwnd snd_ssthresh rto rtt rttvar unacked sacked lost retrans snd_mss"
        " rcv_mss options snd_wscale rcv_wscale probes bytes_acked snd_wnd rcv_wnd advmss"
    )
    asserts = "; ".join(f"assert tcpi_{name} >= 0" for name in names.split())
    passes(f"+0 %{{ {asserts} }}%")
    assert NAMES["TCP_FIN_WAIT1"] == 4
    assert NAMES["TCP_SYN_RECV"] == 3
    assert NAMES["TCP_CLOSE_WAIT"] == 8
    assert "NameError: name 'tcpi_nothing' is not defined" in fails("+0 %{ tcpi_nothing }%")


def test_a_challenged_syn_leaves_the_numbers_alone() -> None:
    syn = "+0 < S 900:900(0) win 5 <mss 9>\n+0 > . 1:1(0) ack 1\n"
    data = "+0 < P. 1:11(10) ack 1 win 9000\n+0 read(4, ..., 99) = 10\n+.04 > . 1:1(0) ack 11"
    passes(syn + data)


def test_what_a_listener_s_socket_says_outlives_a_command() -> None:
    option = "   +0 setsockopt(3, SOL_TCP, TCP_MAXSEG, [700], 4) = 0\n   +0 listen"
    script = SERVER.replace("   +0 listen", option).replace("<mss 1460>", "<mss 700>")
    script = script.replace("   +0 < S", "   +0 `sysctl -q net.ipv4.tcp_sack=0`\n   +0 < S")
    passes("", HEAD + script)


# --- scripts that fail ---


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (WRITES, "x.pkt:at the end\n    this was not expected\n    0.100000 > P. 1:1001(1000)"),
        (WRITES + "+0 < . 1:1(0) ack 1 win 65535", "this was not expected"),
        (WRITES + "+1 < . 1:1(0) ack 1 win 65535", "this was not expected"),
        ("+0 > . 1:1(0) ack 1", "nothing was sent"),
        (WRITES + "+0 > . 1:1001(1000) ack 1", "flags is P., not ."),
        (WRITES + "+0 > P. 2:1002(1000) ack 1", "sequence is 1:1001, not 2:1002"),
        (WRITES + "+0 > P. 1:901(900) ack 1", "sequence is 1:1001, not 1:901"),
        (WRITES + "+0 > P. 1:1001(1000) ack 2", "ack is 1, not 2"),
        (WRITES + "+0 > P. 1:1001(1000) ack 1 win 5", "win is 65535, not 5"),
        (WRITES + "+0 > P. 1:1001(1000) ack 1 urg 5", "urg is 0, not 5"),
        (WRITES + "+0 > [ce] P. 1:1001(1000) ack 1", "the ECN field is 0, not 3"),
        (WRITES + "+0 > P. 1:1001(1000) ack 1 <mss 5>", "options are <>, not <mss 5>"),
        ("+0 write(4, ..., 1000) = 999", "returned 1000"),
        ("+0 close(9) = 0", "returned -1 EBADF"),
        ("+0 recv(4, ..., 9, MSG_DONTWAIT) = -1 EPIPE (Broken pipe)", "returned -1 EAGAIN"),
        ("+0 read(4, ..., 9) = 9", "waits; say when it returns"),
        ("+0...0.1 read(4, ..., 9) = 9", "has not returned"),
        ("+0...0.1 read(4, ..., 9) = 9\n+.2 < P. 1:10(9) ack 1 win 9", "has not returned"),
        ("+0...0.3 read(4, ..., 9) = 9\n+.2 < P. 1:10(9) ack 1 win 9", "returned at 0.300000"),
        ("+0 %{ assert tcpi_snd_cwnd == 3, tcpi_snd_cwnd }%", "AssertionError: 10"),
        ("+0 getsockopt(4, SOL_TCP, TCP_MAXSEG, [5], [4]) = 0", "TCP_MAXSEG is 1000, not 5"),
        ("+0 ioctl(4, SIOCINQ, [5]) = 0", "SIOCINQ is 0"),
        (
            "+0 poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLIN}], 1, 0) = 1",
            "revents is POLLOUT, not POLLIN",
        ),
    ],
)
def test_what_the_stack_does_not_do_fails(script: str, problem: str) -> None:
    assert problem in fails(script)


def test_a_wrong_option_in_a_syn_fails() -> None:
    message = fails("", HEAD + SERVER.replace("<mss 1460>", "<mss 1460,sackOK>"))
    assert "options are <mss 1460>, not <mss 1460,sackOK>" in message
    assert "options are <mss 1460>, not <>" in fails("", HEAD + SERVER.replace("<mss 1460>", ""))


def test_a_segment_of_a_connection_that_the_script_has_left_is_told() -> None:
    message = fails(WRITES + "+0 `nbtcp flow 1`\n+0 > P. 1:1001(1000) ack 1")
    assert "this belongs to another connection" in message
    message = fails(WRITES.replace("+0", "+0 `nbtcp flow 1`\n+0") + "+0 > . 1:1(0) ack 1")
    assert "this belongs to another connection" in message


def test_an_option_of_0_is_an_option() -> None:
    head = HEAD.replace(
        "window_scale=False", "window_scale=True,receive_buffer=60000,autotune=False"
    )
    syn = SERVER.replace("<mss 1000>", "<mss 1000,wscale 0>").replace("win 65535 <mss 1460>", "{}")
    passes("", head + syn.format("<mss 1460,wscale 0>"))
    assert "options are <mss 1460,wscale 0>, not <mss 1460>" in fails(
        "", head + syn.format("<mss 1460>")
    )


def test_the_message_shows_line_and_transcript() -> None:
    message = fails(WRITES + "+0 > . 1:1001(1000) ack 1")
    assert message.splitlines() == [
        "x.pkt:11: +0 > . 1:1001(1000) ack 1",
        "    flags is P., not .",
        "    0.100000 > P. 1:1001(1000) ack 1 win 65535",
        "transcript so far",
        "    0.000000 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3",
        "    0.000000 bind(3, ..., ...) = 0",
        "    0.000000 listen(3, 1) = 0",
        "    0.000000 < S 0:0(0) win 65535 <mss 1000>",
        "    0.000000 > S. 0:0(0) ack 1 win 65535 <mss 1460>",
        "    0.100000 < . 1:1(0) ack 1 win 65535",
        "    0.100000 accept(3, ..., ...) = 4",
        "    0.100000 write(4, ..., 1000) = 1000",
    ]


# --- scripts that cannot be carried out ---


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("--what=3\n0 close(3) = 0", "x.pkt:1: there is no option --what; options are"),
        ("--tolerance_usecs=x\n", "--tolerance_usecs cannot be 'x'"),
        ("--ip_version=ipv5\n", "--ip_version cannot be 'ipv5'"),
        ("--ip_version=ipv6\n--local_ip=192.0.2.7\n", "are not both IPv4 or both IPv6"),
        ("--config=what=3\n", "there is no setting 'what'"),
        ("--config=config=3\n", "there is no setting 'config'"),
        ("--config=mss=3\n", "mss=3 must lie between"),
        ("--config=mss=a\n", "one of these cannot be so: {'mss': 'a'}"),
        ("--config=nagle=no\n", "nagle cannot be 'no'"),
        ("--silence=never\n", "--silence cannot be 'never'"),
        ("--bind_port=70000\n", "--bind_port cannot be '70000'"),
        ("--local_ip=here\n", "'here' is no IP address"),
        ("--remote_ip=there\n", "'there' is no IP address"),
        ("\n`reboot`", "x.pkt:2: unknown command reboot"),
        ("`sysctl -w net.ipv4.tcp_what=1`", "the sysctl tcp_what means nothing to nbtcp"),
        ("`sysctl -w net.ipv4.tcp_sack`", "tcp_sack cannot be ''"),
        ("`sysctl -w net.ipv4.tcp_ecn=7`", "tcp_ecn cannot be '7'"),
        ("`sysctl -w net.ipv4.tcp_reordering=9`", "tcp_reordering cannot be '9'"),
        ("`echo 'a`", "No closing quotation"),
        ("`nbtcp flow 99999`", "flow cannot be '99999'"),
        ("`nbtcp`", "unknown command nbtcp"),
        ("`sysctl ''\nsysctl -q tcp_rto_min_us=" + "9" * 400 + "`", "tcp_rto_min_us cannot be"),
        ("0 fork() = 0", "there is no call fork here; calls are accept"),
        ("0 socket(..., SOCK_DGRAM, IPPROTO_UDP) = 3", "only socket(..., SOCK_STREAM"),
        ("0 close() = 0", "close has too few arguments"),
        ("0 close(A) = 0", "argument 1 of close must be a number"),
        ("0 < icmp what", "ICMP what is not known"),
        (
            "1 < . 1:1(0) ack 1 win 5\n1 > R 1:1(0)\n0 close(3) = 0",
            "0.0 s is before the last event",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_said(script: str, complaint: str) -> None:
    message = wrong(script)
    assert message.startswith("x.pkt:")
    assert complaint in message


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("setsockopt(4, SOL_TCP, TCP_WHAT, [1], 4) = 0", "there is no socket option TCP_WHAT here"),
        ("setsockopt(4, SOL_TCP, TCP_KEEPCNT, [0], 4) = 0", "keepalive_probes=0 must lie between"),
        ("setsockopt(4, SOL_SOCKET, SO_SNDBUF, [A], 4) = 0", "setsockopt: int() argument must be"),
        ("recv(4, ..., 9, MSG_PEEK) = 9", "recv: MSG_PEEK is not known here"),
        ("ioctl(4, SIOCWHAT, [0]) = 0", "ioctl: 'SIOCWHAT' is not known here"),
        ("fcntl(4, F_GETFD) = 0", "fcntl: 'F_GETFD' is not known here"),
        ("poll([{fd=9, events=POLLIN, revents=0}], 1, 0) = 0", "poll: 9 is not known here"),
        ("poll([3], 1, 0) = 0", "poll takes [{fd=4, events=POLLIN, revents=POLLIN}], ..."),
    ],
)
def test_what_a_call_cannot_do_is_said(call: str, complaint: str) -> None:
    assert complaint in wrong(HEAD + SERVER + "+0 " + call)


# --- ICMP, the command ---


@pytest.mark.slow
def test_icmp_errors_are_sound() -> None:
    from scapy.layers.inet import ICMP, IP

    from nbtcp.testing.icmp import error_about
    from nbtcp.wire.segment import Segment, pack_flow

    flow = pack_flow(("192.168.0.1", 4000), ("192.0.2.1", 8080))
    about = Segment(flow, ACK, 5001, 0, 0, bytes(1460))
    packet = error_about(about, "unreachable", "frag_needed", 1200, "192.0.2.1")
    parsed = IP(packet)
    sums = parsed.chksum, parsed[ICMP].chksum
    del parsed.chksum, parsed[ICMP].chksum
    again = IP(bytes(parsed))
    assert (again.chksum, again[ICMP].chksum) == sums
    assert (again[ICMP].type, again[ICMP].code, again[ICMP].nexthopmtu) == (3, 4, 1200)
    assert (again.src, again.dst) == ("192.0.2.1", "192.168.0.1")
    quoted = packet[28:]
    assert int.from_bytes(quoted[2:4], "big") == 1500
    assert int.from_bytes(quoted[24:28], "big") == 5001


def test_icmp_lines_reach_the_stack() -> None:
    passes("+0 < icmp unreachable host_unreachable [1:1(0)]\n+0 < [1:1(0)] icmp type_3 code_1")


def test_scripts_run_over_ipv6() -> None:
    ipv6 = "--ip_version=ipv6\n--mtu=1520\n" + HEAD + SERVER
    result = passes("+0 %{ print(*stack.addresses) }%", ipv6)
    assert result.printed == "fd3d:a0b:17d6::1\n"
    passes(
        """+0 write(4, ..., 1000) = 1000
+0 > P. 1:1001(1000) ack 1
+0 < icmp packet_too_big mtu 1280 [1:1001(1000)]
+0 < icmp unreachable address_unreachable [1:1001(1000)]
+0 < . 1:1(0) ack 1001 win 65535
""",
        ipv6,
    )
    wide = ipv6.replace("<mss 1000>", "<mss 1460>")
    passes(
        """+0 write(4, ..., 1460) = 1460
+0 > P. 1:1461(1460) ack 1
+0 < icmp packet_too_big mtu 1280 [1:1461(1460)]
+0 > . 1:1221(1220) ack 1
+0 > P. 1221:1461(240) ack 1
+0 < . 1:1(0) ack 1461 win 65535
+0 %{ assert tcpi_snd_mss == 1220 }%
""",
        wide,
    )


@pytest.mark.slow
def test_the_command_prints_a_line_each_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "good.pkt").write_text(HEAD + SERVER)
    (tmp_path / "bad.pkt").write_text(HEAD + SERVER + WRITES)
    (tmp_path / "ugly.pkt").write_text("what?")

    def command(*names: str) -> tuple[int, list[str]]:
        arguments = [sys.executable, "-m", "nbtcp.testing", *(str(tmp_path / n) for n in names)]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        verdicts = [line.split()[0] for line in done.stdout.splitlines() if ".pkt" in line]
        return done.returncode, [v for v in verdicts if v.isupper()]

    assert command("good.pkt") == (0, ["PASS"])
    assert command("good.pkt", "bad.pkt") == (1, ["PASS", "FAIL"])
    assert command("bad.pkt", "ugly.pkt") == (2, ["FAIL", "ERROR"])
    assert command() == (2, [])
