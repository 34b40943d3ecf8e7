#!/usr/bin/env python3
"""A real cluster under load and Debian's Prometheus: every panel's and every rule's expression returns data, no alert fires, and
docs/metrics.md says what the processes expose. --update-metrics writes that file; --pictures FOLDER draws panels for the README.

The processes get the flags that the chart renders (ports and addresses aside). Skipped without the model or Prometheus.
"""
import concurrent.futures
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import metrics_table
import panels
import tools
from tools import MODEL, free_port, wait_for

yaml = tools.need("yaml", "pyyaml")
RULES = yaml.safe_load(tools.RULES.read_text())
PROMETHEUS = tools.promtool().parent / "prometheus"


def get(url, key=None):
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {}), timeout=10) as answer:
        return answer.read()


def exporter_of(text):
    class Exporter(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass
    return Exporter


class Cluster(tools.Started):
    """One coordinator, two workers, one router, a model, and Prometheus that scrapes them all; two tenants, one with a small quota."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.processes, self.commands = [], {}
        self.http, self.prometheus = free_port(), free_port()

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "a")
        self.commands[name] = command
        self.processes.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=self.folder))
        return self.processes[-1]

    def kill_and_start_again(self, name):
        """As a node that is lost, and one that comes in its place."""
        victim = next(process for process in self.processes if process.args == [str(part) for part in self.commands[name]])
        victim.kill()
        victim.wait()
        self.processes.remove(victim)
        self.start(name, *self.commands[name])

    def start_all(self):
        coordinator, metrics = f"127.0.0.1:{free_port()}", free_port()
        self.start("coordinator", tools.binary("pagoda-coordinator"), f"--listen={coordinator}", f"--metrics-listen=127.0.0.1:{metrics}",
                   "--store=c.db", "--shutdown-timeout-ms=2000")
        worker_ports = [free_port(), free_port()]
        for index, port in enumerate(worker_ports):
            self.start(f"worker-{index}", tools.binary("pagoda-worker"), f"--name=worker-{index}", f"--coordinators={coordinator}", "--threads=1",
                       f"--metrics-listen=127.0.0.1:{port}", "--transports=tcp", "--memory-bytes=2000000000", "--shutdown-timeout-ms=2000")
        self.keys = {name: tools.run(tools.binary("pagoda"), "keys", "create", f"--file={self.folder}/keys.yaml", f"--tenant={name}", *more).stdout.strip()
                     for name, more in (("acme", ()), ("trial", ("--requests-per-minute=10",)), ("watch", ("--scopes=metrics",)))}
        self.start("router", tools.binary("pagoda-router"), f"--coordinators={coordinator}", f"--listen=127.0.0.1:{self.http}",
                   "--grpc-listen=127.0.0.1:0", "--shutdown-timeout-ms=2000", "--api-key-file=keys.yaml")
        self.metrics_ports = {"Router": [self.http], "Coordinator": [metrics], "Worker": worker_ports}
        targets = [f"127.0.0.1:{port}" for port in (self.http, metrics, *worker_ports)]
        # There is no GPU here: the GPU dashboard is asked over what dcgm-exporter would say.
        stand_in = (tools.HERE / "scrape/dcgm.prom").read_bytes()
        self.dcgm = http.server.ThreadingHTTPServer(("127.0.0.1", 0), exporter_of(stand_in))
        threading.Thread(target=self.dcgm.serve_forever, daemon=True).start()
        targets.append(f"127.0.0.1:{self.dcgm.server_port}")
        (self.folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "2s"}, "rule_files": [str(tools.RULES)],
            "scrape_configs": [{"job_name": "pagoda", "authorization": {"credentials": self.keys["watch"]}, "static_configs": [{"targets": targets, "labels": {"namespace": "test"}}]}]}))
        self.start("prometheus", PROMETHEUS, "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb",
                   f"--web.listen-address=127.0.0.1:{self.prometheus}")
        wait_for("a deployment", lambda: tools.run(tools.binary("pagoda"), "deploy", "apply", "m", f"--coordinators={coordinator}", f"--model={MODEL}",
                                                   "--pipeline-parallel-size=2", check=False).returncode == 0)
        wait_for("the router", lambda: get(f"http://127.0.0.1:{self.http}/readyz") is not None)
        wait_for("scrapes of all", lambda: len(self.query("up == 1")) == len(targets))

    def bench(self, tenant, *arguments, timeout=100):
        return tools.run(tools.binary("pagoda"), "bench", f"--url=http://127.0.0.1:{self.http}", "--model=m", *arguments,
                         check=False, timeout=timeout, env={**os.environ, "PAGODA_API_KEY": self.keys[tenant]})

    def query(self, expression):
        url = f"http://127.0.0.1:{self.prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            return json.loads(get(url))["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}")

    def __exit__(self, kind, *_):
        tools.stop_all(self.processes[::-1], self.folder, kind)


def test_every_panel_and_rule_has_data():
    with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
        done = cluster.bench("acme", "--num-prompts=60", "--max-concurrency=4", "--input-len=uniform:8:48", "--output-len=uniform:4:12",
                             "--shared-prefix-len=32", "--seed=1")
        assert done.returncode == 0, done.stdout + done.stderr
        cluster.bench("trial", "--num-prompts=20", "--max-concurrency=2", "--input-len=8", "--output-len=8", "--seed=3")  # over its quota
        time.sleep(4)  # two evaluations of the rules after the last scrape
        empty, asked = [], 0
        for name, board in panels.boards().items():
            for panel in panels.panels(board):
                for target in panel["targets"]:
                    asked += 1
                    found = cluster.query(panels.filled(target["expr"]))
                    if not found or any(sample["value"][1] == "NaN" for sample in found):
                        empty.append(f"{name}: {panel['title']}: {target['expr']}: {found}")
        for rule in (rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule):
            asked += 1
            if not cluster.query(rule["record"]):
                empty.append(f"{rule['record']} records nothing")
        assert not empty, "\n".join(empty)
        for tenant, refused in (("acme", False), ("trial", True)):
            found = cluster.query(f'sum(pagoda_router_tenant_quota_refusals_total{{tenant="{tenant}",quota="requests"}})')
            assert (float(found[0]["value"][1]) > 0) == refused, (tenant, found)
        rules = json.loads(get(f"http://127.0.0.1:{cluster.prometheus}/api/v1/rules"))["data"]["groups"]
        wrong = [rule for group in rules for rule in group["rules"] if rule["health"] != "ok" or rule.get("state") == "firing"]
        assert not wrong, wrong
        print(f"      {asked} expressions, all with data")
        check_metrics_table(cluster)
        if PICTURES:
            draw_pictures(cluster)


def check_metrics_table(cluster):
    text = metrics_table.render({title: [get(f"http://127.0.0.1:{port}/metrics", cluster.keys["watch"]).decode() for port in ports]
                                 for title, ports in cluster.metrics_ports.items()})
    if UPDATE:
        metrics_table.FILE.write_text(text)
        for title, ports in cluster.metrics_ports.items():  # what monitoring_test knows of them
            (tools.HERE / f"scrape/{title.lower()}.prom").write_bytes(get(f"http://127.0.0.1:{ports[0]}/metrics", cluster.keys["watch"]))
    written = set(metrics_table.FILE.read_text().splitlines())
    now = set(text.splitlines())
    assert written == now, ("docs/metrics.md is out of date (run this test with --update-metrics):\n" +
                            "\n".join([f"+ {line}" for line in sorted(now - written)] + [f"- {line}" for line in sorted(written - now)]))
    print(f"      {sum(line.startswith('| `') for line in now)} metrics, all documented")


# One picture for each dashboard, but for the GPUs': here they would be figures of a stand-in.
SHOWN = {"overview": ["Requests by endpoint", "Tokens by model", "Time to first token", "Between tokens", "Sequences", "KV blocks in use"],
         "pipeline": ["Step time", "Rows of a step", "Step time by stage", "Where a step's time goes", "Bubble", "Bytes sent", "Epochs", "Streams moved",
                      "Tokens of failed-over sequences"],
         "kv-cache": ["Blocks", "In use", "Preemptions", "Hit ratio", "Tokens looked up", "Leaked blocks"],
         "router": ["In flight", "Connections", "Refused", "Ended choices", "Submitted again", "Cut short", "Prompt tokens", "Output tokens",
                    "Cached prompt tokens"],
         "tenants": ["Requests by tenant", "Output tokens by tenant", "Prompt tokens by tenant", "Time to first token, median",
                     "Time to first token, p99", "Between tokens, p99", "Over the quota", "Refused", "Errors by tenant"],
         "capacity": ["Error budget burn", "First token, p99", "Queue, p90 by model", "Queue", "Prefill", "Decode"]}


def draw_pictures(cluster):
    began = time.monotonic()
    sys.path.insert(0, str(tools.ROOT / "deploy/monitoring"))
    import draw_panels
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        threading.Timer(60, cluster.kill_and_start_again, ["worker-1"]).start()  # a failover, seen in the pictures
        long = ("--input-len=uniform:16:200", "--output-len=uniform:16:64", "--shared-prefix-len=32", "--seed=2")
        trial = pool.submit(cluster.bench, "trial", "--num-prompts=180", "--request-rate=1.5", *long, timeout=300)
        cluster.bench("acme", "--num-prompts=600", "--max-concurrency=6", *long, timeout=300)
        trial.result()
    for board, titles in SHOWN.items():
        text, empty = draw_panels.picture(f"http://127.0.0.1:{cluster.prometheus}", board, titles, minutes=(time.monotonic() - began) / 60, interval="15s")
        assert not empty, empty
        (PICTURES / f"panels-{board}.svg").write_text(text)


UPDATE = "--update-metrics" in sys.argv
PICTURES = pathlib.Path(sys.argv[sys.argv.index("--pictures") + 1]) if "--pictures" in sys.argv else None

if __name__ == "__main__":
    if not MODEL.exists():
        tools.skip(f"no model at {MODEL}; get it with: pagoda pull")
    if not PROMETHEUS.exists():
        tools.skip("there is no prometheus (Debian's package)")
    tools.main(sys.modules[__name__])
