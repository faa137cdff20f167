"""What option lines, sysctls and shell commands of a script mean here: tables, in one place."""

import ast
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ..config import Config, ConfigError

SILENCE = ("event", "time", "off")
_LINUX_RTO_MIN, _LINUX_RTO_MAX = 0.2, 120.0


class SettingError(ValueError):
    """The option or command cannot be carried out; the runner adds the line."""


@dataclass(slots=True)
class Settings:
    """How a script is run. `silence`: before which of the next lines nothing unexpected may be
    waiting: any "event", those at a later "time", or none ("off"). Times in ns, `tick` in µs.
    """

    config: Config
    tolerance: int = 4_000_000
    silence: str = "event"
    push: bool = True  # compare the PSH flag
    tick: int = 0  # of our timestamps, when they are to be checked
    local: str = "192.168.0.1"
    remote: str = "192.0.2.1"
    bind_port: int = 8080
    connect_port: int = 8080
    keepalive_time: float = 7200.0  # s; in force on sockets that set SO_KEEPALIVE
    flow: int = 0  # the connection that packets belong to

    def option(self, name: str, value: str) -> None:
        """An option line, --name=value."""
        if name in _IGNORED_OPTIONS:
            return
        if name not in _OPTIONS:
            known = ", ".join(sorted(_OPTIONS))
            raise SettingError(f"there is no option --{name}; options are {known}")
        try:
            _OPTIONS[name](self, value)
        except SettingError:
            raise
        except (ValueError, SyntaxError):
            raise SettingError(f"--{name} cannot be {value!r}") from None

    def change(self, **changes: Any) -> None:
        """Change Config settings."""
        self.config = changed(self.config, **changes)

    def command(self, text: str) -> None:
        """Shell commands, one a line."""
        for line in text.replace("\\\n", " ").replace("&&", "\n").replace(";", "\n").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError as problem:
                raise SettingError(f"{line.strip()}: {problem}") from None
            if words:
                self._run(words)

    def _run(self, words: list[str]) -> None:
        program = words[0].rpartition("/")[2]
        if program in ("sysctl", "set_sysctls.py"):
            for word in words[1:]:
                if not word.startswith("-") and not word.startswith(">"):
                    name, equals, value = word.partition("=")
                    if not equals:
                        raise SettingError(f"{word} sets nothing; write name=value")
                    self._sysctl(name.replace("/", ".").rpartition(".")[2], value)
        elif program == "defaults.sh":  # of the scripts that come with packetdrill and Linux
            self.change(receive_buffer=15 << 20, send_buffer=4 << 20)
        elif program == "nbtcp" and len(words) == 3 and words[1] == "flow" and words[2].isdigit():
            self.flow = int(words[2])
        elif program not in _HARMLESS and not program.startswith("sysctl_restore"):
            raise SettingError(f"unknown command {words[0]}: it cannot be carried out here")

    def _sysctl(self, name: str, value: str) -> None:
        if name == "tcp_keepalive_time":
            self.keepalive_time = float(value)
        elif name in SYSCTLS:
            setting, convert = SYSCTLS[name]
            try:
                converted = convert(value)
            except (ValueError, KeyError, IndexError):
                raise SettingError(f"{name} cannot be {value!r}") from None
            self.change(**{setting: converted})
        elif name in FIXED:
            if value not in FIXED[name]:
                raise SettingError(f"{name}={value}: nbtcp has no such choice")
        elif name not in HARMLESS_SYSCTLS:
            raise SettingError(f"the sysctl {name} means nothing to nbtcp")


