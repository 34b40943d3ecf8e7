#!/usr/bin/env python3
"""Configuration files with the real binaries: docs/configuration.md names every option, what is wrong is named with file and line,
and a running process takes up a new log level on SIGHUP.

--update writes the tables of docs/configuration.md anew, out of --help.
"""
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import cluster

DOCUMENT = cluster.ROOT / "docs/configuration.md"
PROCESSES = {"router": ["pagoda-router"], "coordinator": ["pagoda-coordinator"], "worker": ["pagoda-worker"], "serve": ["pagoda", "serve"]}


def run(*command, check=None):
    done = subprocess.run([str(cluster.binary_folder() / command[0]), *map(str, command[1:])], capture_output=True, text=True, timeout=60)
    assert check is None or done.returncode == check, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def options_of(process):
    """(name, type and default, meaning) of each option, as --help shows them."""
    found = []
    for line in run(*PROCESSES[process], "--help", check=0).stdout.splitlines():
        # CLI11 puts what an option means at column 30, or on the next line when there is no room.
        if match := re.match(r"^  (?:-\w,)?(--[a-z0-9-]+)(.*)", line):
            # A range has blanks of its own, "INT:INT in [1 - 65535]", and may reach over column 30.
            inside = re.search(r":\w+ in \[", line) is not None and "]" not in line[:30]
            fits = len(line) > 30 and line[29] == " " and not inside
            found.append([match[1], (line[match.end(1):30] if fits else match[2]).strip(), line[30:].strip() if fits else ""])
        elif match := re.match(r"^ {20,}(\S.*)$", line):
            if not found[-1][2]:
                found[-1][2] = match[1].strip()
            else:
                found[-1][2] += " " + match[1].strip()
    return [option for option in found if option[0] not in ("--help", "--version", "--config", "--check-config")]


def table(process):
    rows = ["| name | value | meaning |", "|---|---|---|"]
    for name, kind, meaning in options_of(process):
        kind = re.sub(r"^=", "default ", re.sub(r"\s+", " ", kind).replace("REQUIRED", "(required)"))
        kind, meaning = (part.replace("|", "\\|") for part in (kind, meaning))
        rows.append(f"| `{name[2:]}` | {kind} | {meaning} |")
    return "\n".join(rows)


def the_document_names_every_option():
    text = DOCUMENT.read_text()
    for process in PROCESSES:
        begin, end = f"<!-- {process}: made by tests/integration/config_test.py --update -->\n", f"\n<!-- end of {process} -->"
        before, _, rest = text.partition(begin)
        old, found, after = rest.partition(end)
        assert found, f"docs/configuration.md has no part for {process}"
        new = table(process)
        assert len(new.splitlines()) > 10, new
        if "--update" in sys.argv:
            text = before + begin + new + end + after
        else:
            assert old == new, f"the table of {process} in docs/configuration.md is not what --help says; run config_test.py --update"
    if "--update" in sys.argv:
        DOCUMENT.write_text(text)


