#!/usr/bin/env python3
"""A worker is lost, nobody starts it again and there is no spare: what is left of the only pipeline serves, with the same tokens, and
all of it again once the worker is back."""
import os
import signal
import tempfile
import time

import cluster
from rollout_test import Process, answers_at, wait_for

KV = 64 << 20


class Bare:
    """A coordinator, two workers and a router that nobody watches over; a model in two stages."""

    def __init__(self, folder):
        self.folder = folder
        self.name = "test-model"

    def start(self, binary, name, *arguments):
        return Process(self.folder, binary, name, *arguments)

    def __enter__(self):
        self.coordinator = self.start("pagoda-coordinator", "coordinator-0", "--listen", "127.0.0.1:0").__enter__()
        self.address = self.coordinator.ready_text()[0]
        self.workers = [self.worker(f"worker-{i}") for i in range(2)]
        self.router = self.start("pagoda-router", "router-0", "--coordinators", self.address, "--listen", "127.0.0.1:0", "--grpc-listen",
                                 "127.0.0.1:0").__enter__()
        self.http_port = int(self.router.ready_text()[1].rsplit(":", 1)[1])
        cluster.admin_call(self.address, "ApplyDeployment", spec={
            "name": self.name, "model": cluster.model_path(), "pipeline_parallel_size": 2, "tensor_parallel_size": [1], "replicas": 1,
            "max_model_len": 1024, "kv_cache_bytes": KV})
        wait_for(lambda: answers_at(self.http_port), "the model does not get ready")
        return self

    def worker(self, name):
        return self.start("pagoda-worker", name, "--coordinators", self.address, "--threads", "1", "--memory-bytes", str(1 << 30)).__enter__()

    def __exit__(self, *_):
        for process in [self.router, *self.workers, self.coordinator]:
            process.process.kill()
            process.process.wait()
            process.log.close()

    def deployment(self):
        return cluster.admin_call(self.address, "GetCluster").deployments[0]


def what_is_left_serves():
    with tempfile.TemporaryDirectory(prefix="pagoda-makeshift-") as folder, Bare(folder) as serving:
        fields = {"prompt": "The keeper of the lighthouse", "max_tokens": 700, "ignore_eos": True, "temperature": 0.8, "seed": 5}
        whole = cluster.TokenStream(serving, **fields)
        assert whole.read() and len(whole.ids) == 700, whole.ids
        stream = cluster.TokenStream(serving, **fields)
        stream.read(60)
        os.kill(serving.workers[1].process.pid, signal.SIGKILL)
        assert stream.read() and stream.ids == whole.ids, "other tokens than undisturbed"
        print(f"  the stream stood still for {stream.longest_gap_s:.1f} s", flush=True)
        assert 4.5 < stream.longest_gap_s < 12, "five seconds in which the worker might have come back, and a load"
        shown = serving.deployment()
        assert cluster.protos()[0].DeploymentState.Name(shown.state) == "DEPLOYMENT_STATE_DEGRADED" and "runs with 1 of 2 workers" in shown.message, shown
        # The worker is back, and stays: all of the layout again, under streams.
        serving.workers[1] = serving.worker("worker-1b")
        begin = time.monotonic()
        gaps = []
        while (shown := serving.deployment()).message or shown.replicas_ready != 1:
            assert time.monotonic() - begin < 60, shown
            stream = cluster.TokenStream(serving, **fields)
            assert stream.read() and stream.ids == whole.ids, "other tokens than undisturbed"
            gaps.append(stream.longest_gap_s)
        print(f"  {time.monotonic() - begin:.1f} s after the worker was back it had its stage; longest gap of {len(gaps)} streams {max(gaps):.1f} s", flush=True)
        assert max(gaps) < 5 and cluster.protos()[0].DeploymentState.Name(shown.state) == "DEPLOYMENT_STATE_READY"


if __name__ == "__main__":
    cluster.run(what_is_left_serves)
