"""ICMP errors about our segments, as a router or the peer would send them (RFC 792, RFC 1191)."""

from ..wire.icmp import build_icmp
from ..wire.segment import Segment, build
from .settings import SettingError

_KINDS = {"unreachable": 3, "source_quench": 4, "redirect": 5, "time_exceeded": 11}
_KINDS |= {"parameter_problem": 12, "echo_reply": 0, "echo_request": 8}
_UNREACHABLE = (
    "net_unreachable host_unreachable protocol_unreachable port_unreachable frag_needed"
    " source_route_failed net_unknown host_unknown source_host_isolated net_prohibited"
    " host_prohibited net_unreachable_for_tos host_unreachable_for_tos packet_filtered"
    " precedence_violation precedence_cutoff"
).split()
_TIME_EXCEEDED = ("ttl_exceeded", "frag_reassembly_exceeded")


def error_about(about: Segment, kind: str, code: str, mtu: int, sender: str) -> bytes:
    """The IP packet of an ICMP error of `kind` from `sender`; `mtu` counts in frag_needed."""
    return build_icmp(sender, build(about), _kind(kind), _code(kind, code), mtu=mtu)


def _kind(name: str) -> int:
    return _KINDS[name] if name in _KINDS else _numbered("type_", name)


def _code(kind: str, name: str) -> int:
    for names, of in ((_UNREACHABLE, "unreachable"), (_TIME_EXCEEDED, "time_exceeded")):
        if kind == of and name in names:
            return names.index(name)
    return _numbered("code_", name)


def _numbered(prefix: str, name: str) -> int:
    digits = name.removeprefix(prefix)
    if digits == name or not digits.isdigit() or len(digits) > 3 or int(digits) > 255:
        raise SettingError(f"ICMP {name} is not known; numbers are written {prefix}3")
    return int(digits)
