"""An address of our own on a LAN: our TCP on the card itself, with no kernel between."""

from .config import Config, ConfigError
from .links.lan import PATIENCE, Ethernet
from .links.path import Path
from .live import Outside
from .runtime.loop import RealClock


class Lan(Outside):
    """Our TCP at a free IPv4 `address` of the LAN that the card `interface` is on.

    Everybody there reaches it as they do any other host, and it reaches them, and by the gateway
    the internet; only this machine itself does not hear what its own card sends. `prefix` (as 24)
    and `gateway` are those of the interface unless given. `mac` is the card's; "own" is one made
    for the address, which needs a switch that lets it pass, and a text is one of your choice.
    Where the kernel forwards, "own" is the default, else it would forward our packets as well.

    To begin takes half a second, for the address is probed first: `patience` 1 makes that the 4 to
    7 s of RFC 5227, for a network that has just been switched on. `path`, `up` and `down` impair it
    besides, `seed` makes our ISNs and ports repeatable. Needs root. Raises MachineError when the
    address is taken or this machine cannot, ConfigError, PathError.
    """

    def __init__(
        self,
        interface: str,
        address: str,
        *,
        prefix: int | None = None,
        gateway: str | None = None,
        mac: str | None = None,
        patience: float = PATIENCE,
        path: Path | None = None,
        up: Path | None = None,
        down: Path | None = None,
        config: Config | None = None,
        seed: int | None = None,
    ) -> None:
        if config is not None and config.offload:
            raise ConfigError("offload=True needs a TUN device, and a card on a LAN is none")
        self.link = link = Ethernet(interface, address, prefix=prefix, gateway=gateway, mac=mac)
        meta = {"link": "lan", "interface": interface, "mac": link.mac, "gateway": link.gateway}
        try:
            _claim(link, patience)
            super().__init__(link, address, path, up, down, config, seed, **meta)
        except BaseException:
            link.close()
            raise

    def __repr__(self) -> str:
        return f"<Lan: we {self.address} on {self.link.card.name}, MAC {self.link.mac}>"

    def check(self, there: tuple[str, int]) -> None:
        """OSError when the neighbour, or the gateway on the way there, does not answer by ARP."""
        link, loop = self.link, self.loop
        hop = link.next_hop(there[0])
        with loop.lock:
            loop.flush()  # raises what has ended the link
            link.ask(hop, loop.now())
            loop.run_until(lambda: not link.is_asking(hop))
            link.check(hop)


def _claim(link: Ethernet, patience: float) -> None:
    """Probe the address, and announce it when nobody has it."""
    clock = RealClock()
    try:
        link.claim(clock.now(), patience)
        while not link.claimed:
            clock.sleep(link.deadline(), [link.fileno()])
            link.receive(clock.now())
    finally:
        clock.close()
