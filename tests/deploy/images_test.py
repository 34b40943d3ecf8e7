#!/usr/bin/env python3
"""Dockerfiles and compose file, as far as they can be held to account without a container engine: pinned bases, no root, packages
that exist and bring every library that the binaries need, health checks that work against real processes, command lines that parse."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tools

yaml = tools.need("yaml", "pyyaml")
IMAGES = tools.ROOT / "deploy/images"
FILES = {path.name: path.read_text() for path in sorted(IMAGES.glob("*.Dockerfile"))}
COMPOSE = yaml.safe_load((tools.ROOT / "deploy/compose.yaml").read_text())
BINARIES = {"control.Dockerfile": ["pagoda", "pagoda-router", "pagoda-coordinator"], "worker-cpu.Dockerfile": ["pagoda-worker"],
            "worker-cuda.Dockerfile": ["pagoda-worker"]}


def last_stage(text):
    return text[text.rindex("\nFROM "):]


def packages_of(name):
    body = re.search(r"apt-get install -y --no-install-recommends \\\n(.*?)&& rm", last_stage(FILES[name]), re.S)[1]
    return set(re.findall(r"[a-z0-9][a-z0-9.+-]+", body))


def test_bases_are_pinned_and_equal():
    bases = {re.search(r"^ARG DEBIAN_IMAGE=(\S+)$", text, re.M)[1] for text in FILES.values()}
    assert len(bases) == 1 and re.fullmatch(r"debian:bookworm-\d{8}-slim@sha256:[0-9a-f]{64}", bases.pop()), bases
    for name, text in FILES.items():
        assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${DEBIAN_IMAGE}"}, name


def test_images_run_as_a_number_that_is_not_root_and_have_health_checks():
    for name, text in FILES.items():
        final = last_stage(text)
        assert re.findall(r"^USER (.*)$", final, re.M) == ["10001:10001"], name
        # Health needs no key; /metrics does, where there are keys.
        assert re.search(r'^HEALTHCHECK .*CMD \["pagoda-answers", "\d+", "/livez"\]$', final, re.M) and "STOPSIGNAL SIGTERM" in final, name
        assert "curl" not in final and "apt-get upgrade" not in text and "ADD " not in text, name


def test_copied_files_exist_and_built_targets_are_what_is_installed():
    for name, text in FILES.items():
        for sources in re.findall(r"^COPY (?:--chmod=\S+ )?(?!--from)(.*) \S+$", text, re.M):
            for source in sources.split():
                assert (tools.ROOT / source).exists(), f"{name}: {source}"
        built = re.search(r"ninja -C /build ([a-z -]+?) \\", text)[1].split()
        assert built == BINARIES[name], name
        for target in built:
            assert f"/build/bin/{target}" in last_stage(text), name


def test_packages_hold_every_library_of_the_binaries():
    if not shutil.which("dpkg") or "bookworm" not in pathlib.Path("/etc/os-release").read_text():
        print("      (not compared: this is not Debian bookworm)")
        return
    for name, binaries in BINARIES.items():
        libraries = set()
        for program in binaries:
            for path in re.findall(r"=> (/\S+)", tools.run("ldd", tools.binary(program)).stdout):
                libraries.add(os.path.realpath(path))
        listed = tools.run("dpkg", "-S", *sorted({path for lib in libraries for path in (lib, lib.removeprefix("/usr"))}), check=False).stdout
        owners = {line.split(":")[0] for line in listed.splitlines()}
        assert len(owners) > 8, owners
        missing = owners - packages_of(name) - {"libc6", "libgcc-s1"}
        assert not missing, f"{name}: libraries of packages that the image does not install: {sorted(missing)}"
        surplus = {package for package in packages_of(name) - owners if package.startswith("lib")}
        assert not surplus, f"{name}: installs what no binary needs: {sorted(surplus)}"


def build_context(name, folder):
    """What the engine would send: the tree without what the image's .dockerignore names."""
    ignored = set((IMAGES / f"{name}.dockerignore").read_text().split())
    assert {".git", "build", "tests"} <= ignored
    folders = {pattern for pattern in ignored if "/" not in pattern}
    for path in tools.run("git", "-C", tools.ROOT, "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines():
        if path.split("/")[0] not in folders and (tools.ROOT / path).is_file():
            to = folder / path
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tools.ROOT / path, to)


