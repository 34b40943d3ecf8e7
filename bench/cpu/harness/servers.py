"""Servers that rows measure over HTTP: a whole Pagoda cluster, llama.cpp's server, the router before a fake coordinator. A server
is started when a contestant first needs it, idles while the other contestants have their turn, and ends with the run."""

import atexit
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

_running = {}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    def __init__(self, command, log, environment=None):
        self.log = log
        self.process = subprocess.Popen(command, stdout=open(log, "w"), stderr=subprocess.STDOUT, env=environment,
                                        start_new_session=True)
        self.url = ""

    def wait(self, ready, timeout_s=180):
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.process.args[0]} is not ready:\n" + open(self.log).read()[-3000:])
            time.sleep(0.1)

    def answers(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def stop_all():
    for server, folder in _running.values():
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    _running.clear()


atexit.register(stop_all)


def only(*keys):
    """Ends all but these: rows of other layouts would share the cores."""
    for key in [key for key in _running if key not in keys]:
        server, folder = _running.pop(key)
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def pagoda(context, model, *flags):
    """A cluster of `pagoda serve`, of one worker unless flags say otherwise; the server has `url` and `state` (its folder)."""
    flags = tuple(map(str, flags))
    if "--pipeline-parallel-size" not in flags:
        flags = ("--pipeline-parallel-size", "1", *flags)
    key = ("pagoda", model, *flags)
    if key not in _running:
        folder = tempfile.mkdtemp(prefix="pagoda-bench-")
        server = Server([f"{context.build}/bin/pagoda", "serve", "--model", model, "--served-model-name", "bench", "--port", "0",
                         "--state-dir", folder, "--no-example", *flags], f"{folder}/serve.log")
        server.wait(lambda: "Ctrl-C" in open(server.log).read())
        server.url = re.search(r"(http://\S+)/v1", open(server.log).read()).group(1)
        server.state = folder
        _running[key] = (server, folder)
    return _running[key][0]


def pids(server):
    """name -> pid of the children of a cluster."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(server.state in word for word in words) and "--name" in words:
            found[words[words.index("--name") + 1]] = int(entry.name)
    return found


def coordinator_metrics(server):
    """The coordinator's /metrics as text."""
    words = pathlib.Path(f"/proc/{pids(server)['coordinator-0']}/cmdline").read_bytes().decode().split("\0")
    address = words[words.index("--metrics-listen") + 1]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return answer.read().decode()


def metric(text, name):
    """The sum of a metric's series."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.M))


def router_alone(context, step_ms, tokens_per_step=1):
    """The router before a fake coordinator that computes nothing: every request gets tokens without end, `tokens_per_step` at
    a time. The server has `router`, the router's pid."""
    key = ("router", step_ms, tokens_per_step)
    if key not in _running:
        folder = tempfile.mkdtemp(prefix="pagoda-bench-")
        fake = Server([f"{context.build}/bin/fake-coordinator", "--model", context.models.default(), "--model-name", "bench",
                       "--step-ms", str(step_ms), "--tokens-per-step", str(tokens_per_step), "--endless", "--ready-file",
                       f"{folder}/fake"], f"{folder}/fake.log")
        fake.wait(lambda: os.path.exists(f"{folder}/fake"))
        address = open(f"{folder}/fake").read().split()[0]
        server = Server([f"{context.build}/bin/pagoda-router", "--coordinators", address, "--listen", "127.0.0.1:0", "--grpc-listen",
                         "127.0.0.1:0", "--ready-file", f"{folder}/router"], f"{folder}/router.log")
        server.wait(lambda: os.path.exists(f"{folder}/router"))
        listens = re.findall(r"(127\.0\.0\.1:\d+)", open(f"{folder}/router").read())
        server.url = f"http://{listens[0]}"
        server.wait(lambda: server.answers("/readyz"))
        server.router = server.process.pid
        stop_router = server.stop
        server.stop = lambda: (stop_router(), fake.stop())
        _running[key] = (server, folder)
    return _running[key][0]


def llama_server(context, model, slots, context_tokens, flash, unified, isa="native"):
    """llama.cpp's server, all slots of one size."""
    key = ("llama", model, slots, flash, unified, isa)
    if key not in _running:
        path, environment = context.llama.command("llama-server", isa)
        folder = tempfile.mkdtemp(prefix="pagoda-bench-")
        port = free_port()
        threads = str(context.threads)
        server = Server([path, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-t", threads, "-tb", threads, "-np",
                         str(slots), "-c", str(slots * context_tokens), "-b", "2048", "-ub", "512", "-cb", "-fa",
                         "on" if flash else "off", "--kv-unified" if unified else "--no-kv-unified"],
                        f"{folder}/server.log", environment)
        server.url = f"http://127.0.0.1:{port}"
        server.wait(lambda: server.answers("/health"))
        _running[key] = (server, folder)
    return _running[key][0]


def load(context, server, *flags, may_fail=0.0):
    """`pagoda bench` against a server: its JSON. `may_fail`: the share of requests that may (llama-server closes connections that
    were idle a few seconds, and the client's next request on such a one meets the end)."""
    command = [f"{context.build}/bin/pagoda", "bench", "--url", server.url, "--output", "-", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    report = json.loads(done.stdout) if done.stdout.startswith("{") else {"failed": 1, "completed": 0}
    if report["failed"] > may_fail * (report["failed"] + report["completed"]):
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return report
