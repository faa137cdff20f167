"""What option lines, sysctls and shell commands of a script mean here: tables, in one place."""

import ast
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import Config, ConfigError

_LINUX_RTO_MIN, _LINUX_RTO_MAX = 0.2, 120.0
_ADDRESSES = {  # of a script's --ip_version: ours, the peer's
    "ipv4": ("192.168.0.1", "192.0.2.1"),
    "ipv6": ("fd3d:0a0b:17d6::1", "2001:db8::1"),
}
_IGNORED_OPTIONS = "gateway_ip netmask_ip speed send_omit_free non_fatal init_scripts".split()


class SettingError(ValueError):
    """The option or command cannot be carried out; the runner adds the line."""


@dataclass(slots=True)
class Settings:
    """How a script is run. `silence`: before which of the next lines nothing unexpected may be
    waiting: any "event", those at a later "time", or none ("off").
    """

    config: Config
    tolerance_usecs: int = 4000
    tcp_ts_tick_usecs: int = 0  # of our timestamps, when they are to be checked
    silence: str = "event"
    push: str = "check"  # the PSH flag, or "ignore" it
    local_ip: str = "192.168.0.1"
    remote_ip: str = "192.0.2.1"
    bind_port: int = 8080
    connect_port: int = 8080
    keepalive_time: float = 7200.0  # s; in force on sockets that set SO_KEEPALIVE
    flow: int = 0  # the connection that packets belong to

    def option(self, name: str, value: str) -> None:
        """An option line, --name=value."""
        if name == "config":
            self.change(**dict(map(_setting, filter(None, value.split(",")))))
        elif name == "ip_version":
            addresses = _converted("--ip_version", _ADDRESSES.__getitem__, value)
            self.local_ip, self.remote_ip = addresses
        elif name == "mtu":
            self.change(mss=_converted("--mtu", int, value) - 40)
        elif name in _OPTIONS:
            setattr(self, name, _converted(f"--{name}", _OPTIONS[name], value))
        elif name not in _IGNORED_OPTIONS:
            known = ", ".join(sorted(["config", "ip_version", "mtu", *_OPTIONS]))
            raise SettingError(f"there is no option --{name}; options are {known}")

    def change(self, **changes: Any) -> None:
        """Change Config settings."""
        self.config = changed(self.config, **changes)

    def command(self, text: str) -> None:
        """Shell commands, one a line."""
        for line in re.split(r"&&|;|\n", text.replace("\\\n", " ")):
            try:
                words = shlex.split(line, comments=True)
            except ValueError as problem:
                raise SettingError(f"{line.strip()}: {problem}") from None
            if words:
                self._run(*words)

    def _run(self, command: str, *arguments: str) -> None:
        program = command.rpartition("/")[2]
        if program in ("sysctl", "set_sysctls.py"):
            for word in arguments:
                if word[:1] not in "->":  # no option, nor where the output goes
                    name, _, value = word.partition("=")
                    self._sysctl(name.replace("/", ".").rpartition(".")[2], value)
        elif program == "defaults.sh":  # of the scripts that come with packetdrill and Linux
            self.change(receive_buffer=15 << 20, send_buffer=4 << 20)
        elif program == "nbtcp" and arguments[:1] == ("flow",):
            self.flow = _converted("flow", _up_to(999), arguments[-1])
        elif program not in _HARMLESS and not program.startswith("sysctl_restore"):
            raise SettingError(f"unknown command {command}: it cannot be carried out here")

    def _sysctl(self, name: str, value: str) -> None:
        if name not in SYSCTLS:
            raise SettingError(f"the sysctl {name} means nothing to nbtcp")
        setting, convert = SYSCTLS[name]
        converted = _converted(name, convert, value)
        if setting == "keepalive_time":
            self.keepalive_time = converted
        elif setting:
            self.change(**{setting: converted})


def changed(config: Config, **changes: Any) -> Config:
    """`config` with changes; SettingError says which are not possible."""
    for name, value in changes.items():
        if isinstance(getattr(config, name, value), bool) is not isinstance(value, bool):
            raise SettingError(f"{name} cannot be {value!r}")
    try:
        return config.but(**changes)
    except ConfigError as problem:
        raise SettingError(str(problem)) from None
    except TypeError:  # compared with a number
        raise SettingError(f"one of these cannot be so: {changes}") from None


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _converted(name: str, convert: Callable[[str], Any], value: str) -> Any:
    try:
        return convert(value)
    except (ValueError, LookupError, OverflowError):
        raise SettingError(f"{name} cannot be {value!r}") from None


