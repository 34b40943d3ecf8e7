"""A model hub that behaves as huggingface.co does, and misbehaves on demand, for tests/checkpoint/pull_test.cc.

usage: fake_hub.py FOLDER [--tls]. Serves FOLDER's files as every repository org/*; large ones (*.safetensors, *.gguf) by a redirect
to a second server, which refuses a request that carries a token. Prints "hub PORT storage PORT", ends when stdin closes.
What a repository does is its name: see `trouble`. GET /log gives one line per request to the storage: path, Range, If-Range.
"""

import hashlib
import http.server
import json
import pathlib
import ssl
import subprocess
import sys
import threading

FOLDER = pathlib.Path(sys.argv[1])
TLS = "--tls" in sys.argv
COMMIT = "0123456789abcdef0123456789abcdef01234567"
log = []
counts = {}
lock = threading.Lock()


def count(key):
    with lock:
        counts[key] = counts.get(key, 0) + 1
        return counts[key]


def is_large(name):
    return name.endswith((".safetensors", ".gguf"))


def content(repo, name):
    data = (FOLDER / name).read_bytes()
    return bytes(b ^ 1 for b in data[:1]) + data[1:] if repo == "corrupt" else data


def tag(name):
    data = (FOLDER / name).read_bytes()
    return hashlib.sha256(data).hexdigest() if is_large(name) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def files(repo):
    names = sorted(p.name for p in FOLDER.iterdir() if p.suffix != ".pem")
    ggufs = [n for n in names if n.endswith(".gguf")]
    if repo == "one-gguf":
        return ["README.md", ggufs[0]]
    if repo == "many-ggufs":
        return ["README.md", *ggufs]
    if repo == "empty":
        return ["README.md"]
    names = [n for n in names if not n.endswith(".gguf")]
    return names + ["../../evil.json", "sub/model.safetensors", "/etc/passwd", ".."] if repo == "evil" else names


class Base(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_range(self, data, etag, **headers):
        """What a server does with Range and If-Range."""
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if wanted and (condition is None or condition == etag):
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
            if first >= len(data):
                return self.answer(416)
            return self.answer(206, data[first:], ETag=etag, Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}", **headers)
        return self.answer(200, data, ETag=etag, **headers)


class Hub(Base):
    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["log"]:
            return self.answer(200, "\n".join(log).encode())
        repo = parts[3] if parts[0] == "api" else parts[1]
        token = self.headers.get("Authorization")
        if repo == "private" and token != "Bearer good":
            return self.answer(401)
        if repo == "gated":
            return self.answer(403)
        if repo == "missing" or (parts[0] == "api" and parts[-1] not in ("main", "v2")):
            return self.answer(404)
        if repo == "flaky" and count(self.path) <= 2:
            return self.answer(503)
        if repo == "loop":
            return self.answer(302, Location=self.path)
        if repo == "plain-http" and parts[0] != "api":
            return self.answer(302, Location="http://example.com/x")
        if parts[0] == "api":
            return self.answer(200, json.dumps({"sha": COMMIT, "siblings": [{"rfilename": n} for n in files(repo)]}).encode())
        name = parts[-1]
        if name not in files(repo) or parts[-2] != COMMIT:
            return self.answer(404)
        data = content(repo, name)
        if not is_large(name):
            return self.send_range(data, f'"{tag(name)}"', X_Repo_Commit=COMMIT)
        where = f"{'https' if TLS else 'http'}://localhost:{storage.server_port}/{repo}/{name}?signature=abc"
        return self.answer(302, Location=where, X_Linked_Etag=f'"{tag(name)}"', X_Linked_Size=str(len(data)), ETag='"redirect"')


class Storage(Base):
    def do_GET(self):
        if self.headers.get("Authorization"):
            return self.answer(400, b"a token was sent to the storage")
        repo, name = self.path.split("?")[0].strip("/").split("/")
        log.append(f"{repo}/{name} {self.headers.get('Range', '-')} {self.headers.get('If-Range', '-')}")
        data = content(repo, name)
        etag = '"storage-1"'
        number = count(self.path)
        if repo == "changing" and number > 1:
            etag = '"storage-2"'
        if repo in ("cutting", "stopped", "changing", "always-cut") and (number <= 2 or repo == "always-cut"):
            return self.cut(data, etag, 0 if repo == "always-cut" and number > 1 else len(data) // 3)
        if repo == "stalling" and number == 1:
            self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:100])
            self.wfile.flush()
            stopped.wait(5)
            self.close_connection = True
            return None
        return self.send_range(data, etag)

    def cut(self, data, etag, length):
        first = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == etag:
            first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        self.wfile.write(data[first:first + length])
        self.wfile.flush()
        self.close_connection = True


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if TLS:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(FOLDER / "hub.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if TLS:
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost", "-keyout", FOLDER / "key.pem", "-out", FOLDER / "ca.pem"],
                   check=True, capture_output=True)
    (FOLDER / "hub.pem").write_bytes((FOLDER / "key.pem").read_bytes() + (FOLDER / "ca.pem").read_bytes())
stopped = threading.Event()
storage = serve(Storage)
hub = serve(Hub)
print("hub", hub.server_port, "storage", storage.server_port, flush=True)
sys.stdin.read()
stopped.set()
