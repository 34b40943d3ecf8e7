#!/usr/bin/env python3
"""docs/secure-two-hosts.md by copy and paste: its own commands, block by block, on two network namespaces.

/etc/pagoda of each host is a folder of its own. The model is what the document names, from this machine's cache. Needs root.
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
                etc = self.folder / host
                etc.mkdir()
                # Its own network, shared memory and process tree, so that whatever the document starts ends with the host.
                self.keepers[host] = subprocess.Popen(
                    ["unshare", "--net", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c",
                     f"mkdir -p /etc/pagoda && mount --bind '{etc}' /etc/pagoda && mount -t tmpfs tmpfs /dev/shm && mount -t sysfs sysfs /sys && "
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
        path = f"{cluster.binary_folder()}:{os.environ['PATH']}"
        done = subprocess.run(["nsenter", "--target", str(self.inside(host)), "--net", "--ipc", "--mount", "--pid", *shell, commands],
                              capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}, cwd="/")
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


def the_documents_commands_work():
    cluster.model_path()  # or skipped
    with Hosts() as hosts:
        working = {"host-a": "/etc/pagoda", "host-b": "/etc/pagoda"}
        said = ""
        for number, (host, commands) in enumerate(blocks()):
            # A block goes on where the last one of its host ended.
            said = hosts.run(host, f"cd {working[host]}\nset -e\n{commands}", ("bash", "-c"))
            if "tar -C certificates -cf worker-certificate.tar" in commands:  # "carry it to host b"
                shutil.copy(hosts.folder / "host-a/worker-certificate.tar", hosts.folder / "host-b/worker-certificate.tar")
            if '"text"' in said:
                answer = said
            print(f"  block {number + 1} on {host}: done", flush=True)
        assert '"finish_reason":"length"' in answer, answer
        print("  " + answer[:300])
        secrets = sorted(str(path.relative_to(hosts.folder / "host-b")) for path in (hosts.folder / "host-b").rglob("*.key"))
        assert secrets == ["certificates/worker/tls.key"], f"host b has keys that it does not need: {secrets}"


if __name__ == "__main__":
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "--ipc", "--mount", "--pid", "--fork", "true"]).returncode != 0:
        print("skipped: making namespaces needs root")
        sys.exit(cluster.SKIPPED)
    cluster.run(the_documents_commands_work)