def _one_of(*choices: str) -> Callable[[str], str]:
    return lambda value: choices[choices.index(value)]  # ValueError when it is none


def _up_to(most: int) -> Callable[[str], int]:
    return lambda value: range(most + 1)[range(most + 1).index(int(value))]


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "tolerance_usecs": _up_to(10**9),
    "tcp_ts_tick_usecs": _up_to(10**9),
    "silence": _one_of("event", "time", "off"),
    "push": _one_of("check", "ignore"),
    "local_ip": str,
    "remote_ip": str,
    "bind_port": _up_to(65535),
    "connect_port": _up_to(65535),
}
"""Option -> the value of the setting of that name."""


def _on(value: str) -> bool:
    return int(value, 0) != 0


def _third(value: str) -> int:
    """Of "minimum default maximum" in octets the maximum: what autotuning may come to."""
    return int(value.split()[2])


def _patience(first: float) -> Callable[[str], float]:
    """Seconds until so many retransmissions, backed off from `first`, have gone unanswered."""
    return lambda n: max(
        1.0, sum(min(first * 2**i, _LINUX_RTO_MAX) for i in range(min(int(n), 100) + 1))
    )


SYSCTLS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "tcp_timestamps": ("timestamps", _on),
    "tcp_window_scaling": ("window_scale", _on),
    "tcp_sack": ("sack", _on),
    "tcp_ecn": ("ecn", lambda v: {"0": "off", "1": "ask", "2": "accept"}[v]),
    "tcp_congestion_control": ("congestion", str),
    "tcp_recovery": ("recovery", lambda v: "rack" if int(v, 0) & 1 else "sack"),
    "tcp_rmem": ("receive_buffer", _third),
    "tcp_wmem": ("send_buffer", _third),
    "tcp_moderate_rcvbuf": ("autotune", _on),
    "tcp_syncookies": ("syn_cookies", _on),
    "tcp_keepalive_intvl": ("keepalive_interval", float),
    "tcp_keepalive_probes": ("keepalive_probes", int),
    "tcp_syn_retries": ("syn_timeout", _patience(1.0)),
    "tcp_synack_retries": ("syn_timeout", _patience(1.0)),
    "tcp_retries2": ("user_timeout", _patience(_LINUX_RTO_MIN)),
    "tcp_fin_timeout": ("time_wait", float),
    "tcp_rto_min_us": ("min_rto", lambda v: int(v) / 1e6),
    "tcp_rto_max_ms": ("max_rto", lambda v: int(v) / 1e3),
    "tcp_keepalive_time": ("keepalive_time", float),
    "tcp_slow_start_after_idle": ("", _one_of("1")),  # those without a name have one value here
    "tcp_reordering": ("", _one_of("3")),
    "tcp_early_retrans": ("", _one_of("3")),  # tail loss probes come with recovery="rack"
    "tcp_dsack": ("", _one_of("1")),
    "tcp_abort_on_overflow": ("", _one_of("0")),
    "ip_no_pmtu_disc": ("", _one_of("0")),
}
"""Name under net.ipv4 -> the Config setting, and its value from the sysctl's."""

_WITHOUT_EFFECT = """
    tcp_fack tcp_frto tcp_no_metrics_save tcp_tso_win_divisor tcp_min_tso_segs tcp_tso_rtt_log
    tcp_pacing_ss_ratio tcp_pacing_ca_ratio tcp_limit_output_bytes tcp_autocorking tcp_retries1
    tcp_notsent_lowat tcp_fastopen tcp_fastopen_key tcp_low_latency tcp_min_snd_mss tcp_mtu_probing
    tcp_adv_win_scale tcp_app_win tcp_orphan_retries tcp_max_orphans tcp_max_tw_buckets
    tcp_max_syn_backlog tcp_invalid_ratelimit tcp_challenge_ack_limit tcp_rfc1337 tcp_mem
    tcp_allowed_congestion_control tcp_default_congestion_control default_qdisc optmem_max rmem_max
    wmem_max somaxconn""".split()
SYSCTLS |= dict.fromkeys(_WITHOUT_EFFECT, ("", str))

_HARMLESS = {"tc", "ip", "ethtool", "true", "sleep", "modprobe", "rm", "sync"}
