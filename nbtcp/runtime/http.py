"""HTTP over our sockets: httpx, httpcore and h2 do the protocols, this module gives them a network.

`get` is what `lab.fetch` and `nbtcp.fetch` call; `Transport` makes any `httpx.Client` run on a
`Host`.
"""

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

import httpcore
import httpx

from ..trace.log import EventLog
from .host import Host
from .sockets import Socket
from .tls import TlsSocket

PROGRESS_FROM = 1_000_000  # octets: shorter bodies need no progress bar
UNTRUSTED = range(18, 22)  # OpenSSL's X509_V_ERR_...: the chain ends at nobody whom we trust


@dataclass(slots=True)
class Page:
    """A fetched page: `content` is the body's octets, `log` the event log of the fetch."""

    url: str
    status: int
    reason: str
    headers: dict[str, str]
    content: bytes
    log: EventLog = field(repr=False)

    def __repr__(self) -> str:
        return f"<Page {self.status} {self.url}: {len(self.content)} octets>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.log._repr_html_()}"

    @property
    def ok(self) -> bool:
        """True for a status below 400."""
        return self.status < 400

    @property
    def text(self) -> str:
        """The body as text, UTF-8 where nothing else is said."""
        charset = httpx.Response(200, headers=self.headers).charset_encoding or "utf-8"
        return self.content.decode(charset, errors="replace")


def get(
    host: Host,
    url: str,
    *,
    timeout: float = 30.0,
    log: EventLog | None = None,
    progress: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    http2: bool = False,
    **settings: Any,
) -> Page:
    """GET `url` over `host`'s TCP, following redirects.

    `timeout` (s) bounds each wait. `progress` None: a bar on a terminal, for long bodies.
    `ssl_context` says what HTTPS trusts; else certifi's list, the machine's and SSL_CERT_FILE.
    `http2` offers HTTP/2 to HTTPS servers. It is off, as it has a flow control of its own above
    TCP's (RFC 9113 5.2), and the pictures are to show TCP's. `settings` change the host's Config.
    Raises OSErrors as sockets do; one that comes in the middle of the body has a `page` with what
    had arrived.
    """
    log = host.log if log is None else log
    page = Page(url, 0, "", {}, b"", log)
    parts: list[bytes] = []
    transport = Transport(host, log, settings, verify=ssl_context or True, http2=http2)
    try:
        with (
            httpx.Client(transport=transport, timeout=timeout, follow_redirects=True) as client,
            client.stream("GET", url) as response,
        ):
            page.url, page.status = str(response.url), response.status_code
            page.reason, page.headers = response.reason_phrase, dict(response.headers)
            for part in _with_progress(response, progress):
                parts.append(part)
    except (httpx.HTTPError, OSError) as problem:
        error = _as_oserror(problem, page)
        error.page = page  # type: ignore[attr-defined]
        raise error from None
    finally:
        page.content = b"".join(parts)
        host.settle(log)
    return page


class Transport(httpx.HTTPTransport):
    """httpx's own transport on a `Host`'s TCP: `httpx.Client(transport=Transport(lab))`.

    `settings` change the host's Config; `options` are httpx's: verify, http2, limits and so on.
    With `verify=True` HTTPS trusts certifi's list, the machine's and SSL_CERT_FILE.
    """

    def __init__(
        self,
        host: Host,
        log: EventLog | None = None,
        settings: dict[str, Any] | None = None,
        *,
        verify: ssl.SSLContext | str | bool = True,
        **options: Any,
    ) -> None:
        context = httpcore.default_ssl_context() if verify is True else verify
        super().__init__(verify=context, **options)
        self.host = host
        # httpx has no option for it; httpcore's pool has, and reads it when it connects.
        self._pool._network_backend = _Backend(host, log, settings or {})


class _Backend(httpcore.NetworkBackend):
    """Where httpcore gets its connections from.

    Nagle's algorithm is off unless asked for, as in all HTTP clients: TLS's last handshake message
    is small, and the request right behind it would wait a round trip for its acknowledgment.
    """

    def __init__(self, host: Host, log: EventLog | None, settings: dict[str, Any]) -> None:
        self._host = host
        self._log = log
        self._settings = {"nagle": False, **settings}

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any
    ) -> httpcore.NetworkStream:
        with _raised_as(httpcore.ConnectTimeout, httpcore.ConnectError):
            sock = self._host.connect((host, port), timeout, log=self._log, **self._settings)
        return _Stream(sock)


class _Stream(httpcore.NetworkStream):
    """A connected socket as httpcore wants it."""

    def __init__(self, sock: Socket) -> None:
        self._socket = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(timeout)
        with _raised_as(httpcore.ReadTimeout, httpcore.ReadError):
            return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._socket.settimeout(timeout)
        with _raised_as(httpcore.WriteTimeout, httpcore.WriteError):
            self._socket.sendall(buffer)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        self._socket.settimeout(timeout)
        with _raised_as(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                secured = TlsSocket(
                    self._socket,
                    ssl_context,
                    server_hostname=server_hostname,
                    suppress_ragged_eofs=False,
                )
            except ssl.SSLCertVerificationError as problem:
                why = problem.verify_message.removesuffix(".")
                problem.strerror = f"certificate verify failed for {server_hostname}: {why}"
                if problem.verify_code in UNTRUSTED:
                    problem.strerror += (
                        "; where you trust who has signed it, name the file of that authority in "
                        "SSL_CERT_FILE"
                    )
                raise
        return _Stream(secured)

    def get_extra_info(self, info: str) -> Any:
        sock, conn = self._socket, self._socket.connection
        if info == "is_readable":  # of an idle connection: the server has ended it
            return conn is None or conn.eof or conn.reassembly.size > 0
        if info == "ssl_object":
            return sock if isinstance(sock, TlsSocket) else None
        known = {"client_addr": sock.getsockname, "server_addr": sock.getpeername}
        return known[info]() if info in known else sock if info == "socket" else None


@contextmanager
def _raised_as(late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    """OSErrors as the exceptions of httpcore, of which httpx makes its own."""
    try:
        yield
    except OSError as problem:
        kind = late if isinstance(problem, TimeoutError) else broken
        raise kind(problem.strerror or str(problem)) from problem


def _with_progress(response: httpx.Response, progress: bool | None) -> Iterator[bytes]:
    """The body, and a bar on the terminal that grows with it."""
    length = int(response.headers.get("content-length", 0))
    if progress is None:
        progress = sys.stderr.isatty() and length >= PROGRESS_FROM
    if not progress:
        yield from response.iter_bytes()
        return
    from tqdm import tqdm

    with tqdm(total=length or None, unit="B", unit_scale=True, leave=False) as bar:
        for part in response.iter_bytes():
            yield part
            bar.update(response.num_bytes_downloaded - bar.n)


def _as_oserror(problem: BaseException, page: Page) -> OSError:
    """The socket's own exception, or what else HTTP found wrong as one."""
    cause: BaseException | None = problem
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__  # httpcore raises "from None"
    return cause or ConnectionError(f"{page.url}: {problem}")
