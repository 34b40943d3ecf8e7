#!/usr/bin/env python3
"""A new version of everything, process by process, under load: no request fails.

Clients are the plain `openai` package (its own retries, nothing more) and the resumable helper. Before a router gets its
SIGTERM it leaves the list that clients choose from, as a Kubernetes Service does when a pod is being deleted (preStop).
"""
import http.client
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

import cluster
from bare_cluster import Process, answers_at, wait_for
from cluster import Cluster

sys.path.insert(0, str(cluster.ROOT / "docs/examples/python"))
from resumable_stream import ResumableStream  # noqa: E402

TOKENS = 48
SMALL = ["--kv-cache-memory-bytes", "64M", "--max-model-len", "512"]


class Load:
    """Poisson arrivals of seeded streams; every answer must be that of the undisturbed run."""

    def __init__(self, serving, routers, kinds):
        self.serving, self.kinds = serving, kinds
        self.urls = [f"http://127.0.0.1:{serving.router_port(i)}" for i in range(routers)]
        self.in_rotation = set(range(routers))
        self.expected = {}
        self.failures, self.gaps, self.done = [], [], {"plain": 0, "resumable": 0}
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.threads = []

    def body(self, number):
        return {"model": self.serving.name, "prompt": f"Number {number % 6}: once upon a time", "max_tokens": TOKENS,
                "temperature": 0.8, "seed": number % 6, "stream": True}

    def plain(self, number):
        import openai
        url = self.urls[random.choice(sorted(self.in_rotation))]
        with openai.OpenAI(base_url=url + "/v1", api_key="none", timeout=60) as client:
            for chunk in client.completions.create(**self.body(number), extra_body={"ignore_eos": True}):
                yield chunk.choices[0].text if chunk.choices else ""

    def resumable(self, number):
        urls = self.urls[number % len(self.urls):] + self.urls[:number % len(self.urls)]
        for event in ResumableStream(urls, "/v1/completions", {**self.body(number), "ignore_eos": True}):
            yield event["choices"][0]["text"] if event["choices"] else ""

    def one(self, kind, number):
        try:
            text, last, gaps = "", None, []
            for piece in getattr(self, kind)(number):
                now = time.monotonic()
                if last is not None:
                    gaps.append(now - last)
                last = now
                text += piece
            with self.lock:
                expected = self.expected.setdefault(number % 6, text)
                self.gaps += gaps
                self.done[kind] += 1
                if text != expected:
                    self.failures.append(f"{kind} {number}: {text!r} instead of {expected!r}")
        except BaseException as error:  # noqa: BLE001
            with self.lock:
                self.failures.append(f"{kind} {number}: {error!r}")

    def capacity(self, seconds=3):
        """Requests a second of eight clients; fills in what is expected."""
        for number in range(6):
            self.one("resumable", number)
        until = time.monotonic() + seconds

        def client(first):
            number = first
            while time.monotonic() < until:
                self.one("resumable", number)
                number += 8
        started, before = time.monotonic(), self.done["resumable"]
        threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = (self.done["resumable"] - before) / (time.monotonic() - started)
        assert not self.failures, self.failures
        self.gaps.clear()
        return rate

    def start(self, rate):
        def arrivals():
            draw, number = random.Random(3), 0
            while not self.stop.wait(draw.expovariate(rate)):
                thread = threading.Thread(target=self.one, args=(self.kinds[number % len(self.kinds)], number), daemon=True)
                thread.start()
                self.threads.append(thread)
                number += 1
        self.arrivals = threading.Thread(target=arrivals)
        self.arrivals.start()

    def finish(self):
        self.stop.set()
        self.arrivals.join()
        for thread in self.threads:
            thread.join(120)
        return len(self.threads)


def answers(serving, router):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", serving.router_port(router), timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException, ValueError):
        return False


def missing(serving, routers):
    """What keeps the cluster from being whole; empty when nothing does."""
    import grpc
    silent = [f"router-{i} does not answer" for i in range(routers) if not answers(serving, i)]
    if silent:
        return silent[0]
    try:
        state = serving.state()
    except (grpc.RpcError, AssertionError) as error:  # a coordinator that is not back yet
        return f"no state: {error}"
    if len(state.deployments) != 1 or any(d.replicas_ready != d.spec.replicas for d in state.deployments):
        return f"deployments: {state.deployments}\npipelines: {state.pipelines}"
    return ""


def replace(serving, name, number, routers):
    """Signals the process and waits until its successor has taken its place and the cluster is whole."""
    pid = serving.pids()[name]
    os.kill(pid, number)
    deadline = time.monotonic() + 90
    while True:
        why = f"{name} is not there" if serving.pids().get(name, pid) == pid else missing(serving, routers)
        if not why:
            return
        assert time.monotonic() < deadline, f"{name} was replaced, but the cluster is not whole after 90 s: {why}"
        time.sleep(0.1)


def roll(arguments, kinds, order, number, routers, share=0.7):
    with Cluster(*arguments, *SMALL) as serving:
        load = Load(serving, routers, kinds)
        rate = share * load.capacity()
        load.start(rate)
        try:
            time.sleep(1)
            replaced = []
            for kind in order:
                for name in sorted(n for n in serving.pids() if n.startswith(kind)):
                    router = int(name.split("-")[1]) if kind == "router" else None
                    if router is not None:
                        load.in_rotation.discard(router)
                        time.sleep(0.5)
                    replace(serving, name, number, routers)
                    if router is not None:
                        load.in_rotation.add(router)
                    replaced.append(name)
        finally:
            requests = load.finish()
        assert not load.failures, f"{len(load.failures)} of {requests} failed: " + "\n".join(load.failures[:5])
        assert requests > 10 and all(load.done[kind] > 3 for kind in kinds), load.done
        gaps = sorted(load.gaps)
        print(f"  {', '.join(replaced)} replaced at {rate:.1f} requests/s: {requests} requests, none failed; between events: "
              f"median {gaps[len(gaps) // 2] * 1000:.0f} ms, p99 {gaps[int(0.99 * len(gaps))] * 1000:.0f} ms, "
              f"longest {gaps[-1] * 1000:.0f} ms")
        state = serving.wait_idle()
        assert all(p.blocks_used == 0 for p in state.pipelines), "blocks are leaked"


