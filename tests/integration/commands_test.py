#!/usr/bin/env python3
"""The commands of `pagoda` against a real cluster, as a person or a script calls them; and every process's metrics, linted."""
import json
import shutil
import subprocess
import urllib.request

import cluster
from cluster import Cluster

serving = None


def pagoda(*arguments, stdin="", status=0):
    done = subprocess.run([str(cluster.binary_folder() / "pagoda"), *arguments], input=stdin, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stdout + done.stderr


def url():
    return f"http://127.0.0.1:{serving.http_port}"


def chat_from_a_pipe():
    questions = "In which city is the Eiffel Tower?\n/stats\n/reset\nWhat is two plus two?\n/quit\n"
    for where in (["--url", url()], ["--grpc", serving.grpc_address]):
        text = pagoda("chat", *where, "--temperature", "0", "--max-tokens", "24", stdin=questions)
        assert "Paris" in text, text
        assert "output tokens, first text after" in text and "forgotten" in text, text


def chat_reports_errors():
    pagoda("chat", "--url", "http://127.0.0.1:1", stdin="x\n", status=1)
    pagoda("chat", "--url", url(), "--model", "no-such-model", stdin="hello\n", status=1)


def top_prints_one_picture():
    text = pagoda("top", "--coordinators", serving.coordinator, "--once")
    for word in (serving.name, "worker-0", "worker-1", "PIPELINE", "ready"):
        assert word in text, text


def bench_over_both_protocols():
    for where in (["--url", url()], ["--grpc", serving.grpc_address]):
        common = [*where, "--num-prompts", "24", "--input-len", "uniform:8:40", "--output-len", "12", "--output", "-"]
        closed = json.loads(pagoda("bench", *common, "--max-concurrency", "8"))
        assert closed["completed"] == 24 and closed["output_tokens"] == 24 * 12, closed
        assert closed["ttft_ms"]["p50"] > 0 and closed["itl_ms"]["p99"] >= closed["itl_ms"]["p50"] > 0, closed
        opened = json.loads(pagoda("bench", *common, "--request-rate", "20", "--slo-ttft-ms", "60000"))
        assert opened["completed"] == 24 and opened["goodput_requests_per_s"] > 0, opened


def bench_says_what_failed():
    text = pagoda("bench", "--url", url(), "--model", "no-such-model", "--num-prompts", "3", "--input-len", "4", "--output-len",
                  "4", status=1)
    assert "HTTP 404: the model 'no-such-model' is not served here" in text and "failed" in text, text
    text = pagoda("bench", "--url", url(), "--num-prompts", "1", "--output", "/nonexistent/report.json", status=1)
    assert "cannot write --output /nonexistent/report.json" in text and "sending" not in text, text


def doctor_finds_nothing_wrong_with_the_cluster():
    text = pagoda("doctor", "--coordinators", serving.coordinator, "--router", url())
    assert f"deployment {serving.name}" in text and "PROBLEM" not in text, text
    wrong = pagoda("doctor", "--coordinators", "127.0.0.1:1", "--router", "http://127.0.0.1:1", status=1)
    assert wrong.count("PROBLEM") == 2, wrong


def plan_shows_exact_bytes():
    plan = json.loads(pagoda("plan", serving.model, "--tensor-parallel-size", "2,1", "--memory", "2G", "--json"))
    assert [(rank["stage"], rank["rank"]) for rank in plan["ranks"]] == [(0, 0), (0, 1), (1, 0)], plan
    assert all(rank["weights_bytes"] + rank["kv_bytes"] + rank["workspace_bytes"] <= 2 << 30 for rank in plan["ranks"]), plan
    # What cannot fit is refused with its numbers.
    refused = subprocess.run([str(cluster.binary_folder() / "pagoda"), "plan", serving.model, "--memory", "10M"],
                             capture_output=True, text=True)
    assert refused.returncode == 1 and any(c.isdigit() for c in refused.stderr), refused


def deployments_are_listed_scaled_and_drained():
    at = ["--coordinators", serving.coordinator]
    assert serving.name in pagoda("deploy", "list", *at)
    pagoda("deploy", "scale", "no-such", "--data-parallel-size", "2", *at, status=1)
    pagoda("deploy", "drain", serving.name, *at)
    status, text = serving.request("POST", "/v1/completions", {"model": serving.name, "prompt": "x", "max_tokens": 1})
    assert status in (404, 503), (status, text)
    pagoda("deploy", "delete", serving.name, *at)
    assert serving.name not in pagoda("deploy", "list", *at)


def metrics_are_well_formed():
    if shutil.which("promtool") is None:
        print("  promtool is not there: not linted")
        return
    coordinator_metrics = next(line.split()[0] for line in serving.output
                               if line.strip().startswith("http://") and line.strip().endswith("/metrics"))
    for source in (url() + "/metrics", coordinator_metrics):
        text = urllib.request.urlopen(source, timeout=10).read().decode()
        assert "pagoda_" in text, text[:500]
        # The documented aliases of the inference gateway have a colon in their names.
        ours = "".join(line + "\n" for line in text.splitlines() if "vllm:" not in line)
        done = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    with Cluster("--max-model-len", "1024", "--kv-cache-memory-bytes", "64M") as serving:
        cluster.run(chat_from_a_pipe, chat_reports_errors, top_prints_one_picture, bench_over_both_protocols,
                    bench_says_what_failed, doctor_finds_nothing_wrong_with_the_cluster, plan_shows_exact_bytes,
                    metrics_are_well_formed, deployments_are_listed_scaled_and_drained)
