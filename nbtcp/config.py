"""`Config`: everything about a host's TCP that one can choose, with unit, default and source."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import NbtcpError


class ConfigError(NbtcpError, ValueError):
    """A setting that does not exist, or a value it cannot have."""


@dataclass(frozen=True, slots=True)
class Config:
    """How a host's connections behave. Sizes in octets, times in seconds.

    mss                largest segment we take and send, TCP header excluded (RFC 9293 MUST-67);
                       an MTU of 1500 gives 1460; with IPv6, whose header is longer, it is 20 less
    send_buffer, receive_buffer  what one connection may hold for the network, and for the
                       application
    window_scale       ask for window scaling (RFC 7323 2); the shift follows from the receive
                       buffer
    timestamps         ask for timestamps (RFC 7323 3)
    sack               ask for selective acknowledgments (RFC 2018)
    ecn                explicit congestion notification (RFC 3168): "ask" for it, "accept" when the
                       peer asks, or "off"
    congestion         congestion control: "cubic" (RFC 9438, with HyStart++, RFC 9406), "reno" (RFC
                       5681), "bbr" (version 3, draft-ietf-ccwg-bbr), or "fixed": none, cwnd stays
                       at the initial window
    recovery           how losses are found: "rack" (RFC 8985), "sack" (RFC 6675), "newreno" (RFC
                       6582), "reno", "tahoe", "timeout": by the retransmission timer alone; where
                       the peer has no SACK the first two become "newreno"
    initial_window     the first window, of use from one MSS on; None for RFC 6928's
                       min(10 MSS, max(2 MSS, 14600))
    nagle              hold small segments back while one is unacknowledged (RFC 9293 MUST-17,
                       3.7.4, A.3)
    delayed_ack        longest delay of an acknowledgment, below 0.5 (RFC 9293 MUST-40); 0: none
    ack_every          acknowledge at least every so many full-sized segments (RFC 9293 SHLD-19)
    initial_rto, min_rto, max_rto  RFC 6298; min_rto is 0.2 where the RFC says 1, as in Linux: it
                       guards against the peer's delayed ACK, and 1 would make every timeout five
                       times as dear
    user_timeout       give up when data was not acknowledged for so long (RFC 9293 3.8.3, R2:
                       MUST-21, SHLD-11, L-26); math.inf: never
    syn_timeout        give up when a SYN was not answered for so long (RFC 9293 MUST-23: 180)
    keepalive          probe a connection that was silent for so long (RFC 9293 MUST-27); None:
                       never, which is the default (MUST-25, MUST-28)
    keepalive_interval, keepalive_probes  between probes, and how many stay unanswered at most
                       (MUST-29: more than one)
    syn_cookies        answer SYNs with cookies when the SYN queue is full (RFC 4987)
    autotune           begin with a receive buffer of 128 KiB, which grows up to receive_buffer when
                       the window is what limits the peer
    dscp               Differentiated Services code point of what is sent (RFC 9293 MUST-48)
    reports            tell the application of trouble that is no error yet (RFC 9293 SHLD-20)
    time_wait          length of TIME-WAIT (RFC 9293 MUST-13); 60, as in Linux, where 2 MSL is 240
                       by the RFC
    ttl                time to live of the packets sent, in hops (RFC 9293 MUST-49)
    codec              "struct", or "scapy" to parse and build every packet with scapy (slow; same
                       results)
    offload            leave checksums and the cutting into segments to the device (virtio 1.2,
                       5.1.6): one packet, and one row of the log, holds up to 64 KiB of data. For
                       bulk; False is for looking at segments. The host's, not a connection's
    """

    mss: int = 1460
    send_buffer: int = 1 << 20
    receive_buffer: int = 4 << 20
    window_scale: bool = True
    timestamps: bool = True
    sack: bool = True
    ecn: str = "accept"
    congestion: str = "cubic"
    recovery: str = "rack"
    initial_window: int | None = None
    nagle: bool = True
    delayed_ack: float = 0.04
    ack_every: int = 2
    initial_rto: float = 1.0
    min_rto: float = 0.2
    max_rto: float = 60.0
    user_timeout: float = 300.0
    syn_timeout: float = 180.0
    keepalive: float | None = None
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    syn_cookies: bool = True
    autotune: bool = True
    dscp: int = 0
    reports: bool = True
    time_wait: float = 60.0
    ttl: int = 64
    codec: str = "struct"
    offload: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(allowed)
                raise ConfigError(f"{name}={getattr(self, name)!r} is not known; choose {choices}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}={value!r} must lie between {low} and {high}")
        if self.min_rto > self.max_rto:
            raise ConfigError(f"min_rto={self.min_rto} is larger than max_rto={self.max_rto}")
        if self.keepalive is not None and not 0.001 <= self.keepalive <= 1e9:
            raise ConfigError(f"keepalive={self.keepalive!r} must be None or at least 0.001")
        if self.initial_window is not None and self.initial_window < 1:
            raise ConfigError(f"initial_window={self.initial_window} must be at least 1")
        if self.offload and self.codec != "struct":
            raise ConfigError(f"codec={self.codec!r} cannot do offload=True; leave one of them out")

    def but(self, **changes: Any) -> "Config":
        """A copy with some settings changed; ConfigError names what exists when one does not."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"there is no setting {name!r}; settings are {', '.join(known)}")
        return replace(self, **changes)


_CHOICES = {
    "congestion": ("cubic", "reno", "bbr", "fixed"),
    "recovery": ("rack", "sack", "newreno", "reno", "tahoe", "timeout"),
    "ecn": ("ask", "accept", "off"),
    "codec": ("struct", "scapy"),
}
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("mss", 64, 65495),
    ("send_buffer", 1, 1 << 30),
    ("receive_buffer", 1, 1 << 30),
    ("delayed_ack", 0, 0.499),
    ("ack_every", 1, 1000),
    ("initial_rto", 0.001, 60),
    ("min_rto", 0.001, 60),
    ("max_rto", 1, 3600),
    ("user_timeout", 0.001, math.inf),
    ("syn_timeout", 1, 1e9),
    ("keepalive_interval", 0.001, 1e9),
    ("keepalive_probes", 2, 1000),
    ("dscp", 0, 63),
    ("time_wait", 0, 3600),
    ("ttl", 1, 255),
)
