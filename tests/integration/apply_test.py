#!/usr/bin/env python3
"""Another spec is applied while streams run: who serves serves on until the new one is ready, and a stream finishes with the tokens that
it would have had, whatever dies meanwhile."""
import http.client
import json
import pathlib
import sys
import tempfile
import threading
import time

import cluster
from bare_cluster import Bare, wait_for
from cluster import TokenStream

sys.path.insert(0, str(cluster.ROOT / "docs/examples/python"))
from resumable_stream import ResumableStream  # noqa: E402

STORY = {"prompt": "The keeper of the lighthouse", "temperature": 0.8, "seed": 5}


def router_metrics(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    return cluster.parse_metrics(connection.getresponse().read().decode())


def profile_changes(port):
    return router_metrics(port)["pagoda_router_profile_changes_total"]


def drains(state):
    return [pipeline.id for pipeline in state.pipelines if pipeline.state == "draining"]


def streams_outlive_an_apply_and_who_serves_it():
    """No room for both: the old pipeline drains. Its worker is killed, then the leader, then the router of a client that comes back."""
    with tempfile.TemporaryDirectory(prefix="pagoda-apply-") as folder, Bare(folder, coordinators=2, routers=2) as serving:
        whole = TokenStream(serving, max_tokens=900, **STORY)
        assert whole.read() and len(whole.ids) == 900
        stream = TokenStream(serving, max_tokens=900, **STORY)
        stream.read(40)
        comes_back = ResumableStream([f"http://127.0.0.1:{serving.ports[i]}" for i in (1, 0)], "/v1/completions",
                                     {"model": serving.name, "max_tokens": 900, "ignore_eos": True, "return_token_ids": True, **STORY})
        ids = []

        def read():
            for event in comes_back:
                for choice in event["choices"]:
                    ids.extend(choice.get("token_ids") or [])
        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: len(ids) > 40, "the client that comes back gets nothing")
        serving.apply(kv_cache_type="int8")
        assert drains(serving.state()) == [1], serving.state().pipelines
        serving.workers[1].kill()
        serving.worker("worker-1b")
        at = len(stream.ids)
        stream.read(at + 100)
        print(f"  worker killed at {at} of 900 tokens: the stream stood still for {stream.longest_gap_s:.1f} s", flush=True)
        stream.longest_gap_s, at = 0, len(stream.ids)
        leader = serving.leader()
        serving.coordinators[leader].kill()
        stream.read(at + 100)
        print(f"  leader killed at {at}: {stream.longest_gap_s:.1f} s", flush=True)
        assert drains(serving.state()) == [1], "the new leader does not know that it drains"
        at = len(ids)
        serving.routers[1].kill()
        assert stream.read() and stream.ids == whole.ids, first_difference(stream.ids, whole.ids)
        reader.join(120)
        assert comes_back.reconnects > 0, "its router was killed too late"
        assert ids == whole.ids, first_difference(ids, whole.ids)
        print(f"  router killed at {at}: its client came back {comes_back.reconnects} times", flush=True)
        assert profile_changes(serving.http_port) == 0
        wait_for(lambda: serving.deployment().replicas_ready == 1, "the new spec does not get ready")
        other = TokenStream(serving, max_tokens=900, **STORY)
        assert other.read() and other.ids != whole.ids, "int8 KV gives the same tokens, so that this test shows nothing"


def first_difference(ids, expected):
    at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
    return f"{len(ids)} tokens, different from the undisturbed {len(expected)} at {at}"


