#!/usr/bin/env python3
"""Coordinators on etcd, as on several hosts: etcd lost for a while stops no stream, a stopped leader is replaced and starts
nothing when it goes on, and a killed one is replaced within the lease."""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import cluster

TOKENS = 300


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Processes:
    """etcd, two coordinators, two workers, a router; each by name, each killed at the end."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="pagoda-etcd-")
        self.children = {}
        self.etcd_client, self.etcd_peer = free_port(), free_port()
        self.addresses = {f"coordinator-{i}": f"127.0.0.1:{free_port()}" for i in range(2)}
        self.http_port = free_port()
        self.name = "test-model"

    def start(self, name, *command):
        log = open(pathlib.Path(self.folder, f"{name}.log"), "ab")
        self.children[name] = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)

    def start_etcd(self):
        client, peer = f"http://127.0.0.1:{self.etcd_client}", f"http://127.0.0.1:{self.etcd_peer}"
        self.start("etcd", "etcd", "--name", "t", "--data-dir", f"{self.folder}/etcd", "--listen-client-urls", client,
                   "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                   "--initial-cluster", f"t={peer}")

    def start_coordinator(self, name):
        self.start(name, cluster.binary_folder() / "pagoda-coordinator", "--name", name, "--listen", self.addresses[name],
                   "--metrics-listen", "", "--store", f"etcd://127.0.0.1:{free_port()},127.0.0.1:{self.etcd_client}/test")

    def __enter__(self):
        try:
            return self.start_all()
        except BaseException as problem:  # then nobody calls __exit__
            self.__exit__(type(problem), problem, None)
            raise

    def start_all(self):
        self.start_etcd()
        for name in self.addresses:
            self.start_coordinator(name)
        all_of_them = ",".join(self.addresses.values())
        for i in range(2):
            self.start(f"worker-{i}", cluster.binary_folder() / "pagoda-worker", "--name", f"worker-{i}", "--coordinators", all_of_them,
                       "--memory-bytes", 1 << 30, "--kv-cache-bytes", 64 << 20, "--threads", 1)
        self.start("router", cluster.binary_folder() / "pagoda-router", "--coordinators", all_of_them,
                   "--listen", f"127.0.0.1:{self.http_port}", "--grpc-listen", "127.0.0.1:0")
        self.wait(lambda: self.leader() is not None, 30)
        cluster.admin_call(self.addresses[self.leader()], "ApplyDeployment", spec={
            "name": self.name, "model": cluster.model_path(), "pipeline_parallel_size": 2, "tensor_parallel_size": [1], "replicas": 1,
            "max_model_len": 512, "kv_cache_bytes": 64 << 20})
        self.wait(lambda: self.ask("/health") == 200, 60)
        return self

    def __exit__(self, kind, value, trace):
        for child in self.children.values():
            child.kill()
            child.wait()
        if kind is not None:
            for path in sorted(pathlib.Path(self.folder).glob("*.log")):
                print(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def leader(self):
        for name, address in self.addresses.items():
            if name not in self.children or self.children[name].poll() is not None:
                continue
            try:
                cluster.admin_call(address, "GetCluster")
                return name
            except Exception:  # noqa: BLE001 (it follows, or is not there yet)
                pass
        return None

    def ask(self, target):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5)
            connection.request("GET", target)
            return connection.getresponse().status
        except OSError:
            return None

    def wait(self, done, timeout_s):
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "not within the time"
            time.sleep(0.05)

    def events(self, child, event):
        lines = pathlib.Path(self.folder, f"{child}.log").read_text(errors="replace").splitlines()
        return [entry for entry in (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
                if entry.get("event") == event]


def stream_of(serving):
    return cluster.TokenStream(serving, max_tokens=TOKENS, temperature=0.9, seed=5)


def losses_one_after_the_other():
    with Processes() as serving:
        whole = stream_of(serving)
        assert whole.read() and len(whole.ids) == TOKENS

        stream = stream_of(serving)
        assert not stream.read(10)
        serving.children["etcd"].kill()
        serving.children["etcd"].wait()
        assert stream.read() and stream.ids == whole.ids
        print(f"  etcd killed under a stream: the same tokens, longest gap {stream.longest_gap_s:.2f} s")
        serving.start_etcd()
        leader = serving.leader()
        serving.wait(lambda: len(serving.events(leader, "store_reachable_again")) > 0, 30)
        assert not serving.events(leader, "leads_no_more"), "a loss of etcd is no loss of the leadership"

        old = serving.leader()
        stream = stream_of(serving)
        assert not stream.read(10)
        serving.children[old].kill()
        serving.children[old].wait()
        assert stream.read() and stream.ids == whole.ids, "other tokens after the change of coordinators"
        new = serving.leader()
        assert new != old
        print(f"  leader killed: the same tokens, longest gap {stream.longest_gap_s:.2f} s")
        assert stream.longest_gap_s < 5, stream.longest_gap_s
        serving.start_coordinator(old)
        serving.wait(lambda: len(serving.events(old, "follows")) > 0, 30)

        # A leader that stands still beyond its lease: the other one leads, and this one starts nothing when it goes on.
        before = len(serving.events(old, "leads"))
        os.kill(serving.children[new].pid, signal.SIGSTOP)
        serving.wait(lambda: len(serving.events(old, "leads")) > before, 15)
        epochs = len(serving.events(new, "pipeline_ready"))
        os.kill(serving.children[new].pid, signal.SIGCONT)
        serving.wait(lambda: len(serving.events(new, "leads_no_more")) > 0, 15)
        serving.wait(lambda: serving.ask("/health") == 200, 30)
        stream = stream_of(serving)
        assert stream.read() and stream.ids == whole.ids
        assert len(serving.events(new, "pipeline_ready")) == epochs, "an epoch without the lease"
        assert serving.leader() == old


if __name__ == "__main__":
    if shutil.which("etcd") is None:
        print("skipped: no etcd on the PATH; apt-get install etcd-server")
        sys.exit(cluster.SKIPPED)
    cluster.run(losses_one_after_the_other)
