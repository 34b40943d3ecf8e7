"""Binaries that nobody watches over or starts again: a coordinator or two, workers, routers."""
import http.client
import pathlib
import socket
import subprocess
import time

import cluster

KV = 64 << 20


class Process:
    """One binary with a ready file."""

    def __init__(self, folder, binary, name, *arguments):
        self.ready_file = pathlib.Path(folder, name + ".ready")
        self.log = open(pathlib.Path(folder, name + ".log"), "w")
        self.process = subprocess.Popen([str(cluster.binary_folder() / binary), "--name", name, "--ready-file",
                                         str(self.ready_file), *arguments], stdout=self.log, stderr=self.log)
        wait_for(self.ready_file.exists, f"{binary} does not start")

    def ready_text(self):
        return self.ready_file.read_text().split()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            assert self.process.wait(30) == 0, "it did not end by itself"
        finally:
            self.process.kill()
            self.log.close()


def wait_for(condition, what, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def answers_at(port, path="/health"):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Bare:
    """Coordinators with one store, workers and routers; a model as `spec` says."""

    def __init__(self, folder, coordinators=1, workers=2, routers=1, **spec):
        self.folder, self.name = folder, "test-model"
        self.counts = coordinators, workers, routers
        self.spec = {"name": self.name, "model": cluster.model_path(), "pipeline_parallel_size": 2, "tensor_parallel_size": [1],
                     "replicas": 1, "max_model_len": 1024, "kv_cache_bytes": KV, **spec}
        self.processes = []

    def start(self, binary, name, *arguments):
        process = Process(self.folder, binary, name, *arguments)
        self.processes.append(process)
        return process

    def __enter__(self):
        try:
            self.begin()
            return self
        except BaseException:
            self.__exit__()
            raise

    def begin(self):
        coordinators, workers, routers = self.counts
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(coordinators)]
        store = ["--store", str(pathlib.Path(self.folder, "store.db"))] if coordinators > 1 else []
        self.coordinators = [self.start("pagoda-coordinator", f"coordinator-{i}", "--listen", address, "--metrics-listen", "", *store)
                             for i, address in enumerate(self.addresses)]
        self.workers = [self.worker(f"worker-{i}") for i in range(workers)]
        self.routers = [self.start("pagoda-router", f"router-{i}", "--coordinators", ",".join(self.addresses), "--listen", "127.0.0.1:0",
                                   "--grpc-listen", "127.0.0.1:0") for i in range(routers)]
        self.ports = [int(router.ready_text()[1].rsplit(":", 1)[1]) for router in self.routers]
        self.http_port = self.ports[0]
        self.apply()
        for port in self.ports:
            wait_for(lambda port=port: answers_at(port), "the model does not get ready")
        wait_for(lambda: self.deployment().replicas_ready == self.spec["replicas"], "not all replicas get ready")

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()
            process.log.close()

    def worker(self, name):
        return self.start("pagoda-worker", name, "--coordinators", ",".join(self.addresses), "--threads", "1", "--memory-bytes", str(1 << 30))

    def leader(self):
        """The index of the coordinator that leads, once one does."""
        import grpc
        found = []

        def look():
            for i, address in enumerate(self.addresses):
                try:
                    if self.coordinators[i].process.poll() is None and cluster.admin_call(address, "GetCluster", timeout_s=5).leader:
                        found[:] = [i]
                        return True
                except grpc.RpcError:  # one that starts or goes
                    continue
            return False
        wait_for(look, "nobody leads")
        return found[0]

    def state(self):
        return cluster.admin_call(self.addresses[self.leader()], "GetCluster")

    def deployment(self):
        return self.state().deployments[0]

    def apply(self, **changes):
        self.spec |= changes
        cluster.admin_call(self.addresses[self.leader()], "ApplyDeployment", spec=self.spec)