def test_build_stages_can_build():
    """The first stage's own commands over what the image gets of the tree: CMake must configure it, and ninja must know how to make every
    target (it is not made here: that is a clean build of some minutes)."""
    for tool in ("cmake", "ninja", "git"):
        if not shutil.which(tool):
            print(f"      (not tried: there is no {tool})")
            return
    with tempfile.TemporaryDirectory() as folder:
        source, build = pathlib.Path(folder, "src"), pathlib.Path(folder, "build")
        configured = None
        for name, text in FILES.items():
            if "-DPAGODA_CUDA=ON" in text:
                continue  # wants NVIDIA's compiler; else it is the CPU worker's
            configure, make = re.search(r"^RUN (cmake -S /src .*?) \\\n    && (ninja -C /build .*?) \\\n    && strip", text, re.S | re.M).groups()
            if configure != configured:
                build_context(name, source)
                assert (source / "scripts/lib/packages.sh").exists() and not (source / "tests").exists()
                done = tools.run(*[{"/src": source, "/build": build}.get(word, word) for word in configure.split()], check=False, timeout=100)
                assert done.returncode == 0, f"{name}: {configure}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                configured = configure
            planned = tools.run(*make.replace("-C /build", f"-C {build} -t commands").split()).stdout
            for target in BINARIES[name]:
                assert re.search(rf" -o bin/{target} ", planned), f"{name}: nothing links {target}"


def test_packages_exist():
    build = tools.run("bash", "-c", f". {tools.ROOT}/scripts/lib/packages.sh; printf '%s\\n' \"${{PAGODA_BUILD_PACKAGES[@]}}\"").stdout.split()
    assert len(build) > 20, build
    packages = sorted(set(build).union(*(packages_of(name) for name in FILES)))
    assert len(packages) > 20, packages
    if not shutil.which("apt-cache") or "bookworm" not in pathlib.Path("/etc/os-release").read_text():
        print("      (not looked up: this is not Debian bookworm)")
        return
    shown = set(re.findall(r"^Package: (\S+)$", tools.run("apt-cache", "show", *packages, check=False).stdout, re.M))
    assert set(packages) <= shown, f"not in Debian: {set(packages) - shown}"


def test_docs_name_the_packages_of_a_host_that_only_runs_the_binaries():
    """Where the docs install them by hand: what the images install, apart from what is there for `pagoda pull`."""
    wanted = set().union(*(packages_of(name) for name in ("control.Dockerfile", "worker-cpu.Dockerfile"))) - {"python3", "python3-pip"}
    for page in ("docs/install.md", "docs/secure-two-hosts.md"):
        command = re.search(r"apt-get install -y --no-install-recommends (.*?)\n```", (tools.ROOT / page).read_text(), re.S)[1]
        assert set(command.replace("\\\n", " ").split()) == wanted, f"{page}: {set(command.split()) ^ wanted}"


# The one-host cluster's roles: who shows which certificates. Everybody else holds no key.
KEYS_OF = {"pagoda-router": {"router", "server"}, "pagoda-coordinator": {"coordinator"}, "pagoda-worker": {"worker"}, "pagoda": {"admin"}}


class ComposeVolumes:
    """The volumes of compose.yaml as folders, filled by the command of its service `certs` itself."""

    def __enter__(self):
        self.kept = tempfile.TemporaryDirectory(prefix="pagoda-compose-")
        self.folder = pathlib.Path(self.kept.name)
        for volume in COMPOSE["volumes"]:
            (self.folder / volume).mkdir()
        certs = COMPOSE["services"]["certs"]
        shell, flag, script = certs["command"]
        path = f"{tools.binary('pagoda').parent}:{os.environ['PATH']}"
        tools.run(shell, flag, self.inside(certs, script.replace("$$", "$")), env={**os.environ, **certs["environment"], "PATH": path})
        return self

    def __exit__(self, *_):
        self.kept.cleanup()

    def mounts(self, service):
        """Volume -> where the container sees it."""
        pairs = [volume.split(":")[:2] for volume in service.get("volumes", [])]
        return {source: target for source, target in pairs if source in COMPOSE["volumes"]}

    def inside(self, service, text):
        """`text` with the paths below the container's mounts as paths of this machine."""
        root = pathlib.Path(tempfile.mkdtemp(dir=self.kept.name, prefix="root-"))
        for volume, target in self.mounts(service).items():
            link = root / target.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.folder / volume)
        tops = "|".join(sorted({target.split("/")[1] for target in self.mounts(service).values()}))
        return re.sub(rf"(?<![\w/])/(?={tops}\b)", f"{root}/", text)

    def keys(self, service):
        """Roles whose private keys the container can see, by what is in them."""
        authority = {path.read_text(): path.parent.name for path in (self.folder / "authority").glob("*/*.key")}
        assert len(authority) == 6, authority.values()
        return {authority[path.read_text()] for volume in self.mounts(service) for path in (self.folder / volume).rglob("*.key")}