def the_example_of_the_document_is_good():
    example = re.search(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
    with tempfile.TemporaryDirectory() as folder:
        run("pagoda", "certs", f"{folder}/certificates", check=0)
        run("pagoda", "keys", "create", "--file", f"{folder}/keys.yaml", "--tenant", "t", check=0)
        path = pathlib.Path(folder, "pagoda.yaml")
        path.write_text(example.replace("/etc/pagoda", folder))
        done = run("pagoda", "config", "check", path, check=0)
        assert {line for line in done.stdout.splitlines()} >= {f"{name}: good" for name in ("router", "coordinator", "worker")}, done.stdout


def what_is_wrong_is_named_with_file_and_line():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "pagoda.yaml")
        cases = [
            ("router:\n  coordinators: a:1\n  lissten: 1.2.3.4:5\n", f"{path}:3: there is no option 'lissten' here; is 'listen' meant?"),
            ("router:\n  coordinators: a:1\n  max-connections: 0\n", f"{path}:3: --max-connections: Value 0 not in range"),
            ("worker:\n  threads: many\n", f"{path}:2: "),
            ("coordinator:\n  lease-ms: 50\n  heartbeat-ms: 500\n", "--lease-ms is below twice --heartbeat-ms"),
            ("log-level: loud\nrouter:\n  coordinators: a:1\n", "log level 'loud' is not one of debug, info, warning, error"),
            ("router:\n  coordinators: a:1\n  coordinators: b:1\n", f"{path}:3: 'coordinators' stands in line 2 already"),
            ("worker:\n  tls: /nonexistent\n", "--tls: cannot read /nonexistent/tls.crt"),
            ("router:\n  coordinators: a:1\n  api-key-file: /nonexistent\n", "--api-key-file: cannot read /nonexistent"),
            ("router:\n  coordinators: 'a b:1'\n", "'a b:1' is not host:port: a host has letters"),
            ("router:\n  coordinators: a:1\n---\nrouter:\n  listen: x\n", f"{path}:4: a second document begins here (---)"),
            ("serve:\n  layers-per-stage: [20, -4]\n", f"{path}:2: --layers-per-stage: Value -4 not in range"),
            ("router: [\n", f"{path}:2: "),
            ("serve:\n  tensor-parallel-sise: 2\n", f"{path}:2: there is no option 'tensor-parallel-sise' here; is 'tensor-parallel-size' meant?"),
            ("coordinator:\n  store: etcd:a:2379\n", "--store is 'etcd:a:2379': it must be a file, or begin with etcd:// or etcds://"),
            ("serve:\n  kv-cache-memory-bytes: lots\n", f"{path}:2: --kv-cache-memory-bytes: 'lots' is not a number of bytes such as 512M or 4G"),
        ]
        for text, message in cases:
            path.write_text(text)
            done = run("pagoda", "config", "check", path, check=1)
            assert message in done.stderr + done.stdout, f"{text}{message} is not in:\n{done.stdout}{done.stderr}"
        path.write_text("log-level: info\n")
        assert "none of the sections" in run("pagoda", "config", "check", path, check=1).stderr
        run("pagoda", "config", "check", path, "--for", "worker,coordinator", check=0)
        assert "cannot read" in run("pagoda", "config", "check", f"{folder}/nothing", check=1).stderr
        assert "is a folder, not a file" in run("pagoda", "config", "check", folder, check=1).stderr


def a_running_process_takes_up_a_new_log_level():
    with tempfile.TemporaryDirectory() as folder:
        config, log = pathlib.Path(folder, "pagoda.yaml"), pathlib.Path(folder, "log")
        for process, more in (("router", ["--coordinators", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"]),
                              ("coordinator", ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]),
                              ("worker", ["--coordinators", "127.0.0.1:1", "--threads", "1", "--memory-bytes", "1000000"])):
            config.write_text(f"log-level: warning\n{process}:\n  log-level: info\n")
            with open(log, "w") as out:
                child = subprocess.Popen([str(cluster.binary_folder() / f"pagoda-{process}"), "--config", str(config), *more], stdout=out, stderr=out)
            try:
                wait(lambda: '"level":"info"' in log.read_text(), log)
                time.sleep(0.3)  # its signals are taken by now
                config.write_text(f"{process}:\n  log-level: debug\n")
                child.send_signal(signal.SIGHUP)
                wait(lambda: '"event":"log_level_reloaded","level":"debug"' in log.read_text(), log)
                config.write_text(f"{process}:\n  log-level: loud\n")
                child.send_signal(signal.SIGHUP)
                wait(lambda: "log_level_not_reloaded" in log.read_text(), log)
                assert child.poll() is None, "a wrong level ended it"
            finally:
                child.send_signal(signal.SIGTERM)
                child.wait(30)


def wait(condition, log, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)


if __name__ == "__main__":
    cluster.run(the_document_names_every_option, the_example_of_the_document_is_good, what_is_wrong_is_named_with_file_and_line,
                a_running_process_takes_up_a_new_log_level)
