"""How fast a fetch is: 200 MB from the lab, log on, beside the kernel's own TCP on the same work.

    python benchmarks/fetch.py [--size OCTETS] [--runs N] [--profile] [--offload]

Both clients are Python and read the same /bytes/N from the same server; ours over the lab's TUN
device, the kernel's inside the same namespace over loopback. Loopback is run with MTU 1500 and
without segmentation offload, so that both handle the same segments, and once as it is (MTU 65536
and offload). Ours is also run with `Config(offload=True)`, on five times as much, and both ways
round: sending to a program that only reads. The runs take turns, and the ratios are the medians of
one call. Absolute figures are those of one machine on one day.
"""

import argparse
import cProfile
import pstats
import statistics
import subprocess
import sys
import time

import nbtcp
from nbtcp.trace.log import LAYOUTS

REQUEST = "GET /bytes/{} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
LABELS = {
    "log": "nbtcp, log on",
    "no log": "nbtcp, no log",
    "offload": "nbtcp, offload, log on",
    "offload, no log": "nbtcp, offload, no log",
    "sending": "nbtcp, sending, log on",
    "sending, offload": "nbtcp, sending, offload, log on",
    "kernel 1500": "kernel, loopback, MTU 1500, no offload",
    "kernel": "kernel, loopback as it is",
}
KERNEL_CLIENT = """
import socket, sys, time
size = int(sys.argv[1])
began = time.perf_counter()
sock = socket.create_connection(("10.0.0.1", 80))
sock.sendall({request!r}.format(size).encode())
buffer, got = bytearray(1 << 18), 0
while n := sock.recv_into(buffer):
    got += n
assert got > size
print(time.perf_counter() - began)
"""
READER = """
import socket
server = socket.create_server(("10.0.0.1", 9))
print("ready", flush=True)
buffer = bytearray(1 << 20)
while True:
    sock, got = server.accept()[0], 0
    while n := sock.recv_into(buffer):
        got += n
    sock.sendall(str(got).encode())
    sock.close()
"""
MEGABYTE = bytes(1_000_000)


def sending(lab: nbtcp.Lab, size: int) -> float:
    """Seconds that our TCP takes to send whole megabytes, until the reader says that it has all."""
    lab.stack.observer = lab.new_log()
    began = time.perf_counter()
    with lab.connect((lab.kernel_address, 9), 10) as sock:
        for _ in range(size // len(MEGABYTE)):
            sock.sendall(MEGABYTE)
        sock.shutdown(1)
        assert int(sock.recv(100)) == size // len(MEGABYTE) * len(MEGABYTE)
    return time.perf_counter() - began


def ours(lab: nbtcp.Lab, size: int, log: bool) -> tuple[float, float]:
    """(seconds, segments sent and received) of one fetch of `size` octets by our TCP."""
    events = lab.new_log()
    lab.stack.observer = events if log else None
    began = time.perf_counter()
    with lab.connect((lab.kernel_address, 80), 10) as sock:
        sock.sendall(REQUEST.format(size).encode())
        got = 0
        while data := sock.recv(1 << 18):
            got += len(data)
    seconds = time.perf_counter() - began
    assert got > size, f"{got} octets of {size}"
    return seconds, len(events.rows["segments"]) / LAYOUTS["segments"].size


def kernels(lab: nbtcp.Lab, size: int) -> float:
    """Seconds that the kernel's TCP takes for the same, from within the namespace."""
    program = KERNEL_CLIENT.format(request=REQUEST)
    done = lab.run(
        [sys.executable, "-c", program, str(size)], capture_output=True, timeout=120, check=True
    )
    return float(done.stdout)


def loopback(lab: nbtcp.Lab, plain: bool) -> None:
    """Loopback inside the namespace: with segments of the lab's size, or as it usually is."""
    mtu, offload = ("1500", "1") if plain else ("65536", "65535")
    segments = ["gso_max_segs", offload]
    done = lab.run(
        ["ip", "link", "set", "lo", "mtu", mtu, *segments], capture_output=True, timeout=10
    )
    if done.returncode:
        raise SystemExit(f"ip link: {done.stderr.decode().strip()}")


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=200_000_000, help="octets of one fetch")
    parser.add_argument("--runs", type=int, default=3, help="fetches of each kind")
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("--offload", action="store_true", help="with offload, for --profile")
    options = parser.parse_args()
    if options.profile:
        with nbtcp.Lab(config=nbtcp.Config(offload=options.offload)) as lab:
            profile(lab, options.size)
        return
    with nbtcp.Lab() as lab, nbtcp.Lab(config=nbtcp.Config(offload=True)) as bulk:
        for one in (lab, bulk):
            reader = one.popen([sys.executable, "-c", READER], stdout=subprocess.PIPE)
            assert reader.stdout is not None
            reader.stdout.readline()
        measure(lab, bulk, options.size, options.runs)


def measure(lab: nbtcp.Lab, bulk: nbtcp.Lab, size: int, runs: int) -> None:
    """The table: medians of `runs`, taken in turns. Times are those of `size` octets."""
    ours(lab, size // 20, log=True)
    ours(bulk, size // 4, log=True)
    times: dict[str, list[float]] = {name: [] for name in LABELS}
    segments = []
    for _ in range(runs):
        seconds, rows = ours(lab, size, log=True)
        times["log"].append(seconds)
        segments.append(rows / seconds)
        times["no log"].append(ours(lab, size, log=False)[0])
        times["offload"].append(ours(bulk, 5 * size, log=True)[0] / 5)
        times["offload, no log"].append(ours(bulk, 5 * size, log=False)[0] / 5)
        times["sending"].append(sending(lab, size))
        times["sending, offload"].append(sending(bulk, 5 * size) / 5)
        loopback(lab, plain=True)
        times["kernel 1500"].append(kernels(lab, size))
        loopback(lab, plain=False)
        times["kernel"].append(kernels(lab, 5 * size) / 5)
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{size:,} octets, median of {runs}:")
    print(f"{'':38} {'Gbit/s':>8} {'of nbtcp':>9}")
    for name, label in LABELS.items():
        print(
            f"{label:38} {size * 8 / median[name] / 1e9:8.3f} {median['log'] / median[name]:8.2f}x"
        )
    print(
        f"segments per second, log on, both directions counted: {statistics.median(segments):,.0f}"
    )


def profile(lab: nbtcp.Lab, size: int) -> None:
    """Where the time of one fetch goes."""
    ours(lab, size // 20, log=True)
    profiler = cProfile.Profile()
    profiler.runcall(ours, lab, size, True)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
