#!/usr/bin/env python3
"""A running stream goes on with the tokens it would have had when a worker or the coordinator is killed under it."""
import http.client
import json
import os
import signal
import time

import cluster
from cluster import Cluster

TOKENS = 200
SMALL = ["--kv-cache-memory-bytes", "64M", "--max-model-len", "512"]


class Stream:
    """Token ids of a seeded completion as they come."""

    def __init__(self, serving, temperature):
        body = {"model": serving.name, "prompt": "Once upon a time", "max_tokens": TOKENS, "ignore_eos": True, "stream": True,
                "temperature": temperature, "seed": 5, "frequency_penalty": 0.4, "return_token_ids": True}
        self.connection = http.client.HTTPConnection("127.0.0.1", serving.http_port, timeout=90)
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self.ids = []
        self.longest_gap_s = 0

    def read(self, least):
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


def undisturbed(serving, temperature):
    stream = Stream(serving, temperature)
    assert stream.read(10**9) and len(stream.ids) == TOKENS, len(stream.ids)
    return stream.ids


def kill_under_a_stream(arguments, victims):
    with Cluster(*arguments, *SMALL) as serving:
        for temperature in (0, 0.9):
            expected = undisturbed(serving, temperature)
            for victim in victims:
                stream = Stream(serving, temperature)
                assert not stream.read(20), "it ended before anything was killed: the test does not test"
                pid = serving.pids()[victim]
                os.kill(pid, signal.SIGKILL)
                assert stream.read(10**9)
                assert stream.ids == expected, f"{victim} killed: {stream.ids} instead of {expected}"
                print(f"  {victim} killed at 20 of {TOKENS} tokens: the same tokens, longest gap {stream.longest_gap_s:.2f} s")
                wait_for_all(serving, pid)


def wait_for_all(serving, killed):
    """Until the cluster is whole again, so that each kill meets a healthy one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = serving.state()
            if (killed not in serving.pids().values() and state.deployments[0].replicas_ready == state.deployments[0].spec.replicas
                    and serving.request("GET", "/readyz")[0] == 200):
                return
        except Exception:  # noqa: BLE001 (a coordinator that is not back yet)
            pass
        time.sleep(0.1)
    raise AssertionError("the cluster is not whole again after 30 s")


def the_only_pipeline_is_assembled_again():
    kill_under_a_stream(["--pipeline-parallel-size", "2"], ["worker-1", "worker-0"])


def the_coordinator_comes_back():
    kill_under_a_stream(["--pipeline-parallel-size", "2"], ["coordinator-0"])


def another_pipeline_takes_it():
    kill_under_a_stream(["--pipeline-parallel-size", "1", "--data-parallel-size", "2"], ["worker-0", "worker-1"])


if __name__ == "__main__":
    cluster.run(the_only_pipeline_is_assembled_again, another_pipeline_takes_it, the_coordinator_comes_back)
