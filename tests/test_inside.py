"""The web site of the private network, over loopback: no root, no namespaces."""

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from xml.dom import minidom

import pytest

from nbtcp import inside

BLOCK = len(inside.BLOCK)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with inside.Server(("127.0.0.1", 0), inside.Site) as server:
        # The interval is how long shutdown() takes; nothing else waits for it.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def web(port: int) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        yield connection


def ask(
    web: http.client.HTTPConnection, method: str, path: str, body: object = None, **kwargs: object
) -> tuple[int, bytes]:
    web.request(method, path, body, **kwargs)  # type: ignore[arg-type]
    answer = web.getresponse()
    return answer.status, answer.read()


def raw(port: int, request: bytes) -> bytes:
    """Send these bytes on a connection of their own, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


# ---- the content


def test_content_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for piece in inside.content(3_000_000):
        digest.update(piece)
    assert digest.hexdigest() == "cccdcf42971ec504e62b428c81c4f3cad960d7e3b0c5a88c31d452892e8ba083"


@pytest.mark.parametrize("size", [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1])
def test_content_has_exactly_the_size(size: int) -> None:
    assert sum(map(len, inside.content(size))) == size


def test_content_that_is_moved_is_other_content() -> None:
    """Unless it is moved by that many bytes, a prime: no multiple of a segment's."""
    whole = b"".join(inside.content(3_000_000))
    assert whole.index(whole[:100], 1) == BLOCK
    assert all(BLOCK % number for number in range(2, 1001))


# ---- GET


@pytest.mark.parametrize("size", [0, 1, 1459, 1460, 65_536, BLOCK + 1, 5_000_000])
def test_bytes(web: http.client.HTTPConnection, size: int) -> None:
    assert ask(web, "GET", f"/bytes/{size}") == (200, b"".join(inside.content(size)))


def test_head_is_the_header_alone(web: http.client.HTTPConnection) -> None:
    web.request("HEAD", "/bytes/4294967296")
    answer = web.getresponse()
    assert (answer.status, answer.headers["Content-Length"]) == (200, "4294967296")
    assert answer.read() == b""
    assert ask(web, "HEAD", "/") == (200, b"")


def test_one_connection_takes_many_requests(web: http.client.HTTPConnection) -> None:
    web.connect()
    first = web.sock
    for path, status in [("/", 200), ("/nowhere", 404), ("/bytes/9", 200)]:
        assert ask(web, "GET", path)[0] == status
    assert ask(web, "POST", "/nowhere", b"z" * 100_000)[0] == 404
    assert ask(web, "POST", "/echo", b"z")[1] == b"z"
    assert web.sock is first


def test_requests_sent_together_are_answered_in_order(port: int) -> None:
    get = b"GET /bytes/%d HTTP/1.1\r\nHost: a\r\n\r\n"
    answers = raw(port, get % 3 + get % 5)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.endswith(b"Content-Length: 5\r\n\r\n" + inside.BLOCK[:5])


def test_http_1_0_closes(port: int) -> None:
    assert raw(port, b"GET /bytes/3 HTTP/1.0\r\n\r\n").endswith(inside.BLOCK[:3])


@pytest.mark.parametrize("size", ["-1", "x", "", "1.5", "4294967297", "9" * 30, "1/2", "%31"])
def test_bytes_refuses_what_is_no_size(web: http.client.HTTPConnection, size: str) -> None:
    status, text = ask(web, "GET", f"/bytes/{size}")
    assert status == 400
    assert b"is not a number from 0 to 4294967296" in text


@pytest.mark.parametrize(
    "query", ["seconds=-1", "seconds=x", "seconds=nan", "seconds=61", "seconds="]
)
def test_slow_refuses_what_is_no_number(web: http.client.HTTPConnection, query: str) -> None:
    assert ask(web, "GET", f"/slow?{query}")[0] == 400


def test_slow_waits(web: http.client.HTTPConnection) -> None:
    begin = time.monotonic()
    assert ask(web, "GET", "/slow?seconds=0.1") == (200, b"after 0.1 s\n")
    assert 0.1 <= time.monotonic() - begin < 20


def test_the_pages_link_only_to_what_is_there(web: http.client.HTTPConnection) -> None:
    for path, (body, kind) in inside.PAGES.items():
        if kind == "text/css":
            continue
        assert ask(web, "GET", path) == (200, body)
        if kind.startswith("text/html"):
            links = [part.split('"')[0] for part in body.decode().split('="/')[1:]]
            assert "segments.svg" in links
            for link in links:
                target = "/" + link.replace("&amp;", "&").replace("seconds=2", "seconds=0")
                assert ask(web, "HEAD", target)[0] == 200
        else:
            root = minidom.parseString(body).documentElement
            assert root is not None
            assert root.tagName == "svg"


def test_a_body_with_get_is_not_taken_for_a_request(port: int) -> None:
    hidden = b"GET /bytes/1 HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    assert raw(port, head + hidden).count(b"HTTP/1.1 ") == 1


# ---- POST


def test_wrong_methods(web: http.client.HTTPConnection) -> None:
    assert ask(web, "GET", "/echo")[0] == 404
    assert ask(web, "POST", "/")[0] == 404
    assert ask(web, "DELETE", "/")[0] == 501


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_echo(web: http.client.HTTPConnection, size: int) -> None:
    # http.client sends all before it reads: the server must not wait for it to read.
    body = b"".join(inside.content(size))
    assert ask(web, "POST", "/echo", body) == (200, body)


def test_echo_in_chunks(web: http.client.HTTPConnection) -> None:
    pieces = [b"a", b"bc" * 100_000, b"d" * 10]
    web.request("POST", "/echo", iter(pieces), encode_chunked=True)
    answer = web.getresponse()
    assert answer.headers["Connection"] == "close"
    assert answer.read() == b"".join(pieces)
    assert ask(web, "GET", "/bytes/1")[0] == 200


def test_echo_answers_while_the_body_still_comes(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        answer = b""
        while not answer.endswith(b"abc"):
            answer += connection.recv(1000)
        connection.sendall(b"def")
        assert connection.recv(1000) == b"def"


def test_sink(web: http.client.HTTPConnection) -> None:
    body = b"".join(inside.content(3_000_000))
    expected = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    for sent in (body, iter([body[:10], body[10:]])):
        status, text = ask(web, "POST", "/sink", sent, encode_chunked=True)
        assert (status, json.loads(text)) == (200, expected)
    assert json.loads(ask(web, "POST", "/sink")[1])["bytes"] == 0


def test_expect_continue_is_answered_at_once(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert b'"bytes": 2' in connection.recv(1000)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: x",
        b"Content-Length: -1",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
    ],
)
@pytest.mark.parametrize("path", [b"/echo", b"/sink", b"/nowhere"])
def test_bodies_with_bad_framing(port: int, path: bytes, fields: bytes) -> None:
    answer = raw(port, b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\nabc" % (path, fields))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", [b"/sink", b"/nowhere"])
@pytest.mark.parametrize("chunks", [b"zz\r\n", b"\r\n", b"-5\r\nabcde\r\n0\r\n\r\n"])
def test_chunks_that_are_none(port: int, path: bytes, chunks: bytes) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % path
    assert raw(port, head + chunks).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", [b"/sink", b"/nowhere"])
def test_a_body_that_ends_early_gets_no_answer(port: int, path: bytes) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc" % path
    assert raw(port, head) == b""


def test_an_echo_that_goes_wrong_later_ends_short(port: int) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(port, head + b"3\r\nabc\r\nzz\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nabc")
