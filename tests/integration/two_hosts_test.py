#!/usr/bin/env python3
"""Two hosts, made of network, IPC and mount namespaces with a veth pair between them: one pipeline across both gives the same
tokens as on one host, its bytes pass the veth, and each host has its own model cache.

Needs root (or skips with a word).
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cluster
from cluster import Cluster

HOSTS = {"a": "10.77.0.1", "b": "10.77.0.2"}
PROMPTS = ["The harbour at Whitby has two piers", "A short list of colours: red,", "Once upon a time", "2, 4, 6, 8,"]


def model_folders():
    """Where the model's file lies, and where it is found if that is a link."""
    path = pathlib.Path(cluster.model_path())
    return sorted({str(path.parent), str(path.resolve().parent)})


def sh(*command, check=True):
    return subprocess.run(command, check=check, capture_output=True, text=True)


class Hosts:
    """Namespaces held open by one sleeping process each; commands enter by nsenter."""

    def __init__(self, hide_model_on_b=False):
        self.hide_model_on_b = hide_model_on_b

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="pagoda-hosts-")
        self.keepers = {}
        self.children = []
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _make(self):
        for host in HOSTS:
            # A /dev/shm of its own, so that nothing but the veth connects the two; a /sys that shows its own devices.
            hidden = model_folders() if host == "b" and self.hide_model_on_b else []
            hide = "".join(f"mount -t tmpfs tmpfs '{folder}' && " for folder in hidden)
            self.keepers[host] = subprocess.Popen(
                ["unshare", "--net", "--ipc", "--mount", "--propagation", "private", "sh", "-c",
                 f"{hide}mount -t tmpfs tmpfs /dev/shm && mount -t sysfs sysfs /sys && ip link set lo up && echo up && exec sleep 600"],
                stdout=subprocess.PIPE, text=True)
            assert self.keepers[host].stdout.readline().strip() == "up", f"cannot make the namespaces of host {host}"
        self.link = f"pgd{os.getpid() % 100000}"
        sh("ip", "link", "add", self.link + "a", "type", "veth", "peer", "name", self.link + "b")
        for host, address in HOSTS.items():
            sh("ip", "link", "set", self.link + host, "netns", str(self.keepers[host].pid))
            self.run(host, "ip", "addr", "add", address + "/24", "dev", self.link + host)
            self.run(host, "ip", "link", "set", self.link + host, "up")

    def enter(self, host):
        return ["nsenter", "--target", str(self.keepers[host].pid), "--net", "--ipc", "--mount"]

    def run(self, host, *command):
        return sh(*self.enter(host), *command)

    def start(self, host, name, *arguments):
        """A binary on a host, with a ready file; waits for it."""
        ready = pathlib.Path(self.folder, name + ".ready")
        log = open(pathlib.Path(self.folder, name + ".log"), "w")
        command = [*self.enter(host), str(cluster.binary_folder() / arguments[0]), "--name", name,
                   "--ready-file", str(ready), *arguments[1:]]
        child = subprocess.Popen(command, stdout=log, stderr=log)
        self.children.append(child)
        deadline = time.monotonic() + 60
        while not ready.exists() or not ready.read_text().endswith("\n"):
            assert child.poll() is None, f"{name} ended: " + pathlib.Path(log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, f"{name} is not ready: " + pathlib.Path(log.name).read_text()[-3000:]
            time.sleep(0.02)
        return ready.read_text()

    def bytes_sent(self):
        """By the veth, in both directions."""
        text = self.run("a", "ip", "-s", "-j", "link", "show", self.link + "a").stdout
        stats = json.loads(text)[0]["stats64"]
        return stats["tx"]["bytes"] + stats["rx"]["bytes"]

    def print_logs(self):
        for path in sorted(pathlib.Path(self.folder).glob("*.log")):
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.print_logs()
        for child in reversed(self.children):
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for keeper in self.keepers.values():
            keeper.kill()
            keeper.wait()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def request_body(name, prompt, k):
    return {"model": name, "prompt": prompt, "max_tokens": 32, "ignore_eos": True, "logprobs": 1, "return_token_ids": True,
            "temperature": 0 if k % 2 == 0 else 0.8, "seed": k}


def expected_answers():
    with Cluster("--pipeline-parallel-size", "1", "--kv-cache-memory-bytes", "64M", "--max-model-len", "512") as serving:
        return [essence(json.loads(serving.request("POST", "/v1/completions", request_body(serving.name, prompt, k))[1]))
                for k, prompt in enumerate(PROMPTS)]


def essence(answer):
    choice = answer["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def wait_ready(hosts, coordinator, name):
    """GetCluster from inside host a, through the command line."""
    deadline = time.monotonic() + 30
    text = ""
    while time.monotonic() < deadline:
        done = subprocess.run([*hosts.enter("a"), str(cluster.binary_folder() / "pagoda"), "deploy", "list",
                               "--coordinators", coordinator], capture_output=True, text=True)
        text = done.stdout + done.stderr
        if any(line.split()[:2] == [name, "ready"] for line in text.splitlines()):
            return
        time.sleep(0.1)
    raise AssertionError("the deployment does not become ready: " + text)


def same_tokens_across_two_hosts():
    serve_across(Hosts(), expected_answers())


def a_host_without_the_file_gets_its_part_through_the_cluster():
    cached = serve_across(Hosts(hide_model_on_b=True), expected_answers())
    assert cached["b"] > 10 << 20, f"host b, which has not the file, keeps nothing in its own cache: {cached}"


def serve_across(two_hosts, expected):
    """The same answers as on one host, over the veth; the bytes in each host's own model cache."""
    model = cluster.model_path()
    with two_hosts as hosts:
        coordinator = hosts.start("a", "coordinator", "pagoda-coordinator", "--listen", HOSTS["a"] + ":7070",
                                  "--metrics-listen", "127.0.0.1:0", "--store", hosts.folder + "/store.db",
                                  "--cache-dir", hosts.folder + "/cache-a").strip()
        for host, address in HOSTS.items():
            hosts.start(host, "worker-" + host, "pagoda-worker", "--coordinators", coordinator, "--advertise", address,
                        "--blob-listen", address + ":0", "--transports", "tcp,self", "--threads", "1",
                        "--cache-dir", f"{hosts.folder}/cache-{host}")
        router = hosts.start("a", "router", "pagoda-router", "--coordinators", coordinator, "--listen", "127.0.0.1:0",
                             "--grpc-listen", "127.0.0.1:0").split()[1]
        done = hosts.run("a", str(cluster.binary_folder() / "pagoda"), "deploy", "apply", "two", "--coordinators", coordinator,
                         "--model", model, "--pipeline-parallel-size", "2", "--max-model-len", "512", "--kv-cache-memory-bytes", "64M")
        print("  " + done.stdout.splitlines()[-1])
        wait_ready(hosts, coordinator, "two")
        before = hosts.bytes_sent()
        answers = []
        for k, prompt in enumerate(PROMPTS):
            answers.append(essence(json.loads(post_from(hosts, router, request_body("two", prompt, k)))))
        moved = hosts.bytes_sent() - before
        cached = {host: folder_bytes(f"{hosts.folder}/cache-{host}") for host in HOSTS}
    assert answers == expected, "the tokens differ from those of one host"
    # 576 floats a row at least, each way of the link carries hidden states or tokens.
    least = sum(32 + len(prompt.split()) for prompt in PROMPTS) * 576 * 4
    print(f"  the veth carried {moved} bytes, at least {least} are hidden states")
    assert moved > least, (moved, least)
    return cached


def folder_bytes(folder):
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def post_from(hosts, router, body):
    """POST from inside host a: the router listens there only."""
    done = subprocess.run([*hosts.enter("a"), "curl", "-sS", f"http://{router}/v1/completions", "-H",
                           "Content-Type: application/json", "-d", json.dumps(body)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "--ipc", "--mount", "true"]).returncode != 0:
        print("skipped: making namespaces needs root")
        sys.exit(cluster.SKIPPED)
    cluster.run(same_tokens_across_two_hosts, a_host_without_the_file_gets_its_part_through_the_cluster)