def every_process_is_replaced_under_load():
    roll(["--data-parallel-size", "2", "--num-routers", "2"], ["plain", "resumable"], ["worker", "coordinator", "router"],
         signal.SIGTERM, 2)


def plain_clients_bear_killed_workers_and_coordinators():
    roll(["--data-parallel-size", "2", "--pipeline-parallel-size", "1"], ["plain"], ["worker", "coordinator"], signal.SIGKILL, 1,
         share=0.5)


def complete(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps({"model": name, "prompt": "Once", "max_tokens": 24, "temperature": 0,
                                                              "ignore_eos": True}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, f"{response.status}: {text}"
    return json.loads(text)["choices"][0]["text"]


def two_versions_work_together():
    """A router that announces protocol N-1 with a coordinator of N, and the other way round."""
    any_port = ["--listen", "127.0.0.1:0"]
    with tempfile.TemporaryDirectory(prefix="pagoda-versions-") as folder:
        with Cluster(*SMALL) as serving:
            expected = complete(serving.http_port, serving.name)
            with Process(folder, "pagoda-router", "old-router", "--coordinators", serving.coordinator, *any_port,
                         "--grpc-listen", "127.0.0.1:0", "--announce-protocol", "1") as old:
                port = int(old.ready_text()[1].rsplit(":", 1)[1])
                wait_for(lambda: answers_at(port), "the old router is not ready")
                assert complete(port, serving.name) == expected
                url = f"http://127.0.0.1:{port}"
                body = {"model": serving.name, "prompt": "Once", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
                text = "".join(e["choices"][0]["text"] for e in ResumableStream([url], "/v1/completions", body) if e["choices"])
                assert text == expected, text
            with Process(folder, "pagoda-router", "too-old-router", "--coordinators", serving.coordinator, *any_port,
                         "--grpc-listen", "127.0.0.1:0", "--announce-protocol", "0") as too_old:
                port = int(too_old.ready_text()[1].rsplit(":", 1)[1])
                wait_for(lambda: "speaks protocol 0" in pathlib.Path(folder, "too-old-router.log").read_text(),
                         "a router that is too old is not told so")
                assert not answers_at(port)
        with Process(folder, "pagoda-coordinator", "old-coordinator", *any_port, "--announce-protocol", "1") as coordinator:
            address = coordinator.ready_text()[0]
            admin, _ = cluster.protos()
            with Process(folder, "pagoda-worker", "a-worker", "--coordinators", address, "--threads", "1"), \
                    Process(folder, "pagoda-router", "new-router", "--coordinators", address, *any_port,
                            "--grpc-listen", "127.0.0.1:0") as router:
                spec = admin.DeploymentSpec(name=serving.name, model=cluster.model_path(), replicas=1, max_model_len=512,
                                            kv_cache_bytes=64 << 20)
                cluster.admin_call(address, "ApplyDeployment", spec=spec)
                port = int(router.ready_text()[1].rsplit(":", 1)[1])
                wait_for(lambda: answers_at(port), "the new router is not ready")
                assert complete(port, serving.name) == expected


def a_worker_is_ready_when_its_pipeline_runs():
    """What a rollout waits for: idle, or linked with the others; not while it loads or waits for them."""
    with tempfile.TemporaryDirectory(prefix="pagoda-readiness-") as folder, \
            Process(folder, "pagoda-coordinator", "a-coordinator", "--listen", "127.0.0.1:0", "--lease-ms", "20000") as coordinator:
        address = coordinator.ready_text()[0]
        flags = ["--coordinators", address, "--threads", "1", "--metrics-listen", "127.0.0.1:0"]
        with Process(folder, "pagoda-worker", "first", *flags) as first, Process(folder, "pagoda-worker", "second", *flags) as second:
            ports = [int(worker.ready_text()[2]) for worker in (first, second)]
            for port in ports:
                wait_for(lambda port=port: answers_at(port, "/readyz"), "an idle worker is not ready")
            os.kill(second.process.pid, signal.SIGSTOP)
            admin, _ = cluster.protos()
            cluster.admin_call(address, "ApplyDeployment", spec=admin.DeploymentSpec(
                name="a-model", model=cluster.model_path(), replicas=1, max_model_len=512, kv_cache_bytes=64 << 20, pipeline_parallel_size=2,
                tensor_parallel_size=[1]))
            wait_for(lambda: not answers_at(ports[0], "/readyz"), "a worker that waits for another one counts as ready")
            time.sleep(1)
            assert not answers_at(ports[0], "/readyz") and answers_at(ports[0], "/livez")
            os.kill(second.process.pid, signal.SIGCONT)
            for port in ports:
                wait_for(lambda port=port: answers_at(port, "/readyz"), "a worker of a running pipeline is not ready")


if __name__ == "__main__":
    cluster.run(two_versions_work_together, a_worker_is_ready_when_its_pipeline_runs, every_process_is_replaced_under_load, plain_clients_bear_killed_workers_and_coordinators)
