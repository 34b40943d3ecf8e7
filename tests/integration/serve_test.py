#!/usr/bin/env python3
"""`pagoda serve` as a person uses it: it starts, its printed curl works, what dies comes back, it stops without a trace."""
import json
import os
import shlex
import signal
import subprocess
import time

import cluster
from cluster import Cluster


def starts_answers_and_stops():
    with Cluster(example=True) as serving:
        output = "".join(serving.output)
        assert "temple" in output, f"the example answer is not sensible:\n{output}"
        curl = next(line.strip() for line in serving.output if line.strip().startswith("curl "))
        answer = subprocess.run(shlex.split(curl) + ["-sS"], capture_output=True, text=True, timeout=60)
        text = json.loads(answer.stdout)["choices"][0]["message"]["content"]
        assert "temple" in text, answer.stdout + answer.stderr
        assert set(serving.pids()) == {"router-0", "coordinator-0", "worker-0", "worker-1"}, serving.pids()
        folder = serving.folder
        assert serving.stop() == 0
        assert not cluster.processes_of(folder), "orphans are left"
        assert serving.output[-1].strip() == "stopped", serving.output[-3:]


def second_start_is_quick():
    with Cluster() as serving:
        print(f"  ready after {serving.ready_after_s:.1f} s")
        assert serving.ready_after_s < 15, serving.ready_after_s


def what_dies_comes_back():
    with Cluster() as serving:
        before = serving.complete("The capital of France is", max_tokens=8, temperature=0)["choices"][0]["text"]
        for victim in ("worker-1", "router-0", "coordinator-0"):
            pid = serving.pids()[victim]
            os.kill(pid, signal.SIGKILL)
            answer_again(serving, victim, pid, before)


def what_hangs_comes_back():
    """A stopped process does not die and its sockets stay open; it falls silent, and is killed for that."""
    with Cluster("--hang-timeout-ms", "3000") as serving:
        before = serving.complete("The capital of France is", max_tokens=8, temperature=0)["choices"][0]["text"]
        for victim in ("worker-0", "router-0", "coordinator-0"):
            pid = serving.pids()[victim]
            os.kill(pid, signal.SIGSTOP)
            answer_again(serving, victim, pid, before, happened="stopped")
            said = f"{victim} gave no sign of life for "
            assert any(said in line for line in serving.output), serving.output
        # The others were left in peace.
        assert sum("gave no sign of life" in line for line in serving.output) == 3, serving.output


def answer_again(serving, victim, old_pid, expected, timeout_s=60, happened="killed"):
    deadline = time.monotonic() + timeout_s
    problem = None
    while time.monotonic() < deadline:
        try:
            if serving.pids().get(victim, old_pid) != old_pid:
                text = serving.complete("The capital of France is", max_tokens=8, temperature=0)["choices"][0]["text"]
                assert text == expected, (victim, text, expected)
                print(f"  {victim} {happened}, answers again after {timeout_s - (deadline - time.monotonic()):.1f} s")
                return
        except (OSError, AssertionError, FileNotFoundError) as error:
            problem = error
        time.sleep(0.2)
    raise AssertionError(f"no answer {timeout_s} s after {victim} was {happened}: {problem}")


def killed_serve_leaves_no_orphan():
    with Cluster("--pipeline-parallel-size", "1") as serving:
        serving.process.send_signal(signal.SIGKILL)
        serving.process.wait()
        deadline = time.monotonic() + 5
        while cluster.processes_of(serving.folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not cluster.processes_of(serving.folder), "orphans outlived a killed pagoda serve"


def a_taken_port_and_wrong_options_are_named():
    with Cluster("--pipeline-parallel-size", "1") as serving:
        def serve(*arguments):
            return subprocess.run([str(cluster.binary_folder() / "pagoda"), "serve", "--model", serving.model, *arguments],
                                  capture_output=True, text=True, timeout=60)
        taken = serve("--port", str(serving.http_port), "--state-dir", serving.folder + "/other")
        assert taken.returncode == 1 and f"127.0.0.1:{serving.http_port}" in taken.stderr, taken
        same = serve("--port", "0", "--state-dir", serving.folder)
        assert same.returncode == 1 and "--state-dir" in same.stderr, same
        wrong = serve("--tensor-parallel-size", "3,1", "--pipeline-parallel-size", "3")
        assert wrong.returncode == 2 and "--tensor-parallel-size" in wrong.stderr, wrong
        missing = subprocess.run([str(cluster.binary_folder() / "pagoda"), "serve", "--model", "/nonexistent.gguf",
                                  "--port", "0", "--state-dir", serving.folder + "/third"],
                                 capture_output=True, text=True, timeout=60)
        assert missing.returncode == 1 and "/nonexistent.gguf" in missing.stderr, missing


def a_running_stream_ends_before_the_processes_do():
    with Cluster() as serving:
        body = {"model": serving.name, "prompt": "Once upon a time", "max_tokens": 120, "ignore_eos": True, "stream": True}
        curl = subprocess.Popen(["curl", "-sN", f"http://127.0.0.1:{serving.http_port}/v1/completions",
                                 "-H", "Content-Type: application/json", "-d", json.dumps(body)],
                                stdout=subprocess.PIPE, text=True)
        first = curl.stdout.readline()
        assert first.startswith("data:"), first
        assert serving.stop() == 0
        rest = curl.stdout.read()
        assert curl.wait(10) == 0 and "[DONE]" in rest, "the stream was cut: ..." + rest[-300:]


if __name__ == "__main__":
    cluster.run(starts_answers_and_stops, second_start_is_quick, a_taken_port_and_wrong_options_are_named,
                killed_serve_leaves_no_orphan, a_running_stream_ends_before_the_processes_do, what_dies_comes_back,
                what_hangs_comes_back)
