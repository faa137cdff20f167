"""A web server on our TCP: of a directory, or of a WSGI application (PEP 3333).

The standard library does HTTP (http.server, wsgiref, socketserver). This module gives it our
sockets, and bounds what clients can ask for. It is made for looking at TCP.
"""

import contextlib
import os
import re
import sys
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from socketserver import BaseServer, ThreadingMixIn
from typing import Any, BinaryIO, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from .host import Host

MOST_CLIENTS = 256  # answered at once, a thread each; others wait in the accept queue
BACKLOG = 1024  # connections
PATIENCE = 30.0  # s without a request, or without room for an answer, until we hang up
_BUFFER = 1 << 16  # octets: a header and a small body leave in one segment
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")
_INDEX = ("index.html", "index.htm")


class Server(ThreadingMixIn, BaseServer):
    """Answers clients of `host` at `port` in threads of its own, until it or the host is closed.

    `handler` is what `files` or `application` gives. `ended` is set when nobody is accepted any
    more. Raises OSError when the port is taken.
    """

    daemon_threads = True

    def __init__(self, host: Host, port: int, handler: Any) -> None:
        super().__init__((host.address, port), handler)
        self.url = f"http://{host.address}:{port}/"
        self.base_environ = {"SERVER_NAME": host.address, "SERVER_PORT": str(port)}  # of CGI
        self.base_environ |= {"SCRIPT_NAME": "", "CONTENT_LENGTH": ""}
        self.ended = threading.Event()
        self._loop = host.loop
        self._room = threading.Semaphore(MOST_CLIENTS)
        self._socket = host.listen(port, BACKLOG)
        threading.Thread(target=self.serve_forever, name="nbtcp server", daemon=True).start()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept clients; it has begun when the server was made."""
        try:
            while self._room.acquire():
                client: Any = self._socket.accept()
                self.process_request(*client)
        except OSError:
            pass  # the socket was closed, or its host
        finally:
            self.ended.set()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one client, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def close_request(self, request: Any) -> None:
        """What was sent is still delivered."""
        with contextlib.suppress(OSError):
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Accept nobody any more; answers that have begun end with the host at the latest."""
        if self._loop.failure is None:  # else the host has ended, and `accept` with it
            self._socket.close()
            self._loop.clock.wake()  # `accept` shall look


def files(directory: str | os.PathLike[str]) -> Any:
    """The handler of a directory: files, parts of files, listings, and nothing from outside it."""
    return partial(_Files, directory=os.path.realpath(directory))


def application(app: Any) -> Any:
    """The handler of a WSGI application; each request has a connection of its own."""
    return partial(_Application, app=app)


class _Handler(BaseHTTPRequestHandler):
    """What the two handlers have in common."""

    timeout = PATIENCE
    rbufsize = wbufsize = _BUFFER

    def version_string(self) -> str:
        return "nbtcp"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing, for the event log tells more."""

    def handle_expect_100(self) -> bool:
        """At once, for the client waits."""
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on


class _Files(_Handler, SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    left = sys.maxsize  # octets of the file that are still to be sent

    def send_head(self) -> Any:
        """The file whose content is the answer, or None."""
        path = self.translate_path(self.path)
        pages = (os.path.join(path, name) for name in _INDEX)
        if not all(map(self._may_see, [path, *filter(os.path.isfile, pages)])):
            self.send_error(HTTPStatus.NOT_FOUND, "File not found")
            return None
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked and "If-Range" not in self.headers and os.path.isfile(path):
            with contextlib.suppress(PermissionError):
                return self._send_part(path, *asked.groups())
        self.left = sys.maxsize
        return super().send_head()

    def end_headers(self) -> None:
        """Clients of HTTP/1.0, such as ab, want to be told."""
        if not self.close_connection:
            self.send_header("Connection", "keep-alive")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while self.left > 0 and (data := source.read(min(self.left, _BUFFER))):
            outputfile.write(data)
            self.left -= len(data)

    def _may_see(self, path: str) -> bool:
        """Whether a file or a directory is there and in ours, whatever links lead to it."""
        try:
            path = os.path.realpath(path)
        except ValueError:  # no name at all
            return False
        inside = os.path.commonpath([path, self.directory]) == self.directory
        return inside and (os.path.isfile(path) or os.path.isdir(path))

    def _send_part(self, path: str, first: str, last: str, suffix: str) -> Any:
        """RFC 9110 14.2: some octets of a file; 15.5.17 when it has no such octets."""
        file = open(path, "rb")  # noqa: SIM115 do_GET closes it
        size = os.fstat(file.fileno()).st_size
        start = int(first) if first else max(size - int(suffix), 0)
        end = min(int(last) + 1, size) if last else size
        self.left = max(end - start, 0)
        if self.left:
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Type", self.guess_type(path))
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
        self.send_header("Content-Length", str(self.left))
        self.end_headers()
        file.seek(start)
        return file


class _Application(_Handler, WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # else "Expect: 100-continue" would not be answered

    def __init__(self, *arguments: Any, app: Any) -> None:
        self.app = app
        super().__init__(*arguments)

    def handle(self) -> None:
        """The standard library's own would tell the application that it has one thread."""
        self.raw_requestline = self.rfile.readline(65537)
        if self.parse_request():
            source, sink = cast(BinaryIO, self.rfile), cast(BinaryIO, self.wfile)
            handler: Any = ServerHandler(source, sink, sys.stderr, self.get_environ())
            handler.request_handler = self
            handler.run(self.app)
