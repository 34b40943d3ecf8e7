"""The cluster that is disturbed: five workers (two pipelines of two stages, one spare), three coordinators on etcd, two routers,
each on a host of its own. A process that dies is started again, as Kubernetes would.

Redundancy, which faults must not exceed: one worker, one coordinator, one router at a time; etcd alone.
"""
import contextlib
import datetime
import http.client
import json
import pathlib
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import cluster  # noqa: E402
from two_hosts_test import model_folders  # noqa: E402

PIPELINES, STAGES = 2, 2
WORKERS = [f"w{i}" for i in range(PIPELINES * STAGES + 1)]
COORDINATORS = ["c0", "c1", "c2"]
ROUTERS = ["r0", "r1"]
HOSTS = {name: f"10.77.1.{10 + i}" for i, name in enumerate([*WORKERS, *COORDINATORS, *ROUTERS, "etcd"])}
WITHOUT_THE_MODEL = {"w3", "w4"}  # they get their shards through the cluster
MODEL = "chaos"
RESTART_AFTER_S = 0.1  # of what died by itself


def log_time(entry):
    """Of a JSON log line, in seconds since 1970."""
    return datetime.datetime.fromisoformat(entry["time"]).timestamp()


class Testbed:
    def __init__(self, network):
        self.network = network
        self.children = {}   # name -> Popen
        self.ended = []      # (time, name, status) of those that were started again
        self.down = set()    # not to be started again for now
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.coordinators = [f"{HOSTS[name]}:7070" for name in COORDINATORS]
        self.urls = [f"http://{HOSTS[name]}:8000" for name in ROUTERS]
        self.grpc_addresses = [f"{HOSTS[name]}:8001" for name in ROUTERS]
        self.offsets = {}    # log -> how far it has been read
        self.entries = {}    # log -> its JSON lines so far
        self.step_rows = 256  # max_num_batched_tokens
        self.seen = None     # (who leads, what it says) when it was last looked

    # --- processes

    def __enter__(self):
        for name, address in HOSTS.items():
            self.network.add(name, address, disk_mib=320 if name == "etcd" else 200,
                             hidden=model_folders() if name in WITHOUT_THE_MODEL else ())
        for name in ["etcd", *COORDINATORS, *WORKERS, *ROUTERS]:
            self.start(name)
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()
        self.wait_for(self._deployed, 60, "no coordinator takes the deployment")
        self.wait_for(lambda: not self.missing(), 60, self.missing)
        return self

    def __exit__(self, *_):
        self.closing.set()
        with self.lock:
            for child in self.children.values():
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                child.wait()

    def _deployed(self):
        with contextlib.suppress(Exception):  # nobody leads yet
            self.admin(self.leader(), "ApplyDeployment", spec={
                "name": MODEL, "model": cluster.model_path(), "pipeline_parallel_size": STAGES, "tensor_parallel_size": [1],
                "replicas": PIPELINES, "max_model_len": 512, "kv_cache_bytes": 64 << 20, "max_num_batched_tokens": self.step_rows})
            return True
        return False

    def apply_another(self):
        """A spec of which every pipeline is made anew, with the same tokens; nothing is done until a leader takes it."""
        self.step_rows = 448 - self.step_rows
        self.wait_for(self._deployed, 60, "no coordinator takes another spec")
        return self.step_rows

    def command(self, name):
        address = HOSTS[name]
        binary, disk = cluster.binary_folder(), self.network.disk(name)
        if name == "etcd":
            client, peer = f"http://{address}:2379", f"http://{address}:2380"
            return ["etcd", "--name", "e", "--data-dir", disk / "data", "--listen-client-urls", client, "--advertise-client-urls", client,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"e={peer}"]
        everyone = ",".join(self.coordinators)
        if name in COORDINATORS:
            return [binary / "pagoda-coordinator", "--name", name, "--listen", f"{address}:7070", "--metrics-listen", f"{address}:7071",
                    "--store", f"etcd://{HOSTS['etcd']}:2379/chaos", "--cache-dir", disk / "cache"]
        if name in WORKERS:
            return [binary / "pagoda-worker", "--name", name, "--coordinators", everyone, "--advertise", address, "--blob-listen",
                    f"{address}:0", "--metrics-listen", f"{address}:7071", "--transports", "tcp,self", "--net-devices", "eth0",
                    "--memory-bytes", 1 << 30, "--kv-cache-bytes", 64 << 20, "--threads", 1, "--cache-dir", disk / "cache"]
        return [binary / "pagoda-router", "--name", name, "--coordinators", everyone, "--listen", f"{address}:8000",
                "--grpc-listen", f"{address}:8001"]

    def log(self, name):
        return self.network.disk(name) / "log"

    def start(self, name):
        with self.lock:
            self.children[name] = self.network.start(name, self.command(name), self.log(name))

    def pid(self, name):
        return self.children[name].pid

    def _keep(self):
        died_at = {}
        while not self.closing.wait(0.05):
            with self.lock:
                for name, child in self.children.items():
                    if child.poll() is None or name in self.down or self.closing.is_set():
                        died_at.pop(name, None)
                        continue
                    if name not in died_at:
                        died_at[name] = time.monotonic()
                        self.ended.append((time.monotonic(), name, child.returncode))
                    if time.monotonic() - died_at[name] > RESTART_AFTER_S:
                        died_at.pop(name)
                        self.start(name)

    # --- what it says of itself

    def admin(self, name, method, timeout_s=30, **fields):
        return cluster.admin_call(f"{HOSTS[name]}:7070", method, timeout_s=timeout_s, **fields)

    def leader(self):
        for name in COORDINATORS:
            with contextlib.suppress(Exception):
                self.admin(name, "GetCluster", timeout_s=1)
                return name
        return None

    def state(self):
        """(who leads, what it says), or None when nobody answers."""
        for name in COORDINATORS:
            with contextlib.suppress(Exception):
                return name, self.admin(name, "GetCluster", timeout_s=1)
        return None

    def get(self, name, port, target, timeout_s=1):
        connection = http.client.HTTPConnection(HOSTS[name], port, timeout=timeout_s)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return None, ""
        finally:
            connection.close()

    def metrics(self, name):
        return cluster.parse_metrics(self.get(name, 8000 if name in ROUTERS else 7071, "/metrics")[1])

    def missing(self):
        """What is not as it should be, in words; empty: all that the set-up states is there."""
        for name, child in self.children.items():
            if child.poll() is not None:
                return f"{name} does not run"
        if self.get("etcd", 2379, "/health")[0] != 200:
            return "etcd does not answer"
        seen = self.state()
        if seen is None:
            return "no coordinator leads"
        leader, state = self.seen = seen
        for name in COORDINATORS:
            if name != leader and self.get(name, 7071, "/livez")[0] != 200:
                return f"{name} does not answer"
        live = {worker.name: worker.state for worker in state.workers}
        if sorted(live) != WORKERS or sorted(live.values()) != ["idle"] + ["ready"] * (PIPELINES * STAGES):
            return f"workers are {live}"
        ready = [pipeline.id for pipeline in state.pipelines if pipeline.state == "ready"]
        rolled = all(d.replicas_ready == PIPELINES and d.spec.max_num_batched_tokens == self.step_rows for d in state.deployments)
        if len(ready) != PIPELINES or len(state.pipelines) != PIPELINES or not rolled:
            return f"pipelines are {[(pipeline.id, pipeline.state) for pipeline in state.pipelines]}"
        for name in ROUTERS:
            # A router that does not know all pipelines, or not all coordinators, has less redundancy than was said.
            figures = self.metrics(name)
            if figures.get(f'pagoda_router_pipelines_ready{{model_name="{MODEL}"}}') != PIPELINES:
                return f"{name} does not see {PIPELINES} pipelines"
            if figures.get("pagoda_router_coordinators_attached") != len(COORDINATORS):
                return f"{name} is attached to {figures.get('pagoda_router_coordinators_attached')} coordinators"
        return ""

    def wait_for(self, condition, timeout_s, what):
        """How long it took; None when it did not come."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise AssertionError(what() if callable(what) else what)
            time.sleep(0.05)
        return time.monotonic() - started

    def events(self, *kinds):
        """(time, who logged it, line) of the JSON log lines of these kinds, of all processes, in order of time."""
        found = []
        for name in self.children:
            if name == "etcd":
                continue
            with self.lock:
                self._read_log(name)
                found += [(log_time(entry), name, entry) for entry in self.entries[name] if entry.get("event") in kinds]
        return sorted(found, key=lambda one: one[0])

    def _read_log(self, name):
        entries = self.entries.setdefault(name, [])
        with open(self.log(name), "rb") as log:
            log.seek(self.offsets.get(name, 0))
            text = log.read()
        text = text[:text.rfind(b"\n") + 1]
        self.offsets[name] = self.offsets.get(name, 0) + len(text)
        for line in text.decode(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                with contextlib.suppress(ValueError):
                    entries.append(json.loads(line))

    def leases(self):
        """How many leases etcd has."""
        request = urllib.request.Request(f"http://{HOSTS['etcd']}:2379/v3/lease/leases", data=b"{}", method="POST")
        with urllib.request.urlopen(request, timeout=5) as response:
            return len(json.loads(response.read()).get("leases", []))
