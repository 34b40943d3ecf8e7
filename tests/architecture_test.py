#!/usr/bin/env python3
"""Holds the tree to its architecture: who may include whom, where CUDA may be named, and that nothing names one machine.

Runs in the repository's root; needs nothing but Python. Prints each violation as file:line and exits with 1.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What a folder may include of this repository (DESIGN, section 3). A longer prefix is a folder of its own.
ALLOWED = {
    "proto": set(),
    "common": {"common"},
    "security": {"security", "common"},
    "checkpoint": {"checkpoint", "common"},
    "text": {"text", "text/grammar", "common", "checkpoint"},
    "text/grammar": {"text/grammar", "common"},
    "kernels": {"kernels"},
    "worker": {"worker", "worker/comm", "common", "security", "proto", "checkpoint", "kernels", "text/grammar"},
    "worker/comm": {"worker/comm", "common"},
    "coordinator": {"coordinator", "common", "security", "proto", "checkpoint"},
    "router": {"router", "common", "security", "proto", "text", "checkpoint"},
    "cli": {"cli", "common", "security", "proto", "text", "checkpoint"},
}
# File -> headers that it may include besides, each with its reason.
EXCEPTIONS = {
    "cli": {"coordinator/placement.h"},  # the coordinator's pure planner: `pagoda plan` says what will happen
    "worker/comm": {"kernels/reduction_tree.h"},  # which sums a rank holds: the tree that all backends share
}
INCLUDED_MORE_THAN_ONCE = {"kernels/cpu/row_kernels.h", "kernels/cpu/attention_kernels.h", "kernels/cpu/amx_kernels.h", "kernels/cpu/avx512_vectors.h"}  # the same text for each instruction set
# Pure cores know no clock, thread, socket, RPC, message or device (DESIGN, section 4).
PURE = re.compile(
    r"^(coordinator/(scheduler[a-z_]*|block_pool|prefix_cache|cluster_[a-z]+|held_blocks|diagnosis|placement|sequence|request)"
    r"|router/policy/[a-z_/]*)\.(h|cc)$")
IMPURE_INCLUDE = re.compile(r"^(grpcpp|grpc|google|boost|thread|mutex|chrono|sys/socket\.h|sys/epoll\.h|pagoda/|ucp|cuda)")
IMPURE_CALL = re.compile(r"\b(NowNs\(|std::this_thread|absl::Now\(|system_clock::now|steady_clock::now)")

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')
CUDA = re.compile(r"cuda|nccl|__CUDACC__|__NV", re.IGNORECASE)
CUDA_DIRECTIVE = re.compile(r"^\s*#\s*(?:include|if|ifdef|ifndef|elif)\b.*(cuda|nccl|CUDACC|__NV)", re.IGNORECASE)
CUDA_FOLDERS = ("kernels/cuda/", "worker/comm/", "tests/kernels/cuda/", "tests/worker/comm/", "tests/worker/cuda/",
                "tests/fakes/cuda_emulation/", "bench/gpu/")
CUDA_CHOOSER = "kernels/factory.cc"  # names the backend that it may choose, and nothing else of CUDA
# Paths of one person's or one workplace's machine.
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:root|work|home/\w+|opt/wheels|tmp/model)\b")
TEXT_SUFFIXES = {".h", ".cc", ".cu", ".cuh", ".proto", ".py", ".sh", ".md", ".txt", ".cmake", ".json", ".yaml", ".yml", ".inc", ""}


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, check=True).stdout
    return sorted(name.decode() for name in listed.split(b"\0") if name)


def folder_of(path):
    parts = path.split("/")
    two = "/".join(parts[:2])
    if two in ALLOWED and len(parts) > 2:
        return two
    return parts[0] if parts[0] in ALLOWED and len(parts) > 1 else None


def folder_of_include(path):
    if path.startswith("pagoda/"):  # generated from proto/pagoda
        return "proto"
    return folder_of(path)


def check_include(path, line_number, text, problems):
    match = INCLUDE.match(text)
    if not match:
        return
    quoted, angled = match.groups()
    folder = folder_of(path)
    if quoted:
        target = folder_of_include(quoted)
        if target is None and not quoted.startswith("absl/") and "/" not in quoted:
            problems.append(f'{path}:{line_number}: "{quoted}" is not from the repository root')
        if folder and target and target not in ALLOWED[folder] and quoted not in EXCEPTIONS.get(folder, ()):
            top = folder.split("/")[0]
            # A part of a folder may use the folder's own rule where it has no stricter one.
            if not (folder not in ("text/grammar", "worker/comm") and target.split("/")[0] in ALLOWED[top]):
                problems.append(f"{path}:{line_number}: {folder} must not include {quoted}")
    if PURE.match(path):
        if IMPURE_INCLUDE.match(quoted or angled):
            problems.append(f"{path}:{line_number}: a pure core includes {quoted or angled}")


def check_file(path, problems):
    raw = (ROOT / path).read_bytes()
    if b"\0" in raw:
        return
    is_source = path.endswith((".h", ".cc", ".cu", ".cuh"))
    in_product = path.split("/")[0] in ALLOWED
    for line_number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        if is_source and in_product:
            check_include(path, line_number, line, problems)
            if PURE.match(path) and IMPURE_CALL.search(line.split("//")[0]):
                problems.append(f"{path}:{line_number}: a pure core reads a clock or a thread")
        if is_source and path != CUDA_CHOOSER and not path.startswith(CUDA_FOLDERS) and CUDA_DIRECTIVE.match(line):
            problems.append(f"{path}:{line_number}: only {', '.join(CUDA_FOLDERS[:2])} know CUDA")
        if path != "tests/architecture_test.py" and MACHINE_PATH.search(line):
            problems.append(f"{path}:{line_number}: names a path of one machine: {line.strip()[:80]}")
    if path.endswith(".h") and in_product and b"#pragma once" not in raw and path not in INCLUDED_MORE_THAN_ONCE:
        problems.append(f"{path}:1: a header without #pragma once")


def main():
    problems = []
    files = [f for f in tracked_files() if pathlib.PurePath(f).suffix in TEXT_SUFFIXES and (ROOT / f).is_file()]
    for path in files:
        check_file(path, problems)
    print("\n".join(problems) or f"architecture holds in {len(files)} files")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
