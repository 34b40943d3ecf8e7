#!/usr/bin/env python3
"""64 clients, 1,000 mixed streams, a tenth of them cancelled in the middle: no error, no block or process left, memory flat
over a second round. --requests N for a shorter run."""
import argparse
import json
import subprocess
import threading

import cluster
from cluster import Cluster

options = None


def load(serving, requests, seed, grpc):
    where = ["--grpc", serving.grpc_address] if grpc else ["--url", f"http://127.0.0.1:{serving.http_port}"]
    command = [str(cluster.binary_folder() / "pagoda"), "bench", *where, "--model", serving.name,
               "--num-prompts", str(requests), "--max-concurrency", "64" if not grpc else "16",
               "--input-len", "lognormal:60:0.8", "--output-len", "lognormal:24:0.8", "--max-len", "256",
               "--cancel-fraction", "0.1", "--temperature", "0.8", "--seed", str(seed), "--output", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == 0, report["errors"]
    assert report["completed"] + report["cancelled"] == requests, report
    assert report["cancelled"] > 0, "nothing was cancelled: the test does not test"
    return report


def memory(serving):
    return {name: cluster.resident_bytes(pid) for name, pid in serving.pids().items()}


def many_mixed_streams():
    with Cluster("--max-model-len", "1024", "--kv-cache-memory-bytes", "128M") as serving:
        grown = None
        for round_number, requests in ((1, options.requests), (2, options.requests)):
            side = {}
            beside = threading.Thread(
                target=lambda: side.update(load(serving, requests // 5, 100 + round_number, grpc=True)))
            beside.start()
            report = load(serving, requests - requests // 5, round_number, grpc=False)
            beside.join()
            assert side, "the gRPC part failed"
            state = serving.wait_idle()
            for pipeline in state.pipelines:
                # Blocks of the prefix cache may be used by nobody; those of a sequence may not.
                print(f"  blocks used at idle: {pipeline.blocks_used} of {pipeline.blocks_total}")
                assert pipeline.blocks_used == 0, pipeline
            assert all(worker.state == "ready" for worker in state.workers), state.workers
            now = memory(serving)
            print(f"  round {round_number}: {report['completed']} + {side['completed']} completed, "
                  f"{report['cancelled']} + {side['cancelled']} cancelled, {report['output_tokens_per_s']:.0f} tokens/s, "
                  f"TTFT p99 {report['ttft_ms']['p99']:.0f} ms, client {100 * report['client_cpu_share']:.1f}% of a core, "
                  f"MiB {({k: v >> 20 for k, v in now.items()})}")
            if grown is not None:
                for name, before in grown.items():
                    assert now[name] <= before * 1.10 + (8 << 20), f"{name} grew from {before} to {now[name]} bytes"
            grown = now


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    cluster.run(many_mixed_streams)
