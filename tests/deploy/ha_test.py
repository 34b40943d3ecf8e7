#!/usr/bin/env python3
"""The command lines that the chart renders for `ha-etcd`, run as processes on this machine: three coordinators on an etcd that wants
certificates, workers of one pipeline and a spare, a router. The leader is killed, then a worker; requests are answered all the same.

Addresses, folders and sizes are this machine's; every other flag is the chart's.
"""
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import tools
from tools import MODEL, free_port, wait_for

yaml = tools.need("yaml", "pyyaml")
OBJECTS = list(yaml.safe_load_all((tools.HERE / "golden/ha-etcd.yaml").read_text()))
COORDINATORS, WORKERS = 3, 3


def container(kind, ending):
    item = next(item for item in OBJECTS if item["kind"] == kind and re.search(ending, item["metadata"]["name"]))
    return item["spec"]["template"]["spec"]["containers"][0]


class Cluster(tools.Started):
    def __init__(self, folder):
        self.folder, self.children = pathlib.Path(folder), {}
        self.ports = {f"pagoda-coordinator-{index}": free_port() for index in range(COORDINATORS)}
        self.etcd, self.http = free_port(), free_port()
        tools.run(tools.binary("pagoda"), "certs", self.folder / "tls")

    def local(self, arguments, name, role):
        """The chart's arguments, with this machine's places."""
        lines = "\n".join(str(argument) for argument in arguments).replace("$(POD_NAME)", name).replace("$(POD_IP)", "127.0.0.1")
        for coordinator, port in self.ports.items():
            lines = lines.replace(f"{coordinator}.pagoda-coordinator:7070", f"127.0.0.1:{port}")
        lines = re.sub(r"etcd-\d\.etcd\.data:2379", f"127.0.0.1:{self.etcd}", lines).replace("/etc/pagoda/etcd", f"{self.folder}/tls/coordinator")
        lines = lines.replace("/etc/pagoda/tls", f"{self.folder}/tls/{role}").replace("/etc/pagoda/server", f"{self.folder}/tls/server")
        lines = re.sub(r"/var/(lib|cache)/pagoda", str(self.folder / name), lines)
        lines = lines.replace("0.0.0.0:7070", f"127.0.0.1:{self.ports.get(name, 0)}").replace("0.0.0.0:8000", f"127.0.0.1:{self.http}")
        lines = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", lines)
        lines = re.sub(r"collector\.observability:4318", "127.0.0.1:9", lines)  # nobody there: spans are dropped, nothing else suffers
        lines = lines.replace("--memory-bytes=0", "--memory-bytes=1000000000").replace("--threads=0", "--threads=1")
        lines = re.sub(r"--model=.*", f"--model={MODEL}", lines).replace("--data-parallel-size=2", "--data-parallel-size=1")
        return [line for line in lines.split("\n") if not line.startswith("--tcp-port-range")]

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "w")
        self.children[name] = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)

    def start_of_chart(self, name, role, found):
        self.start(name, tools.binary(found["command"][0]), *self.local(found["args"], name, role))

    def start_all(self):
        tls = self.folder / "tls/server"
        client, peer = f"https://127.0.0.1:{self.etcd}", f"http://127.0.0.1:{free_port()}"
        self.start("etcd", "etcd", "--name=t", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                   f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=t={peer}",
                   f"--cert-file={tls}/tls.crt", f"--key-file={tls}/tls.key", f"--trusted-ca-file={tls}/ca.crt", "--client-cert-auth")
        for name in self.ports:
            self.start_of_chart(name, "coordinator", container("StatefulSet", "coordinator$"))
        for index in range(WORKERS):
            self.start_of_chart(f"worker-{index}", "worker", container("StatefulSet", "worker-spare$"))
        self.start_of_chart("router", "router", container("Deployment", "router$"))
        job = container("Job", "models")
        wait_for("the models Job", lambda: tools.run(tools.binary(job["command"][0]), *self.local(job["args"], "job", "admin"), check=False).returncode == 0)
        wait_for("an answer", lambda: self.ask() == "ok")

    def ask(self):
        body = json.dumps({"model": "smollm2-135m", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "ignore_eos": True}).encode()
        request = urllib.request.Request(f"https://localhost:{self.http}/v1/completions", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30, context=ssl.create_default_context(cafile=f"{self.folder}/tls/server/ca.crt")) as answer:
                return "ok" if json.load(answer)["usage"]["completion_tokens"] == 8 else "an answer of another length"
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"

    def events(self, name, event):
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return [line for line in lines if f'"event":"{event}"' in line]

    def leader(self):
        led = {name: len(self.events(name, "leads")) - len(self.events(name, "leads_no_more")) for name in self.ports if self.children[name].poll() is None}
        return next((name for name, times in led.items() if times > 0), None)

    def kill(self, name):
        self.children[name].kill()
        self.children[name].wait()

    def __exit__(self, failed, *_):
        tools.stop_all(list(self.children.values()), self.folder, failed)


def test_nothing_is_alone():
    with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
        first = cluster.leader()
        cluster.kill(first)
        answer = cluster.ask()
        assert answer == "ok", f"a request that came while nobody led is to be held and answered: {answer}"
        wait_for("another leader", lambda: cluster.leader() not in (None, first))
        ready = "".join(cluster.events(cluster.leader(), "pipeline_ready"))
        assert ready, "it leads, and has the pipeline"
        print(f"      {first} was killed, {cluster.leader()} leads")
        busy = next(name for name in cluster.children if name.startswith("worker") and cluster.events(name, "assigned"))
        cluster.kill(busy)
        answer = cluster.ask()
        assert answer == "ok", f"the spare was to take the place: {answer}"
        # Nobody without the etcd's certificate reads or writes it.
        for more in ((), ("--cacert", f"{folder}/tls/server/ca.crt")):
            done = subprocess.run(["curl", "-sS", *more, f"https://127.0.0.1:{cluster.etcd}/version"], capture_output=True, text=True)
            assert done.returncode != 0, done.stdout


if __name__ == "__main__":
    if not MODEL.exists():
        tools.skip(f"no model at {MODEL}; get it with: pagoda pull")
    if shutil.which("etcd") is None or shutil.which("curl") is None:
        tools.skip("no etcd or curl on the PATH; apt-get install etcd-server curl")
    os.environ.pop("PAGODA_API_KEY", None)
    tools.main(sys.modules[__name__])
