"""HTTP over our TCP: `client` is an `httpx.Client`, with HTTP/2, TLS, redirects and streaming."""

import inspect
from dataclasses import fields
from typing import Any

import httpx

from .config import Config
from .live import Live
from .runtime.host import Host
from .runtime.http import Page, Transport, get
from .trace.log import EventLog

__all__ = ["Page", "Transport", "client", "get"]

_SETTINGS = {field.name for field in fields(Config)}
_TRANSPORT = set(inspect.signature(httpx.HTTPTransport).parameters)


def client(
    host: Host | None = None, *, log: EventLog | None = None, http2: bool = True, **options: Any
) -> httpx.Client:
    """An `httpx.Client` whose connections are `host`'s; without a host, of the internet as root.

    It offers HTTP/2 to HTTPS servers and follows redirects. `log` is told of its connections, else
    the host's log is. `options` are those of httpx.Client (verify, timeout, headers and so on; its
    defaults, and its exceptions) and settings of Config. The client is closed by `with` or `close`,
    and a Live host that was made for it with it. Raises MachineError when this machine cannot.
    """
    settings = {name: options.pop(name) for name in _SETTINGS & options.keys()}
    below = {name: options.pop(name) for name in _TRANSPORT & options.keys()}
    kind, host = (_Own, Live()) if host is None else (Transport, host)
    transport = kind(host, log, settings, http2=http2, **below)
    return httpx.Client(transport=transport, **{"follow_redirects": True, **options})


class _Own(Transport):
    """The transport of a host that ends with it."""

    def close(self) -> None:
        super().close()
        self.host.close()

    def __exit__(self, *problem: object) -> None:
        self.close()