def test_compose_services_see_the_keys_of_their_own_role_only():
    with ComposeVolumes() as volumes:
        for name, service in COMPOSE["services"].items():
            if name == "certs":  # it makes them, and speaks to nobody
                assert "ports" not in service and service["restart"] == "no"
                continue
            uses = any(part.startswith("--tls=") for part in service["command"])
            allowed = KEYS_OF[service["command"][0]] if uses else set()
            assert volumes.keys(service) == allowed, f"{name} sees the keys of {volumes.keys(service)}; its own are {allowed}"
            for volume in service.get("volumes", []):
                assert volume.endswith(":ro") or not volumes.keys({"volumes": [volume]}), f"{name} can change its key: {volume}"
            assert name not in ("router", "coordinator", "worker-0", "worker-1", "deploy") or uses, f"{name} runs without certificates"
        for key in volumes.folder.glob("*/**/*.key"):
            open_to = key.stat().st_mode & 0o777
            assert open_to == (0o600 if "authority" in key.parts else 0o640), f"{key}: {open_to:o}"
        assert (volumes.folder / "ca/ca.crt").read_text() == (volumes.folder / "server-tls/ca.crt").read_text()
        scrapes = yaml.safe_load((tools.ROOT / "deploy/monitoring/prometheus.yml").read_text())["scrape_configs"]
        ca_file = next(scrape["tls_config"]["ca_file"] for scrape in scrapes if "tls_config" in scrape)
        assert pathlib.Path(volumes.inside(COMPOSE["services"]["prometheus"], ca_file)).exists(), ca_file


# Who owns folders of images that are not made here.
FOREIGN = {"prom/prometheus": {"/prometheus": "65534"}}


def owner_of(image, folder):
    """The user to whom `folder` belongs in an image. One that is not there is made by the engine, for root."""
    repository = image.split(":")[0]
    if repository in FOREIGN:
        return FOREIGN[repository].get(folder, "0")
    final = last_stage(FILES[f"{repository.removeprefix('pagoda/')}.Dockerfile"])
    owners = {home: uid for uid, home in re.findall(r"useradd --uid (\d+) .*?--home-dir (\S+) --create-home", final)}
    for uid, folders in re.findall(r"install -d -o (\d+) -g \d+ ((?:/\S+ ?)+)", final):
        owners |= dict.fromkeys(folders.split(), uid)
    return owners.get(folder, "0")


def test_compose_services_may_write_the_volumes_that_they_write():
    """An engine fills an empty volume from the image of the container that is made first, owner and all: whichever that is, the volume
    must belong to the user of whoever writes it. Root is no exception: without capabilities it is a user like others."""
    mounts, writers = {}, {}
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source, target, *options = volume.split(":")
            if source in COMPOSE["volumes"]:
                mounts.setdefault(source, []).append((name, service["image"], target))
                if "ro" not in options:
                    writers.setdefault(source, {})[name] = service["user"].split(":")[0]
    assert set(writers) == set(COMPOSE["volumes"]), f"nobody writes {set(COMPOSE['volumes']) - set(writers)}"
    assert owner_of("pagoda/worker-cpu:1", "/var/cache/pagoda") == "10001" and owner_of("pagoda/control:1", "/etc/pagoda/tls") == "0"
    wrong = [f"{writer} runs as {user}, but {target} of {image} ({name}) belongs to {owner_of(image, target)}"
             for volume, users in writers.items() for writer, user in users.items() for name, image, target in mounts[volume]
             if owner_of(image, target) != user]
    assert not wrong, "\n".join(wrong)


def test_compose_services_are_closed_and_parse():
    with ComposeVolumes() as volumes:
        check_compose_services(volumes)


