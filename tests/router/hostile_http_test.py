"""What hostile clients send over real sockets: each gets a 4xx or is cut, and the router serves the next one."""
import http.client
import json
import os
import re
import socket
import time

from processes import Cluster, check

TIMEOUT_MS = 600


def raw(c, data, timeout=5.0, close_after=None):
    """Sends bytes, returns all that comes back until the other side closes or says no more."""
    with socket.create_connection((c.host, c.port), timeout=timeout) as sock:
        try:
            sock.sendall(data)
        except OSError:
            pass  # refused while we were still sending; the answer may be there all the same
        received = b""
        try:
            while part := sock.recv(65536):
                received += part
                if close_after and close_after in received:
                    break
        except (socket.timeout, ConnectionResetError):
            pass
        return received


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def error_of(answer):
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


def test_bodies(c):
    deep = b'{"prompt":' + b"[" * 50_000
    bodies = [b"", b"{", b"nonsense", b"[]", b'"text"', b"5", b"null", b'{"prompt": NaN}', b'{"prompt":"a","temperature":NaN}',
              b'{"prompt":"a","temperature":-Infinity}', b'{"prompt":"\\ud800"}', b'{"prompt":"\\udfff"}',
              b'{"prompt":"\xff"}', b'{"prompt":"a\x00b"}', b'{"prompt":"a","max_tokens":"5"}', b'{"prompt":[99999999]}',
              b'{"prompt":[-1]}', b'{"prompt":[1e30]}', b'{"prompt":{"a":1}}', b'{"prompt":"a","n":1e9}',
              b'{"prompt":"a","logprobs":-1}', b'{"prompt":"a","stop":' + json.dumps(["x"] * 1000).encode() + b"}",
              b'{"prompt":"a","logit_bias":{"0":NaN}}', b'{"prompt":"a","seed":"x"}', b'{"prompt":"a"}{"prompt":"b"}',
              deep, deep + b"]" * 50_000 + b"}", b'{"a":' * 50_000, b"[" * 1_000_000,
              b'{"prompt":"' + b"x" * 2_000_000 + b'"}', os.urandom(4096)]
    for body in bodies:
        for path in ("/v1/completions", "/v1/chat/completions"):
            status, _, data = c.post(path, body)
            check(status in (400, 404), (path, body[:60], status, data[:300]))
            check(set(json.loads(data)["error"]) == {"message", "type", "param", "code"}, data)
    for path in ("/tokenize", "/detokenize"):
        for body in (b"", b"{", b"[]", b'{"prompt":5}', b'{"tokens":"a"}', b'{"tokens":[1e99]}', deep):
            check(c.post(path, body)[0] == 400, (path, body[:40]))


