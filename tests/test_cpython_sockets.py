"""CPython's own tests of sockets, as far as they are about TCP, run with our sockets at both ends.

The cases are those of `Lib/test/test_socket.py` of the Python that runs this; Debian has them in
packages such as libpython3.11-testsuite. `nbtcp.sockets.use` lets `socket.socket` make sockets of a
host that talks to itself. What does not apply is listed here, with the reason.
"""

import gc
import importlib
import os
import unittest
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHost

from nbtcp.sockets import use

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        support: Any = importlib.import_module("test.support")
        support.LOOPBACK_TIMEOUT = 60.0  # s; five are few on a busy machine
        cases: Any = importlib.import_module("test.test_socket")
except ImportError as missing:
    reason = f"{missing}: this Python comes without its tests (Debian: libpython3.11-testsuite)"
    pytest.skip(reason, allow_module_level=True)

CLASSES = """BasicTCPTest BasicTCPTest2 BufferIOTest ContextManagersTest CreateServerFunctionalTest
    CreateServerTest FileObjectClassTestCase InheritanceTest InterruptedSendTimeoutTest
    LineBufferedFileObjectClassTestCase NetworkConnectionAttributesTest
    NetworkConnectionBehaviourTest NetworkConnectionNoServer NonBlockingTCPTests
    NonblockConstantTest RecvmsgIntoTCPTest RecvmsgTCPTest SendfileUsingSendTest SendmsgTCPTest
    SmallBufferedFileObjectClassTestCase TCPCloserTest TCPTimeoutTest
    UnbufferedFileObjectClassTestCase UnicodeReadFileObjectClassTestCase
    UnicodeReadWriteFileObjectClassTestCase UnicodeWriteFileObjectClassTestCase""".split()
"""Those whose sockets are all of TCP."""

GENERAL = """testDefaultTimeout testGetSockOpt testNewAttributes testSendAfterClose testSetSockOpt
    testSockName test_getsockaddrarg test_listen_backlog test_makefile_invalid_mode
    test_makefile_mode test_name_closed_socketio test_pickle test_socket_consistent_sock_type
    test_str_for_enums test_unusable_closed_socketio test_weakref""".split()
"""Of GeneralModuleTests what is about a TCP socket; the others are about the module's functions,
constants and other families."""

COPIES = "our sockets have no descriptor that carries data, so they cannot be copied or handed on"
C_INT = "about the range of C's int"
PORTS = "two listeners on one port: the stack has one for each port"
SENDFILE = "about sendfile(2), which copies from a file to a descriptor of the kernel's"
EXCLUDED = {
    "testDetach": COPIES,
    "testDup": COPIES,
    "testFromFd": COPIES,
    "test_dup": COPIES,
    "test_set_inheritable": COPIES,
    "test_set_inheritable_cloexec": COPIES,
    "test_get_inheritable_cloexec": COPIES,
    "test_socketpair": "a pair of the kernel's",
    "testShutdown_overflow": C_INT,
    "test_reuse_port": PORTS,
    "testNonRegularFile": SENDFILE,
}
SLEEPS = {  # they take seconds: in the soak only
    *("testInsideTimeout", "testOutsideTimeout", "testInterruptedTimeout", "testReadAfterTimeout"),
    *("testRegularFile", "testOffset", "testWithTimeout"),  # 10 MB each
}
SOAK = bool(os.environ.get("NBTCP_SOAK"))


def names() -> list[str]:
    found = [f"GeneralModuleTests.{name}" for name in GENERAL]
    for group in CLASSES:
        tests = unittest.defaultTestLoader.getTestCaseNames(
            getattr(cases, group, unittest.TestCase)
        )
        found += [f"{group}.{name}" for name in tests if name not in EXCLUDED]
    return [name for name in found if SOAK or name.split(".")[1] not in SLEEPS]


@pytest.fixture(scope="module")
def host() -> Iterator[LoopbackHost]:
    gc.freeze()  # each case collects garbage several times: not in all that pytest has loaded
    with LoopbackHost() as host:
        yield host
    gc.unfreeze()


@pytest.mark.parametrize("name", names())
def test_cpythons_case(
    name: str, host: LoopbackHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    result = unittest.TestResult()
    with use(host):
        unittest.defaultTestLoader.loadTestsFromName(name, cases).run(result)
    problems = [text for _, text in [*result.errors, *result.failures]]
    assert not problems, "\n".join(problems)
    assert result.testsRun == 1
    if result.skipped:
        pytest.skip(result.skipped[0][1])
