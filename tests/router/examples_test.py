"""Runs the example clients of docs/examples as a reader would."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from processes import Cluster, binary, check

ROOT = pathlib.Path(__file__).resolve().parents[2]
ANSWER = "The quick brown fox jumps over the lazy dog. ¡Olé, 世界! 🦊 Then it sleeps."


def run(command, **environment):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    check(done.returncode == 0, (command, done.stdout, done.stderr))
    return done.stdout


def has(*modules):
    return subprocess.run([sys.executable, "-c", "import " + ", ".join(modules)], capture_output=True).returncode == 0


def main():
    with Cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        out = run([binary("example-generate"), cluster.grpc, "Hello"])
        check(ANSWER in out and "FINISH_REASON_STOP" in out, out)
        failed = subprocess.run([binary("example-generate"), cluster.grpc, ""], capture_output=True, text=True, timeout=60)
        check(failed.returncode == 1 and "no tokens" in failed.stderr, failed)
        print("passed cpp/generate.cc")
        examples = ROOT / "docs/examples/python"
        if has("grpc", "google.protobuf"):
            protos = [str(path) for path in (ROOT / "proto/pagoda/v1").glob("*.proto")]
            run([shutil.which("protoc"), "-I", str(ROOT / "proto"), f"--python_out={folder}"] + protos)
            out = run([sys.executable, str(examples / "generate_grpc.py"), cluster.grpc, "Hello"], PYTHONPATH=folder)
            check(ANSWER in out and "FINISH_REASON_STOP" in out, out)
            print("passed python/generate_grpc.py")
        else:
            print("skipped python/generate_grpc.py: grpcio is not installed")
        if has("openai"):
            out = run([sys.executable, str(examples / "chat.py"), f"http://{cluster.http}/v1", "Hi"])
            check(ANSWER in out and "tokens in" in out, out)
            print("passed python/chat.py")
        else:
            print("skipped python/chat.py: openai is not installed")


main()
