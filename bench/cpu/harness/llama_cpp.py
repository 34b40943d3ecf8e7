"""llama.cpp out of the source package of `llama-cpp-python`, built by clang with its own tools, once per instruction set."""

import json
import os
import re
import subprocess
import tarfile

VERSION = "0.3.36"
TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize", "llama-perplexity", "llama-server")
COMMON = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
          "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_UI=OFF",
          "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"]
NATIVE = ["-DGGML_NATIVE=ON"]
AVX2 = ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_BMI2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON",
        "-DGGML_AVX512=OFF"]
PACKAGES = ["clang-16", "libomp-16-dev", "cmake", "ninja-build"]


class LlamaCpp:
    def __init__(self, cache, run, threads):
        self.cache = cache
        self.run = run  # run(title, command, **options): with a log
        self.threads = threads
        self.compiler = None

    def source(self):
        folder = f"{self.cache}/llama_cpp_python-{VERSION}"
        archive = f"{folder}.tar.gz"
        if not os.path.exists(archive):
            self.run("source package of llama-cpp-python",
                     ["python3", "-m", "pip", "download", "--no-binary", "llama-cpp-python", "--no-deps",
                      f"llama-cpp-python=={VERSION}", "-d", self.cache])
        if not os.path.exists(f"{folder}/vendor/llama.cpp/CMakeLists.txt"):
            with tarfile.open(archive) as tar:
                tar.extractall(self.cache, filter="data")
        return f"{folder}/vendor/llama.cpp"

    def folder(self, isa="native"):
        return f"{self.cache}/llama.cpp-{VERSION}-{isa}"

    def build(self, isa="native", tools=TOOLS):
        """A build that is there is used as it is; what is missing of it is built."""
        folder = self.folder(isa)
        missing = [tool for tool in tools if not os.path.exists(f"{folder}/bin/{tool}")]
        if isa == "avx2":  # the same tools over another ggml-cpu
            missing = [] if os.path.exists(f"{folder}/bin/libggml-cpu.so") else ["ggml-cpu"]
        if not missing:
            return
        if not os.path.exists("/usr/bin/clang-16"):
            self.run("packages to build llama.cpp", ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES])
        if not os.path.exists(f"{folder}/build.ninja"):
            self.run(f"configure llama.cpp, {isa}",
                     ["cmake", "-S", self.source(), "-B", folder, "-G", "Ninja", "-DCMAKE_C_COMPILER=clang-16",
                      "-DCMAKE_CXX_COMPILER=clang++-16", *COMMON, *(AVX2 if isa == "avx2" else NATIVE)])
        self.run(f"build llama.cpp, {isa}: {', '.join(missing)}", ["ninja", "-C", folder, *missing])

    def command(self, tool, isa="native"):
        """The tool's path and the environment it wants."""
        environment = dict(os.environ)
        native = f"{self.folder('native')}/bin"
        if isa == "avx2":
            environment["LD_LIBRARY_PATH"] = f"{self.folder('avx2')}/bin"
        return f"{native}/{tool}", environment

    def _output(self, tool, arguments, isa):
        path, environment = self.command(tool, isa)
        done = subprocess.run([path, *arguments], env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"{tool} {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout

    def prefill(self, model, tokens, flash, isa="native"):
        """Tokens a second of one prompt."""
        out = self._output("llama-bench", ["-m", model, "-p", str(tokens), "-n", "0", "-r", "1", "-o", "json",
                                           "-t", str(self.threads), "-fa", str(flash)], isa)
        return json.loads(out)[0]["avg_ts"]

    def one_stream(self, model, depth, tokens, flash, isa="native"):
        out = self._output("llama-bench", ["-m", model, "-p", "0", "-n", str(tokens), "-d", str(depth), "-r", "1", "-o", "json",
                                           "-t", str(self.threads), "-fa", str(flash)], isa)
        return json.loads(out)[0]["avg_ts"]

    def batched(self, model, streams, prompt, tokens, flash, unified, isa="native"):
        """Decoded tokens a second of all streams together."""
        context = str(streams * (prompt + tokens) + 64)
        arguments = ["-m", model, "-c", context, "-b", "2048", "-ub", "512", "-npp", str(prompt), "-ntg", str(tokens), "-npl",
                     str(streams), "-t", str(self.threads), "-tb", str(self.threads), "-fa", "on" if flash else "off",
                     "--output-format", "jsonl"]
        arguments.append("--kv-unified" if unified else "--no-kv-unified")
        out = self._output("llama-batched-bench", arguments, isa)
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return lines[-1]["speed_tg"]

    def quantize(self, source, target, kind):
        if os.path.exists(target):
            return target
        path, environment = self.command("llama-quantize")
        self.run(f"quantise to {kind}", [path, "--allow-requantize", source, target + ".new", kind], env=environment)
        os.rename(target + ".new", target)
        return target