def a_stream_of_a_replaced_model_comes_back_to_it():
    """Another model is applied, the old one drains, and the router of its last stream is killed: the other router finishes it."""
    with tempfile.TemporaryDirectory(prefix="pagoda-apply-") as folder, Bare(folder, workers=4, routers=2) as serving:
        other = pathlib.Path(folder, "another.gguf")
        # Of another digest, by a key that nobody reads.
        other.write_bytes(pathlib.Path(cluster.model_path()).read_bytes().replace(b"general.name", b"general.nama", 1))
        body = {"model": serving.name, "max_tokens": 900, "ignore_eos": True, "return_token_ids": True, **STORY}
        whole = TokenStream(serving, max_tokens=900, **STORY)
        assert whole.read()
        stream = ResumableStream([f"http://127.0.0.1:{serving.ports[i]}" for i in (1, 0)], "/v1/completions", body)
        ids = []
        for event in stream:
            for choice in event["choices"]:
                ids.extend(choice.get("token_ids") or [])
            if len(ids) > 60 and serving.spec["model"] != str(other):
                serving.apply(model=str(other))
                wait_for(lambda: drains(serving.state()) == [1] and serving.deployment().replicas_ready == 1, "the other model does not get ready")
                wait_for(lambda: router_metrics(serving.ports[0])[f'pagoda_router_pipelines_ready{{model_name="{serving.name}"}}'] == 1, "not seen")
                serving.routers[1].kill()
        assert stream.reconnects > 0 and ids == whole.ids, first_difference(ids, whole.ids)
        assert profile_changes(serving.http_port) == 0


def an_apply_under_load_fails_no_request():
    """Two replicas and no spare: one is replaced after the other. Every answer is whole, of the one spec or of the other."""
    with tempfile.TemporaryDirectory(prefix="pagoda-apply-") as folder, Bare(folder, replicas=2, pipeline_parallel_size=1) as serving:
        body = json.dumps({"model": serving.name, "max_tokens": 120, "ignore_eos": True, "return_token_ids": True, **STORY})

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", serving.http_port, timeout=60)
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, f"{response.status}: {text}"
            return tuple(json.loads(text)["choices"][0]["token_ids"])
        before = ask()
        answers, failures, stop = [], [], threading.Event()

        def client():
            while not stop.is_set():
                try:
                    answers.append(ask())
                except Exception as error:  # noqa: BLE001 (told by the main thread)
                    failures.append(repr(error))
        clients = [threading.Thread(target=client) for _ in range(6)]
        for each in clients:
            each.start()
        time.sleep(1)
        begin = time.monotonic()
        serving.apply(kv_cache_type="int8")
        shown = serving.deployment()
        assert cluster.protos()[0].DeploymentState.Name(shown.state) == "DEPLOYMENT_STATE_ROLLING", shown
        assert "the spec applied before serves with 1 pipeline" in shown.message, shown.message
        wait_for(lambda: serving.deployment().replicas_ready == 2, "the rollout does not end")
        took = time.monotonic() - begin
        wait_for(lambda: len(serving.state().pipelines) == 2, "what drained does not go")
        time.sleep(1)
        stop.set()
        for each in clients:
            each.join()
        after = ask()
        counts = {name: answers.count(answer) for name, answer in (("before", before), ("after", after))}
        print(f"  rolled out in {took:.1f} s; answers by spec: {counts}", flush=True)
        assert not failures, failures
        assert after != before and counts["before"] > 0 and counts["after"] > 0
        assert sum(counts.values()) == len(answers), "an answer is neither the one nor the other"
        # What concerns no pipeline's make changes none.
        epochs = [(p.id, p.epoch) for p in serving.state().pipelines]
        serving.apply(max_queued_requests=3)
        time.sleep(1)
        assert [(p.id, p.epoch) for p in serving.state().pipelines] == epochs and ask() == after
        assert serving.deployment().spec.max_queued_requests == 3


def what_cannot_be_placed_stops_nothing():
    with tempfile.TemporaryDirectory(prefix="pagoda-apply-") as folder, Bare(folder) as serving:
        serving.apply(pipeline_parallel_size=5)
        time.sleep(8)  # longer than a makeshift waits
        shown = serving.deployment()
        assert "the spec applied before serves" in shown.message and "needs 5 workers, 0 of 2 are idle" in shown.message, shown
        stream = TokenStream(serving, max_tokens=20)
        assert stream.read() and len(stream.ids) == 20
        serving.apply(pipeline_parallel_size=2)
        shown = serving.state()
        assert [(p.id, p.epoch, p.state) for p in shown.pipelines if p.state != "pending"] == [(1, 1, "ready")], shown.pipelines
        assert shown.deployments[0].replicas_ready == 1


if __name__ == "__main__":
    cluster.run(streams_outlive_an_apply_and_who_serves_it, a_stream_of_a_replaced_model_comes_back_to_it, an_apply_under_load_fails_no_request, what_cannot_be_placed_stops_nothing)