def changed(config: Config, **changes: Any) -> Config:
    """`config` with changes; SettingError says which this nbtcp does not have.

    What it does not have is off: to turn that off changes nothing.
    """
    known = {field.name for field in fields(Config)}
    for name, value in list(changes.items()):
        if name not in known:
            if changes.pop(name) not in (False, None, "off"):
                raise SettingError(f"this nbtcp has no setting {name}")
        elif isinstance(getattr(config, name), bool) is not isinstance(value, bool):
            raise SettingError(f"{name} cannot be {value!r}")
    try:
        return config.but(**changes)
    except ConfigError as problem:
        raise SettingError(str(problem)) from None
    except TypeError:  # compared with a number
        raise SettingError(f"one of these cannot be so: {changes}") from None


def _config(settings: Settings, value: str) -> None:
    changes: dict[str, Any] = {}
    for part in filter(None, value.split(",")):
        name, _, text = part.partition("=")
        try:
            changes[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            changes[name] = text
    settings.change(**changes)


def _ip_version(_: Settings, value: str) -> None:
    if value != "ipv4":
        raise SettingError(f"--ip_version={value}: scripts run over IPv4 here")


def _silence(settings: Settings, value: str) -> None:
    if value not in SILENCE:
        raise ValueError
    settings.silence = value


def _push(settings: Settings, value: str) -> None:
    settings.push = {"check": True, "ignore": False}.get(value, True)
    if value not in ("check", "ignore"):
        raise ValueError


def _number(name: str, unit: int = 1, most: int = 10**9) -> Callable[[Settings, str], None]:
    def put(settings: Settings, value: str) -> None:
        if not 0 <= int(value) <= most:
            raise ValueError
        setattr(settings, name, int(value) * unit)

    return put


def _text(name: str) -> Callable[[Settings, str], None]:
    return lambda settings, value: setattr(settings, name, value)


_OPTIONS: dict[str, Callable[[Settings, str], None]] = {
    "tolerance_usecs": _number("tolerance", 1000),
    "tcp_ts_tick_usecs": _number("tick"),
    "ip_version": _ip_version,
    "local_ip": _text("local"),
    "remote_ip": _text("remote"),
    "bind_port": _number("bind_port", most=65535),
    "connect_port": _number("connect_port", most=65535),
    "mtu": lambda settings, value: settings.change(mss=int(value) - 40),
    "config": _config,  # these three are our own
    "silence": _silence,
    "push": _push,
}
_IGNORED_OPTIONS = {
    "gateway_ip",
    "netmask_ip",
    "speed",
    "send_omit_free",
    "non_fatal",
    "init_scripts",
}


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
}
"""Name under net.ipv4 -> the Config setting, and its value from the sysctl's."""

FIXED = {
    "tcp_slow_start_after_idle": ("1",),
    "tcp_reordering": ("3",),
    "tcp_early_retrans": ("3", "4"),  # tail loss probes come with recovery="rack"
    "tcp_dsack": ("1",),
    "tcp_abort_on_overflow": ("0",),
    "ip_no_pmtu_disc": ("0",),
}
"""Sysctls that have one value here."""

HARMLESS_SYSCTLS = set(
    """
    tcp_fack tcp_frto tcp_no_metrics_save tcp_tso_win_divisor tcp_min_tso_segs tcp_tso_rtt_log
    tcp_pacing_ss_ratio tcp_pacing_ca_ratio tcp_limit_output_bytes tcp_autocorking tcp_retries1
    tcp_notsent_lowat tcp_fastopen tcp_fastopen_key tcp_low_latency tcp_min_snd_mss tcp_mtu_probing
    tcp_adv_win_scale tcp_app_win tcp_orphan_retries tcp_max_orphans tcp_max_tw_buckets
    tcp_max_syn_backlog tcp_invalid_ratelimit tcp_challenge_ack_limit tcp_rfc1337 tcp_mem
    tcp_allowed_congestion_control tcp_default_congestion_control default_qdisc optmem_max rmem_max
    wmem_max somaxconn""".split()
)
"""Sysctls about what nbtcp has not, or without effect on what a script sees."""

_HARMLESS = {"tc", "ip", "ethtool", "true", "sleep", "modprobe", "rm", "sync"}