def test_framing(c):
    post = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    cases = [(post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
             (post + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", 400),
             (post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
             (post + b"Content-Length: -1\r\n\r\n", 400),
             (post + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\nContent-Length: 0\r\n\r\n", 400),
             (post + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
             (post + b"Content-Length: 99999999999\r\n\r\n", 413),
             (post + b"Transfer-Encoding: gzip\r\n\r\n", 400),
             (post + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
             (post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400),
             (post + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 40_000, 400),
             (post + b"X: a\r\n b\r\n\r\n", 400), (post + b"X: a\n\r\n", 400), (b"GET / HTTP/1.1\n\n", 400),
             (b"GET / HTTP/1.1\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00", None), (b"GET\r\n\r\n", 400),
             (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400), (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
             (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
             # DNS rebinding: a page's own name that points at this machine.
             (b"GET /v1/models HTTP/1.1\r\nHost: rebind.example.com:8000\r\n\r\n", 421),
             (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 40_000 + b"\r\n\r\n", 431),
             (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
             (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431)]
    for data, expected in cases:
        answer = raw(c, data)
        status = status_of(answer)
        if expected is None:
            check(status in (None, 400, 408), (data[:60], answer[:200]))
            continue
        check(status == expected, (data[:100], answer[:300]))
        check(error_of(answer)["message"], answer)
        check(b"\r\nX-Request-Id: " in answer, answer)
        check(status not in (413, 431) or re.search(r"limit.* \d+ bytes", error_of(answer)["message"]), answer)
    answer = raw(c, post + b"X-Request-Id: mine/7\r\nContent-Length: 99999999999\r\n\r\n")
    check(b"\r\nX-Request-Id: mine/7\r\n" in answer, answer)
    big = b'{"prompt":"' + b"x" * (9 << 20) + b'"}'
    answer = raw(c, post + b"Content-Length: %d\r\n\r\n" % len(big) + big[:100_000])
    check(status_of(answer) == 413 and "limit" in error_of(answer)["message"], answer[:300])
    chunks = b"".join(b"100000\r\n" + b"x" * 0x100000 + b"\r\n" for _ in range(9))
    check(status_of(raw(c, post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)) == 413, "chunked over the limit")
    # A body in many chunks is fine.
    body = b'{"prompt":"Hello","max_tokens":2}'
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = raw(c, post + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + pieces)
    check(status_of(answer) == 200, answer[:300])
    answer = raw(c, post + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body), close_after=b"100 Continue")
    check(b"100 Continue" in answer, answer)


def test_slow(c):
    for data in (b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nabc"):
        begin = time.monotonic()
        answer = raw(c, data, timeout=10)
        took = time.monotonic() - begin
        check(TIMEOUT_MS / 1000 * 0.8 < took < 5, (data, took))
        check(not data or status_of(answer) == 408, (data, answer))
    # A drip of header bytes does not buy more time.
    with socket.create_connection((c.host, c.port), timeout=5) as sock:
        begin = time.monotonic()
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        check(time.monotonic() - begin < 4, "a slow header was let in")


def test_half_open(c):
    sockets = [socket.create_connection((c.host, c.port), timeout=5) for _ in range(200)]
    for number, sock in enumerate(sockets):
        if number % 2:
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\n")
    begin = time.monotonic()
    status, _, data = c.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    check(status == 200 and time.monotonic() - begin < 1, (status, data))
    deadline = time.monotonic() + 10
    while c.metric("pagoda_router_connections") > 5:
        check(time.monotonic() < deadline, "half-open connections stay")
        time.sleep(0.05)
    for sock in sockets:
        sock.close()


def test_connection_limit(c):
    sockets = [socket.create_connection((c.host, c.port), timeout=5) for _ in range(300)]
    refused = 0
    for sock in sockets:
        sock.settimeout(0.05)
        try:
            refused += b"503" in sock.recv(100)
        except (socket.timeout, OSError):
            pass
    for sock in sockets:
        sock.close()
    check(refused >= 30, f"{refused} of 300 refused with a limit of 250")
    time.sleep(0.2)
    check(c.get("/livez")[0] == 200, "alive")


def test_probes_at_the_limit(c):
    """Full of connections that wait: probes are answered, others are told why not; idle connections give way to new ones."""
    silent = [socket.create_connection((c.host, c.port), timeout=5) for _ in range(280)]
    for path in ("/livez", "/readyz", "/health"):
        check(c.get(path)[0] == 200, path + " at the limit of connections")
    status, headers, data = c.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    check(status == 503 and b"too_many_connections" in data and headers.get("retry-after") == "1", (status, headers, data))
    for sock in silent:
        sock.close()
    idle = []
    for _ in range(250):
        connection = http.client.HTTPConnection(c.host, c.port, timeout=5)
        connection.request("GET", "/livez")
        check(connection.getresponse().read() == b"", "kept alive")
        idle.append(connection)
    status, _, data = c.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    check(status == 200, ("an idle connection gives way", status, data))
    for connection in idle:
        connection.close()


def test_limit_per_address():
    with Cluster(router_flags=["--max-connections-per-address", "20", "--log-level", "warning"]) as c:
        here = [socket.create_connection((c.host, c.port), timeout=5) for _ in range(20)]
        with socket.create_connection((c.host, c.port), timeout=5) as sock:
            check(b"503" in sock.recv(100), "the 21st of an address is refused")
        with socket.create_connection((c.host, c.port), timeout=5, source_address=("127.0.0.2", 0)) as sock:
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            check(b"200" in sock.recv(100), "another address is not concerned")
        here.pop().close()
        time.sleep(0.1)
        check(c.get("/livez")[0] == 200, "room again")
        for sock in here:
            sock.close()


def test_slow_reader(c):
    before = c.metric('pagoda_router_streams_cut_total{reason="slow_reader"}')
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((c.host, c.port))
        body = json.dumps({"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 32,
                           "logprobs": 20}).encode()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        deadline = time.monotonic() + 20
        while c.metric('pagoda_router_streams_cut_total{reason="slow_reader"}') == before:
            check(time.monotonic() < deadline, "a reader that reads nothing is never cut")
            time.sleep(0.05)
    check(c.metric("pagoda_router_requests_in_flight") == 0, "its generation was cancelled")


def main():
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    flags = ["--header-timeout-ms", str(TIMEOUT_MS), "--body-timeout-ms", str(TIMEOUT_MS), "--max-connections", "250",
             "--log-level", "warning", "--write-timeout-ms", "1000"]
    with Cluster(router_flags=flags) as cluster:
        for test in (test_bodies, test_framing, test_slow, test_half_open, test_connection_limit,
                     test_probes_at_the_limit, test_slow_reader):
            test(cluster)
            print("passed", test.__name__)
            status, _, data = cluster.post("/v1/completions", {"prompt": "a", "max_tokens": 3})
            check(status == 200, ("after", test.__name__, status, data))
    test_limit_per_address()
    print("passed test_limit_per_address")


main()
