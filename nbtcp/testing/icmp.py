"""ICMP errors about our segments, as a router or the peer would send them (RFC 792, RFC 4443)."""

from ..wire.icmp import build_icmp
from ..wire.segment import Segment, build
from .settings import SettingError

_TYPES = {
    "ipv4": {"unreachable": 3, "source_quench": 4, "time_exceeded": 11, "parameter_problem": 12},
    "ipv6": {"unreachable": 1, "packet_too_big": 2, "time_exceeded": 3, "parameter_problem": 4},
}
_CODES = {  # of unreachable, from 0 on
    "ipv4": """net_unreachable host_unreachable protocol_unreachable port_unreachable frag_needed
        source_route_failed net_unknown host_unknown source_host_isolated net_prohibited
        host_prohibited net_unreachable_for_tos host_unreachable_for_tos packet_filtered""",
    "ipv6": "no_route admin_prohibited not_neighbour address_unreachable port_unreachable",
}


def error_about(about: Segment, kind: str, code: str, mtu: int, sender: str) -> bytes:
    """The IP packet of an ICMP error of `kind` from `sender`; `mtu` counts where it is too big."""
    family = "ipv6" if ":" in sender else "ipv4"
    codes = dict(zip(_CODES[family].split(), range(256), strict=False)) | {"ttl_exceeded": 0}
    numbers = _number("type_", kind, _TYPES[family]), _number("code_", code, codes)
    return build_icmp(sender, build(about), *numbers, mtu=mtu)


def _number(prefix: str, name: str, known: dict[str, int]) -> int:
    if name in known:
        return known[name]
    digits = name.removeprefix(prefix)
    if digits == name or not digits.isdecimal() or len(digits) > 3 or int(digits) > 255:
        raise SettingError(f"ICMP {name} is not known; numbers are written {prefix}3")
    return int(digits)
