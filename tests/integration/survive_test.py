#!/usr/bin/env python3
"""A running stream goes on with the tokens it would have had when a worker or the coordinator is killed under it."""
import os
import signal
import time

import cluster
from cluster import Cluster

TOKENS = 200
SMALL = ["--kv-cache-memory-bytes", "64M", "--max-model-len", "512"]


def stream_of(serving, temperature):
    return cluster.TokenStream(serving, max_tokens=TOKENS, temperature=temperature, seed=5, frequency_penalty=0.4)


def undisturbed(serving, temperature):
    stream = stream_of(serving, temperature)
    assert stream.read(10**9) and len(stream.ids) == TOKENS, len(stream.ids)
    return stream.ids


def kill_under_a_stream(arguments, victims, longest_gap_s=None, temperatures=(0, 0.9)):
    with Cluster(*arguments, *SMALL) as serving:
        for temperature in temperatures:
            expected = undisturbed(serving, temperature)
            for victim in victims:
                name, pid = serving.worker_at(victim) if isinstance(victim, int) else (victim, serving.pids()[victim])
                stream = stream_of(serving, temperature)
                assert not stream.read(20), "it ended before anything was killed: the test does not test"
                os.kill(pid, signal.SIGKILL)
                assert stream.read(10**9)
                assert longest_gap_s is None or stream.longest_gap_s < longest_gap_s, f"{name}: a gap of {stream.longest_gap_s:.2f} s"
                assert stream.ids == expected, f"{name} killed: {stream.ids} instead of {expected}"
                print(f"  {name} killed at 20 of {TOKENS} tokens: the same tokens, longest gap {stream.longest_gap_s:.2f} s")
                wait_for_all(serving, pid)


def wait_for_all(serving, killed):
    """Until the cluster is whole again, so that each kill meets a healthy one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = serving.state()
            if (killed not in serving.pids().values() and state.deployments[0].replicas_ready == state.deployments[0].spec.replicas
                    and serving.request("GET", "/health")[0] == 200):
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


def a_spare_takes_the_place():
    kill_under_a_stream(["--pipeline-parallel-size", "2", "--spares", "1"], [1, 0], longest_gap_s=5,
                        temperatures=(0.9,))


def a_standby_takes_over():
    """The streams pause; workers keep their KV, so less than a block of each sequence is computed again."""
    with Cluster("--pipeline-parallel-size", "2", "--num-coordinators", "2", *SMALL) as serving:
        expected = {temperature: undisturbed(serving, temperature) for temperature in (0, 0.9)}
        old, _ = serving.leader
        pid = serving.pids()[old]
        streams = [stream_of(serving, temperature) for temperature in (0, 0.9)]
        for stream in streams:
            assert not stream.read(60), "it ended before anything was killed: the test does not test"
        os.kill(pid, signal.SIGKILL)
        for stream, temperature in zip(streams, (0, 0.9)):
            assert stream.read(10**9)
            assert stream.ids == expected[temperature], "other tokens after the change of coordinators"
        new, _ = serving.leader
        assert new != old
        metrics = serving.coordinator_metrics(new)
        again = sum(v for k, v in metrics.items() if k.startswith("pagoda_resumed_tokens_recomputed_total"))
        kept = sum(v for k, v in metrics.items() if k.startswith("pagoda_resumed_tokens_kept_total"))
        gap_s = max(stream.longest_gap_s for stream in streams)
        print(f"  leader killed: longest gap {gap_s:.2f} s; tokens of the two sequences whose KV was kept {kept:.0f}, computed again {again:.0f}")
        assert kept >= 96 and 0 < again < 2 * 16, (kept, again)
        assert gap_s < 5, gap_s
        wait_for_all(serving, pid)


def a_stopped_worker_is_named():
    with Cluster("--pipeline-parallel-size", "2", "--spares", "1", *SMALL) as serving:
        expected = undisturbed(serving, 0)
        name, pid = serving.worker_at(1)
        stream = stream_of(serving, 0)
        assert not stream.read(20), "it ended before anything was stopped: the test does not test"
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            while not (found := serving.log_events("coordinator-0", "fault_found")):
                assert time.monotonic() - stopped < 10, "nobody named the stopped worker"
                time.sleep(0.02)
            named_s = time.monotonic() - stopped
            assert stream.read(10**9) and stream.ids == expected
        finally:
            os.kill(pid, signal.SIGCONT)
        print(f"  named after {named_s:.2f} s: {found[0]['what']}")
        assert found[0]["kind"] == "wedge" and found[0]["worker"] == name, found
        what = found[0]["what"]
        assert f"stage 1 rank 0 ({name})" in what and "step " in what, what
        assert "last heard in '" in what or "last heard between steps" in what, what  # as its last heartbeat had it
        assert named_s < 2.0, named_s
        print(f"  the stream went on with the spare, longest gap {stream.longest_gap_s:.2f} s")


if __name__ == "__main__":
    cluster.run(a_spare_takes_the_place, a_standby_takes_over, a_stopped_worker_is_named, the_only_pipeline_is_assembled_again, another_pipeline_takes_it, the_coordinator_comes_back)
