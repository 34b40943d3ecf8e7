#!/usr/bin/env python3
"""Runs the images' Dockerfiles without a container engine: the last stage's steps in a fresh Debian root (debootstrap), then the processes
in those roots as the images' user, on a read-only root, until a request is answered and the health checks pass.

usage (as root, a few minutes and 1 GB under --work): try_images.py BIN_FOLDER MODEL_FILE [--work FOLDER] [--keep]

BIN_FOLDER holds what the first stage would build (its steps are those of scripts/serve, and take as long as a clean build). Not part of
scripts/test: it downloads some 200 MB.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = {"control": "control.Dockerfile", "worker-cpu": "worker-cpu.Dockerfile"}
WORDS = ("ARG", "CMD", "COPY", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "SHELL", "STOPSIGNAL", "USER", "WORKDIR")


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def steps(dockerfile):
    """(word, rest) of each step of the last stage."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    found = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    last = max(i for i, (word, _, _) in enumerate(found) if word == "FROM")
    assert all(word in WORDS for word, _, _ in found), [word for word, _, _ in found]
    return [(word, rest.strip()) for word, _, rest in found[last + 1:]]


class Image:
    def __init__(self, name, base, work, binaries):
        self.name, self.root = name, work / name
        if self.root.exists():
            shutil.rmtree(self.root)
        run("cp", "-a", base, self.root)
        for word, rest in steps(ROOT / "deploy/images" / IMAGES[name]):
            getattr(self, f"do_{word.lower()}", lambda rest: None)(rest) if word != "COPY" else self.do_copy(rest, binaries)
        packages = self.inside("dpkg-query", "-W", "-f", "${Package}\n", capture_output=True, text=True).stdout.split()
        size = int(run("du", "-sm", self.root, capture_output=True, text=True).stdout.split()[0])
        print(f"{name}: {len(packages)} packages, {size} MB, user {self.user}, health check: {shlex.join(self.health)}", flush=True)

    def inside(self, *command, **options):
        return run("chroot", self.root, *command, env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}, **options)

    def do_run(self, rest):
        self.inside("/bin/sh", "-ec", rest, stdout=subprocess.DEVNULL)

    def do_copy(self, rest, binaries):
        flags = [w for w in rest.split() if w.startswith("--")]
        *sources, target = [w for w in rest.split() if not w.startswith("--")]
        mode = next((f.split("=")[1] for f in flags if f.startswith("--chmod")), None)
        for source in sources:
            origin = binaries / pathlib.Path(source).name if "--from=build" in flags else ROOT / source
            to = self.root / target.lstrip("/")
            to = to / origin.name if target.endswith("/") else to
            shutil.copy(origin, to)
            if "--from=build" in flags:
                run("strip", to)
            to.chmod(int(mode, 8) if mode else 0o755)

    def do_user(self, rest):
        self.user = rest

    def do_workdir(self, rest):
        self.folder = rest

    def do_healthcheck(self, rest):
        self.health = json.loads(rest[rest.index("CMD") + 3:])

    def do_cmd(self, rest):
        self.command = json.loads(rest)

    def start(self, *command, model=None):
        """In namespaces of its own for mounts and processes: the root read-only, /tmp and the working folder in memory."""
        mounts = [f"mount --rbind {self.root} {self.root}", f"mount -t proc proc {self.root}/proc", f"mount -t tmpfs tmpfs {self.root}/tmp",
                  f"mount -t tmpfs -o uid=10001,gid=10001 tmpfs {self.root}{self.folder}", f"mount -t tmpfs tmpfs {self.root}/dev/shm || true"]
        if model:
            (self.root / "models").mkdir(exist_ok=True)
            mounts.append(f"mount --bind {model.parent} {self.root}/models")
        mounts.append(f"mount -o remount,ro,bind {self.root}")
        inner = f"cd {self.folder} && exec {shlex.join(map(str, command))}"
        script = " && ".join(mounts) + f" && exec chroot --userspec={self.user} {self.root} /bin/sh -c {shlex.quote(inner)}"
        log = open(self.root.parent / f"{command[0]}.log", "w")
        return subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", script], stdout=log, stderr=log,
                                env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": self.folder})

    def healthy(self, *check):
        command = check or self.health
        return subprocess.run(["chroot", f"--userspec={self.user}", self.root, *command], capture_output=True,
                              env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}).returncode == 0


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.2)
    print(f"ok: {what}", flush=True)


def answered(port):
    body = json.dumps({"model": "m", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            print("    " + json.dumps(json.load(answer)["choices"][0]["text"]))
            return True
    except OSError:
        return False


def try_all(work, binaries, model):
    base = work / "base"
    if not base.exists():
        run("debootstrap", "--variant=minbase", "bookworm", base, stdout=subprocess.DEVNULL)
    images = {name: Image(name, base, work, binaries) for name in IMAGES}
    control, worker = images["control"], images["worker-cpu"]
    for image in images.values():
        image.inside(*image.command, stdout=subprocess.DEVNULL)
        writable = subprocess.run(["chroot", f"--userspec={image.user}", image.root, "find", "/", "-xdev", "-writable", "-not", "-type", "l",
                                   "-not", "-path", "/proc/*"], capture_output=True, text=True).stdout.split()
        print(f"{image.name}: what its user may write: {[p for p in writable if not p.startswith('/dev/')]}")
    processes = []
    try:
        processes.append(control.start("pagoda-coordinator", "--listen=127.0.0.1:17070", "--metrics-listen=127.0.0.1:17071", "--store=c.db",
                                       model=model))
        processes.append(worker.start("pagoda-worker", "--coordinators=127.0.0.1:17070", "--metrics-listen=127.0.0.1:7073", "--threads=1",
                                      "--memory-bytes=2000000000", model=model))
        processes.append(control.start("pagoda-router", "--coordinators=127.0.0.1:17070", "--listen=127.0.0.1:8000", "--grpc-listen=127.0.0.1:0"))
        wait_for("the router's health check", control.healthy)
        wait_for("the worker's health check", worker.healthy)
        wait_for("the coordinator's", lambda: control.healthy("pagoda-answers", "17071", "/metrics"))
        wait_for("the worker is registered", lambda: worker.healthy("pagoda-answers", "7073", "/readyz"), 30)
        wait_for("a deployment", lambda: subprocess.run(
            ["chroot", f"--userspec={control.user}", control.root, "pagoda", "deploy", "apply", "m", "--coordinators=127.0.0.1:17070",
             f"--model=/models/{model.name}"], capture_output=True,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}).returncode == 0, 20)
        wait_for("an answer", lambda: answered(8000), 90)
    finally:
        for process in reversed(processes):  # unshare's child is the process itself
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            for child in children.read_text().split() if children.exists() else []:
                os.kill(int(child), signal.SIGTERM)
        for process in processes:
            try:
                print(f"    after SIGTERM: exit status {process.wait(40)}")
            except subprocess.TimeoutExpired:
                raise SystemExit(f"process {process.pid} does not end")
        for log in sorted(work.glob("*.log")):
            print(f"--- {log.name}: " + "\n".join(log.read_text(errors="replace").splitlines()[-4:]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp/pagoda-images"))
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("chroot and mounts need root")
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        try_all(given.work.resolve(), given.binaries.resolve(), given.model.resolve())
    finally:
        if not given.keep:
            shutil.rmtree(given.work)