def check_compose_services(volumes):
    parsed = 0
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert not service["image"].endswith(":latest") and ":" in service["image"], name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for dependency in service.get("depends_on", {}):
            assert dependency in COMPOSE["services"], name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (tools.ROOT / "deploy" / source).exists(), f"{name}: {volume}"
        command = service["command"]
        if command[0] in ("pagoda-router", "pagoda-coordinator", "pagoda-worker"):
            assert any(part.startswith("--tls=") for part in command), name
            tools.run(tools.binary(command[0]), *[volumes.inside(service, part) if "=/etc/pagoda/" in part else part for part in command[1:]],
                      "--check-config")
            parsed += 1
            grace = int(service["stop_grace_period"].removesuffix("s"))
            timeout = next(int(part.split("=")[1]) for part in command if part.startswith("--shutdown-timeout-ms="))
            assert grace * 1000 >= timeout + 5000, name
    assert parsed == 4
    targets = {target for scrape in yaml.safe_load((tools.ROOT / "deploy/monitoring/prometheus.yml").read_text())["scrape_configs"]
               for config in scrape["static_configs"] for target in config["targets"]}
    assert {target.split(":")[0] for target in targets} == {name for name, service in COMPOSE["services"].items()
                                                            if service["command"][0] in ("pagoda-router", "pagoda-coordinator", "pagoda-worker")}


def ask(script, *arguments):
    return tools.run(IMAGES / script, *arguments, check=False, timeout=20).returncode


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_health_checks_against_real_processes():
    """A coordinator and a worker: ready, and not any more once the coordinator is gone. Over TLS: alive or not."""
    with tempfile.TemporaryDirectory() as folder:
        started = []

        def start(program, *arguments):
            started.append(subprocess.Popen([tools.binary(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            return started[-1]
        try:
            ready, worker_ready = pathlib.Path(folder) / "coordinator", pathlib.Path(folder) / "worker"
            coordinator = start("pagoda-coordinator", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", f"--cache-dir={folder}",
                                f"--ready-file={ready}", "--shutdown-timeout-ms=1000")
            assert wait_for(ready.exists), "the coordinator does not get ready"
            address = ready.read_text().strip()
            start("pagoda-worker", f"--coordinators={address}", f"--cache-dir={folder}", "--threads=1", "--memory-bytes=1000000",
                  f"--ready-file={worker_ready}", "--shutdown-timeout-ms=1000")
            assert wait_for(worker_ready.exists), "the worker does not register"
            port = re.search(r"metrics (\d+)", worker_ready.read_text())[1]
            assert wait_for(lambda: ask("pagoda-answers", port, "/readyz") == 0)
            assert ask("pagoda-answers", port, "/metrics") == 0
            assert ask("pagoda-answers", port, "/nothing-there") != 0
            assert ask("pagoda-answers", "1", "/metrics") != 0
            coordinator.send_signal(signal.SIGTERM)
            coordinator.wait(10)
            assert wait_for(lambda: ask("pagoda-answers", port, "/readyz") == 1), "still ready without its coordinator"
            assert ask("pagoda-answers", port, "/livez") == 0, "and alive all the same"
            # The same over TLS: the status port of a coordinator, the HTTP port of a router; and a router that is stopped.
            tools.run(tools.binary("pagoda"), "certs", f"{folder}/certs")
            ready.unlink()
            start("pagoda-coordinator", "--listen=127.0.0.1:0", f"--metrics-listen=127.0.0.1:{tools.free_port()}", f"--cache-dir={folder}",
                  f"--tls={folder}/certs/coordinator", f"--ready-file={ready}", "--shutdown-timeout-ms=1000")
            assert wait_for(ready.exists), "the coordinator with TLS does not get ready"
            status_port = started[-1].args[2].rsplit(":", 1)[1]
            router_ready = pathlib.Path(folder) / "router"
            router = start("pagoda-router", f"--coordinators={ready.read_text().strip()}", "--listen=127.0.0.1:0", "--grpc-listen=127.0.0.1:0",
                           f"--tls={folder}/certs/router", f"--ssl-certfile={folder}/certs/server/tls.crt",
                           f"--ssl-keyfile={folder}/certs/server/tls.key", f"--ready-file={router_ready}", "--shutdown-timeout-ms=1000")
            assert wait_for(router_ready.exists), "the router does not start"
            router_port = re.search(r"http \S+:(\d+)", router_ready.read_text())[1]
            for tls_port in 20 * (status_port, router_port):  # often: the server may hang up while it is still being spoken to
                assert ask("pagoda-answers", tls_port, "/livez") == 0, tls_port
                assert ask("pagoda-answers", tls_port, "/readyz") == 1, "cannot be known without a certificate"
            router.send_signal(signal.SIGSTOP)
            assert ask("pagoda-answers", router_port, "/livez") != 0, "it does not attend to anything"
            router.send_signal(signal.SIGCONT)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


if __name__ == "__main__":
    tools.main(sys.modules[__name__])
