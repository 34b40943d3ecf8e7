#!/usr/bin/env python3
"""Every command line that the Helm chart renders, parsed by the real binary."""
import re
import sys
import tempfile

import tools
from chart import ROLE_OF, containers


def test_real_binaries_parse_every_command_line():
    """Servers with --check-config. `pagoda` has none: deploy and bench are sent to a closed port and must fail for that alone (status 1,
    where a wrong flag is 2); pull gets a model that is there."""
    lines = {}
    # What the pods would find mounted: real certificates and a real key file.
    certificates = tempfile.TemporaryDirectory(prefix="pagoda-chart-")
    tools.run(tools.binary("pagoda"), "certs", certificates.name + "/tls")
    tools.run(tools.binary("pagoda"), "keys", "create", "--tenant=a", f"--file={certificates.name}/keys.yaml")
    for where, _, pod, container, _ in containers():
        values = {entry["name"]: {"metadata.name": "pod-0", "status.podIP": "10.0.0.7"}[entry["valueFrom"]["fieldRef"]["fieldPath"]]
                  for entry in container.get("env", []) if "fieldRef" in entry.get("valueFrom", {})}
        arguments = [re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], str(argument)) for argument in container["args"]]
        role = ROLE_OF[pod["metadata"]["labels"]["app.kubernetes.io/component"]]
        arguments = [argument.replace("/etc/pagoda/tls", f"{certificates.name}/tls/{role}").replace("/etc/pagoda/server", f"{certificates.name}/tls/server")
                     .replace("/etc/pagoda/keys", certificates.name).replace("/etc/pagoda/etcd", f"{certificates.name}/tls/coordinator")
                     for argument in arguments]
        # This machine need not have the instruction set, and must not resolve names.
        arguments = [re.sub(r"^--isa=avx512$", "--isa=auto", argument) for argument in arguments]
        lines[tuple(container["command"] + arguments)] = where
    assert len(lines) > 20, len(lines)
    servers = 0
    for line, where in lines.items():
        program, arguments = tools.binary(line[0]), list(line[1:])
        expected = 0
        if line[0] == "pagoda":
            with tempfile.TemporaryDirectory() as folder:
                if arguments[0] == "pull":
                    arguments = ["pull", str(tools.ROOT / "tests/golden/tiny_llama"), f"--cache-dir={folder}"]
                else:
                    expected = 1
                    arguments = [re.sub(r"^(--coordinators=).*|^(--url=https?://)[^:]+:\d+", lambda m: (m[1] or m[2]) + "127.0.0.1:1", a)
                                 for a in arguments]
                done = tools.run(program, *arguments, check=False, timeout=40)
        else:
            servers += 1
            done = tools.run(program, *arguments, "--check-config", check=False, timeout=20)
        assert done.returncode == expected, f"{where}: {' '.join(line)}: status {done.returncode}\n{done.stdout}{done.stderr}"
        if arguments[0] == "deploy":
            assert "127.0.0.1:1" in done.stderr, f"{where}: {done.stderr}"
    assert servers >= 8, servers  # different ones: most sets render the same line for the coordinator


def test_a_wrong_flag_would_be_seen():
    for program in ("pagoda-router", "pagoda-coordinator", "pagoda-worker"):
        done = tools.run(tools.binary(program), "--coordinators=a:1", "--no-such-flag=1", "--check-config", check=False)
        assert done.returncode != 0 and "no-such-flag" in done.stderr, f"{program}: {done.returncode} {done.stderr}"
    done = tools.run(tools.binary("pagoda"), "deploy", "apply", "a", "--model=/m", "--coordinators=127.0.0.1:1", "--no-such-flag=1", check=False)
    assert done.returncode == 2, done.stderr


if __name__ == "__main__":
    tools.main(sys.modules[__name__])
