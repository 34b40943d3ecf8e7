"""The machine: what kind it is, what it can do."""

import json
import os
import pathlib
import re
import resource
import subprocess


def flags():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    return set()


def describe():
    text = open("/proc/cpuinfo").read()
    vendor = re.search(r"vendor_id\s*: (.*)", text).group(1)
    has = flags()
    level = "amx" if "amx_int8" in has else "avx512-vnni" if "avx512_vnni" in has else "avx2"
    cores = len(os.sched_getaffinity(0))
    maker = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(vendor, "other")
    memory = int(re.search(r"MemTotal:\s*(\d+)", open("/proc/meminfo").read()).group(1)) >> 20
    return {
        "kind": f"{maker}-{level}-{cores}-cores",
        "model": re.search(r"model name\s*: (.*)", text).group(1),
        "cores": cores,
        "memory_gib": memory,
        "kernel": os.uname().release,
        "transparent_huge_pages": open("/sys/kernel/mm/transparent_hugepage/enabled").read().strip(),
    }


def busy_seconds():
    """Processor time that the whole machine has spent so far, and what was stolen from it."""
    fields = [int(f) for f in open("/proc/stat").readline().split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _descendants():
    """The fields of /proc/PID/stat from the state on, of every process that this one has started and that runs."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                pass  # it ended meanwhile
    ours, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, fields in found.items() if int(fields[1]) in ours} - ours
        ours, grown = ours | more, bool(more)
    return [found[pid] for pid in ours if pid != os.getpid() and pid in found]


def own_seconds():
    """What this process, the children that it has waited for, and all below it that runs (servers and their workers) have spent."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    running = sum(int(ticks) for fields in _descendants() for ticks in fields[11:15])
    return sum(u.ru_utime + u.ru_stime for u in used) + running / os.sysconf("SC_CLK_TCK")


def roofs(build, model_bytes, threads):
    """Measured now: minutes before what is compared with it."""
    out = subprocess.run([f"{build}/bench/machine_roofs", "--threads", str(threads), "--bytes", str(model_bytes)],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)
