"""HTTP over our sockets: httpx and httpcore do the protocol, this module gives them a network.

`get` is what `lab.fetch` and `nbtcp.fetch` call; `Transport` makes any `httpx.Client` run on a
`Host`.
"""

import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpcore
import httpx

from ..trace.log import EventLog
from .host import Host
from .sockets import Socket

PROGRESS_FROM = 1_000_000  # octets: shorter bodies need no progress bar
_CHUNK = 1 << 16
Resolver = Callable[[str], str]


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
    resolve: Resolver | None = None,
    progress: bool | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **settings: Any,
) -> Page:
    """GET `url` over `host`'s TCP, following redirects.

    `timeout` (s) bounds each wait. `progress` None: a bar on a terminal, for long bodies.
    `ssl_context` says what HTTPS trusts; else certifi's list, the machine's and SSL_CERT_FILE.
    Raises OSErrors as sockets do; one that comes in the middle of the body has a `page` with what
    had arrived.
    """
    log = host.log if log is None else log
    page = Page(url, 0, "", {}, b"", log)
    parts: list[bytes] = []
    transport = Transport(host, resolve=resolve, log=log, ssl_context=ssl_context, **settings)
    try:
        with (
            httpx.Client(transport=transport, timeout=timeout, follow_redirects=True) as client,
            client.stream("GET", url) as response,
        ):
            page.url, page.status = str(response.url), response.status_code
            page.reason, page.headers = response.reason_phrase, dict(response.headers)
            for part in _with_progress(response, progress):
                parts.append(part)
    except (httpx.HTTPError, httpcore.ProtocolError) as problem:
        raise _as_oserror(problem, page, parts) from problem
    except OSError as problem:
        page.content = b"".join(parts)
        problem.page = page  # type: ignore[attr-defined]
        raise
    finally:
        host.settle(log)
    page.content = b"".join(parts)
    return page


class Transport(httpx.BaseTransport):
    """Runs an `httpx.Client` over a `Host`: `httpx.Client(transport=Transport(lab))`."""

    def __init__(
        self,
        host: Host,
        *,
        resolve: Resolver | None = None,
        log: EventLog | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> None:
        backend = _Backend(host, resolve or str, log, settings)
        self._pool = httpcore.ConnectionPool(ssl_context=ssl_context, network_backend=backend)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _Backend(httpcore.NetworkBackend):
    """Where httpcore gets its connections from."""

    def __init__(
        self, host: Host, resolve: Resolver, log: EventLog | None, settings: dict[str, Any]
    ) -> None:
        self._host = host
        self._resolve = resolve
        self._log = log
        self._settings = settings

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        remote = self._resolve(host), port
        return _Stream(self._host.connect(remote, timeout, log=self._log, **self._settings))


class _Stream(httpcore.NetworkStream):
    """A connected socket as httpcore wants it."""

    def __init__(self, sock: Socket) -> None:
        self._socket = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(timeout)
        return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._socket.settimeout(timeout)
        self._socket.sendall(buffer)

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            return _TlsStream(self, ssl_context, server_hostname, timeout)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        sock = self._socket
        known = {"client_addr": sock.getsockname, "server_addr": sock.getpeername}
        return known[info]() if info in known else sock if info == "socket" else None


class _TlsStream(httpcore.NetworkStream):
    """TLS by the standard library, between two memory buffers and a stream below."""

    def __init__(
        self, below: _Stream, context: ssl.SSLContext, hostname: str | None, timeout: float | None
    ) -> None:
        self._below = below
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=hostname)
        self._do(self._tls.do_handshake, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data: bytes = self._do(partial(self._tls.read, max_bytes), timeout)
            return data
        except ssl.SSLZeroReturnError:  # the peer's close_notify
            return b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        while view:
            view = view[self._do(partial(self._tls.write, view), timeout) :]

    def close(self) -> None:
        self._below.close()

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._below.get_extra_info(info)

    def _do(self, step: Callable[[], Any], timeout: float | None) -> Any:
        """Repeat `step` until TLS neither wants to read nor to write."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush(timeout)
                data = self._below.read(_CHUNK, timeout)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            else:
                self._flush(timeout)
                return result

    def _flush(self, timeout: float | None) -> None:
        if data := self._out.read():
            self._below.write(data, timeout)


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


def _as_oserror(problem: Exception, page: Page, parts: list[bytes]) -> OSError:
    """What httpx found wrong, as the exception a socket would raise."""
    page.content = b"".join(parts)
    error = ConnectionError(f"{page.url}: {problem}")
    error.page = page  # type: ignore[attr-defined]
    return error
