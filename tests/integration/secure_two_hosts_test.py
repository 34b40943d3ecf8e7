#!/usr/bin/env python3
"""docs/secure-two-hosts.md by copy and paste: its own commands, block by block, on two network namespaces.

/etc/pagoda, /usr/local/bin and the home of each host are folders of its own. Host a has the programs on its PATH and this machine's
cache with the model that the document names; host b has neither, as the document says. Needs root.
"""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import cluster

DOCUMENT = cluster.ROOT / "docs/secure-two-hosts.md"
HOSTS = {"host-a": "10.79.0.1", "host-b": "10.79.0.2"}


def blocks():
    """(host, commands) in the order of the document."""
    found = re.findall(r"^```sh (host-[ab])\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    assert len(found) >= 10, f"only {len(found)} blocks"
    return found


def sh(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True)


class Hosts:
    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pagoda-secure-hosts-"))
        self.keepers = {}
        self.made_etc = not os.path.exists("/etc/pagoda")
        link = f"pgs{os.getpid() % 100000}"
        try:
            for host in HOSTS:
                for folder in ("", "local-bin", "home"):
                    (self.folder / f"{host}{folder and '-' + folder}").mkdir()
                # Its own network, shared memory and process tree, so that whatever the document starts ends with the host.
                self.keepers[host] = subprocess.Popen(
                    ["unshare", "--net", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c",
                     f"mkdir -p /etc/pagoda && mount --bind '{self.folder / host}' /etc/pagoda && mount -t tmpfs tmpfs /dev/shm && "
                     f"mount --bind '{self.folder / host}-local-bin' /usr/local/bin && mount -t sysfs sysfs /sys && "
                     "ip link set lo up && echo up && exec sleep 600"], stdout=subprocess.PIPE, text=True)
                assert self.keepers[host].stdout.readline().strip() == "up", f"cannot make {host}"
            sh("ip", "link", "add", link + "a", "type", "veth", "peer", "name", link + "b")
            for host, address in HOSTS.items():
                sh("ip", "link", "set", link + host[-1], "netns", str(self.inside(host)))
                self.run(host, f"ip addr add {address}/24 dev {link}{host[-1]} && ip link set {link}{host[-1]} up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def inside(self, host):
        """The pid of the host's first process."""
        children = pathlib.Path(f"/proc/{self.keepers[host].pid}/task/{self.keepers[host].pid}/children").read_text().split()
        return int(children[0])

    def run(self, host, commands, shell=("sh", "-ec")):
        environment = {**os.environ, "PATH": f"{cluster.binary_folder()}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        if host == "host-b":
            environment.update(PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", HOME=str(self.folder / "host-b-home"))
        done = subprocess.run(["nsenter", "--target", str(self.inside(host)), "--net", "--ipc", "--mount", "--pid", *shell, commands],
                              capture_output=True, text=True, timeout=120, env=environment, cwd="/")
        assert done.returncode == 0, f"{host}: exit status {done.returncode} of\n{commands}\n{done.stdout}{done.stderr}"
        return done.stdout

    def print_logs(self):
        for path in sorted(self.folder.glob("*/*.log")):
            print(f"--- {path.parent.name} {path.name}\n{path.read_text(errors='replace')[-2500:]}")

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.print_logs()
        for keeper in self.keepers.values():
            keeper.kill()
            keeper.wait()
        time.sleep(0.2)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.made_etc:
            with contextlib.suppress(OSError):
                os.rmdir("/etc/pagoda")  # where the hosts' own folders were mounted


def prometheus_of_the_docs_sees_them(hosts):
    """The configuration that docs/observe.md shows is for this cluster: every target of it is scraped."""
    found = shutil.which("prometheus") or cluster.ROOT / "build/tools/prometheus/usr/bin/prometheus"
    if not os.path.exists(found):
        print("  (no Prometheus here: docs/observe.md's configuration is not tried)")
        return
    text = re.search(r"^```yaml\n(.*?)^```$", (cluster.ROOT / "docs/observe.md").read_text(), re.M | re.S)[1]
    for there, here in (("pagoda-rules.yaml", cluster.ROOT / "deploy/helm/pagoda/files/rules.yaml"),
                        ("pagoda-ca.crt", "/etc/pagoda/certificates/server/ca.crt"), ("pagoda-metrics-key", "/etc/pagoda/metrics-key")):
        assert f"/etc/prometheus/{there}" in text
        text = text.replace(f"/etc/prometheus/{there}", str(here))
    (hosts.folder / "prometheus.yml").write_text("global: {scrape_interval: 1s}\n" + text)
    data = f"--storage.tsdb.path={hosts.folder}/tsdb --web.listen-address=127.0.0.1:9090"
    hosts.run("host-a", f"{found} --config.file={hosts.folder}/prometheus.yml {data} > /etc/pagoda/prometheus.log 2>&1 & ", ("bash", "-c"))
    deadline = time.monotonic() + 30
    while True:
        said = hosts.run("host-a", "curl -sS 'http://127.0.0.1:9090/api/v1/query?query=up' || true", ("bash", "-c"))
        up = re.findall(r'"job":"([a-z-]+)".*?"value":\[[^"]*"(\d)"', said)
        if sorted(up) == [("pagoda-coordinator", "1"), ("pagoda-router", "1"), ("pagoda-worker", "1")]:
            print("  Prometheus scrapes all three with the docs' configuration")
            return
        assert time.monotonic() < deadline, f"not scraped: {said}"
        time.sleep(0.5)


def the_documents_commands_work():
    cluster.model_path()  # or skipped
    with Hosts() as hosts:
        working = {"host-a": "/etc/pagoda", "host-b": "/etc/pagoda"}
        said = ""
        for number, (host, commands) in enumerate(blocks()):
            # A block goes on where the last one of its host ended.
            said = hosts.run(host, f"cd {working[host]}\nset -e\n{commands}", ("bash", "-c"))
            if "mkdir -p /etc/pagoda" in commands and host == "host-b":  # "carry both archives"
                for name in ("worker-certificate.tar", "programs.tar"):
                    assert (hosts.folder / f"host-a/{name}").stat().st_mode & 0o077 == 0, f"{name} is for all to read"
                    shutil.copy2(hosts.folder / f"host-a/{name}", hosts.folder / f"host-b/{name}")
            if '"text"' in said:
                answer = said
            print(f"  block {number + 1} on {host}: done", flush=True)
        assert '"finish_reason":"length"' in answer, answer
        print("  " + answer[:300])
        prometheus_of_the_docs_sees_them(hosts)
        secrets = sorted(str(path.relative_to(hosts.folder / "host-b")) for path in (hosts.folder / "host-b").rglob("*.key"))
        assert secrets == ["certificates/worker/tls.key"], f"host b has keys that it does not need: {secrets}"
        files = [path for host in HOSTS for path in (hosts.folder / host).rglob("*") if path.is_file()]
        assert not [path for path in files if path.suffix == ".tar"], "an archive with a key is left"
        secret = [path for path in files if path.suffix == ".key" or path.name.endswith("-key") or path.name == "keys.yaml"]
        assert {"my-key", "metrics-key", "keys.yaml", "tls.key", "ca.key"} == {path.name for path in secret}, secret
        readable = [f"{path}: {path.stat().st_mode & 0o777:o}" for path in secret if path.stat().st_mode & 0o077]
        assert not readable, f"for all to read: {readable}"
        programs = sorted(path.name for path in (hosts.folder / "host-b-local-bin").iterdir())
        assert programs == ["pagoda", "pagoda-worker"], programs
        assert '"peers":1' in (hosts.folder / "host-b/worker.log").read_text(), "host b has not read its part of the model from host a"


if __name__ == "__main__":
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "--ipc", "--mount", "--pid", "--fork", "true"]).returncode != 0:
        print("skipped: making namespaces needs root")
        sys.exit(cluster.SKIPPED)
    cluster.run(the_documents_commands_work)
