#!/usr/bin/env python3
"""The Helm chart, rendered by the real helm for every values set of ci/: Kubernetes' schemas, its own promises, golden files.

--update writes the golden files anew.
"""
import copy
import re
import sys

import crds
import tools
from chart import ENVIRONMENT, EVERY, HELM, PODS, ROLE_OF, SETS, SETS_OF_OBJECTS, TEXTS, containers, is_subset, pod_of, template

yaml = tools.need("yaml", "pyyaml")
kubernetes_validate = tools.need("kubernetes_validate", "kubernetes-validate")
GOLDEN = tools.HERE / "golden"
KUBERNETES = ("1.29", "1.34")


def test_lint():
    for path in SETS:
        tools.run(HELM, "lint", "--strict", tools.CHART, "-f", path, env=ENVIRONMENT)


def test_notes_can_be_read():
    """Only an installation renders them (here one that is not carried out)."""
    for path in [*SETS, None]:
        shown = tools.run(HELM, "install", "pagoda", tools.CHART, "--namespace", "llm", "--dry-run=client", *(["-f", path] if path else []), env=ENVIRONMENT).stdout
        notes = shown[shown.index("\nNOTES:") + 7:]
        assert "To ask:" in notes and "not encrypted" not in notes and ("pagoda top --coordinators 127.0.0.1:7070 --tls admin" in notes) == ("mkdir" in notes) and "--coordinators" in notes and "<no value>" not in shown and "%!" not in notes, f"{path}: {notes}"
        name = path.name.removesuffix("-values.yaml") if path else "default"
        assert ("one coordinator and no standby" in notes) == (name != "ha-etcd"), f"{name}: {notes}"
        assert ("no API keys" in notes) == (name != "secured") and ("tls.enabled is false" in notes) == (name == "one-pod-cpu"), f"{name}: {notes}"


def test_kubectl_reads_every_object():
    """With --local, since there is no cluster: it decodes each object and names it."""
    for name, text in TEXTS.items():
        shown = tools.run(tools.kubectl(), "annotate", "--local", "-f", "-", "looked-at=yes", "-o", "name", input=text).stdout.split()
        wanted = {f"{item['kind'].lower()}{'.' + item['apiVersion'].split('/')[0] if '/' in item['apiVersion'] else ''}/{item['metadata']['name']}"
                  for item in SETS_OF_OBJECTS[name]}
        assert set(shown) == wanted and len(shown) == len(wanted), f"{name}: {set(shown) ^ wanted}"


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


def test_custom_resources_are_what_their_owners_take():
    known = crds.models()
    if known is None:
        print("      (those of cert-manager, KEDA and Prometheus not checked: the packages cloudcoil-models-* are not there)")
    custom = [(name, item) for name, item in EVERY if item["kind"] in crds.MODELS or (item["apiVersion"], item["kind"]) in crds.SPECS]
    assert {item["kind"] for _, item in custom} == set(crds.MODELS) | {kind for _, kind in crds.SPECS}
    for name, item in custom:
        wrong = crds.faults(item, known)
        assert not wrong, f"{name}: {item['kind']} {item['metadata']['name']}: {wrong}"
    for kind in {item["kind"] for _, item in custom} - (set(crds.MODELS) if known is None else set()):
        item = copy.deepcopy(next(item for _, item in custom if item["kind"] == kind))
        item["spec"]["noSuchField"] = 1
        assert crds.faults(item, known), f"a field that {kind} has not is accepted"


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
            if item["kind"] in ("Deployment", "StatefulSet"):
                assert matched == [item["metadata"]["name"]], f"{name}: {item['metadata']['name']} selects {matched}"
            elif name == "ha-etcd" and matched[0].startswith("pagoda-worker"):
                assert set(matched) == {"pagoda-worker", "pagoda-worker-spare"}, f"{name}: {item['kind']} {item['metadata']['name']} selects {matched}"
            else:
                assert len(matched) == 1, f"{name}: {item['kind']} {item['metadata']['name']} selects {matched}"


def test_peers_of_network_policies_exist():
    for name, objects in SETS_OF_OBJECTS.items():
        pods = [pod_of(item)["metadata"]["labels"] for item in objects if pod_of(item)]
        for policy in (item for item in objects if item["kind"] == "NetworkPolicy"):
            for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
                for peer in rule.get("from", []) + rule.get("to", []):
                    if "podSelector" in peer and "namespaceSelector" not in peer:
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
            if match := re.fullmatch(r"--(?:store|cache-dir)=(?!etcd)(.*)", str(argument)):
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
    assert count("ha-etcd") == (2, 2)
    spare = next(item for item in SETS_OF_OBJECTS["ha-etcd"] if item["metadata"]["name"] == "pagoda-worker-spare")
    assert spare["kind"] == "StatefulSet" and spare["spec"]["replicas"] == 2
    assert count("autoscaled-keda") == (None, 2)
    assert count("autoscaled-hpa") == (None, None)


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


def test_a_certificate_of_ones_own_for_clients_beside_those_of_cert_manager():
    text = template("--set", "tls.existingSecrets.server=mine,tls.serverName=api.example.com,monitoring.podMonitor.enabled=true").stdout
    objects = [item for item in yaml.safe_load_all(text) if item]
    assert {item["metadata"]["name"] for item in objects if item["kind"] == "Certificate"} == {
        "pagoda-authority", "pagoda-router", "pagoda-coordinator", "pagoda-worker", "pagoda-admin"}
    router = next(item for item in objects if item["kind"] == "Deployment")
    assert {"name": "server-tls", "secret": {"secretName": "mine", "defaultMode": 0o440}} in router["spec"]["template"]["spec"]["volumes"]
    test = next(item for item in objects if item["kind"] == "Pod")
    requests = next(container for container in test["spec"]["containers"] if container["name"] == "requests")
    assert {"--ssl-ca-certs=/etc/pagoda/server/ca.crt", "--ssl-server-name=api.example.com"} <= set(requests["args"])
    assert {"name": "clients-ca", "secret": {"secretName": "mine", "items": [{"key": "ca.crt", "path": "ca.crt"}]}} in test["spec"]["volumes"]
    monitor = next(item for item in objects if item["kind"] == "PodMonitor" and item["metadata"]["name"] == "pagoda-router")
    assert monitor["spec"]["podMetricsEndpoints"][0]["tlsConfig"] == {"ca": {"secret": {"name": "mine", "key": "ca.crt"}}, "serverName": "api.example.com"}
    # Without a name the Service's counts, for both.
    text = template("--set", "tls.existingSecrets.server=mine,monitoring.podMonitor.enabled=true").stdout
    assert "serverName: pagoda-router\n" in text and "--ssl-server-name=pagoda-router" in text


def test_workers_alone_get_their_environment_and_capabilities():
    text = template("--set-json", 'workers.extraEnv=[{"name":"UCX_IB_GID_INDEX","value":"3"}]',
                    "--set-json", 'workers.containerSecurityContext={"capabilities":{"add":["IPC_LOCK"]}}').stdout
    for item in yaml.safe_load_all(text):
        pod = pod_of(item) if item else None
        for container in pod["spec"]["containers"] if pod else []:
            mine = item["kind"] == "StatefulSet" and item["metadata"]["name"] == "pagoda-worker"
            assert ({"name": "UCX_IB_GID_INDEX", "value": "3"} in container.get("env", [])) == mine, item["metadata"]["name"]
            capabilities = container["securityContext"]["capabilities"]
            assert capabilities == ({"drop": ["ALL"], "add": ["IPC_LOCK"]} if mine else {"drop": ["ALL"]}), item["metadata"]["name"]


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


def test_secrets_and_claims_are_made_here_or_named_by_the_values():
    """A secret that a pod mounts or reads is one of the chart's certificates, with keys that cert-manager writes, or the user named it."""
    mounted = 0
    for name, item, pod in PODS:
        made = {other["spec"]["secretName"] for other in SETS_OF_OBJECTS[name] if other["kind"] == "Certificate"}
        given = (tools.CHART / f"ci/{name}-values.yaml").read_text() if name != "default" else ""
        wanted = [(volume["secret"]["secretName"], [entry["key"] for entry in volume["secret"].get("items", [])])
                  for volume in pod["spec"].get("volumes", []) if "secret" in volume]
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            wanted += [(entry["valueFrom"]["secretKeyRef"]["name"], [entry["valueFrom"]["secretKeyRef"]["key"]])
                       for entry in container.get("env", []) if "secretKeyRef" in entry.get("valueFrom", {})]
        for secret, keys in wanted:
            mounted += 1
            if secret in made:
                assert set(keys) <= {"tls.crt", "tls.key", "ca.crt"}, f"{name}: {secret}: {keys}"
            else:
                assert re.search(rf"\b{re.escape(secret)}\b", given), f"{name}: {item['metadata']['name']} wants a secret {secret} that nobody named"
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in given, f"{name}: {volume}"
        assert "$(API_KEY)" not in str(pod) and "sk-" not in str(pod), "a key belongs in the environment: command lines are for all to read"
        assert not any("configMap" in volume for volume in pod["spec"].get("volumes", [])), name
    assert mounted > 40, mounted


def arguments_of(name, component):
    pod = next(pod for other, item, pod in PODS if other == name and pod["metadata"]["labels"]["app.kubernetes.io/component"] == component)
    return [str(argument) for argument in pod["spec"]["containers"][0]["args"]]


def flag(name, component, wanted):
    return next(argument.split("=", 1)[1] for argument in arguments_of(name, component) if argument.startswith(wanted + "="))


def test_standbys_share_etcd_and_are_known_to_all():
    objects = {(item["kind"], item["metadata"]["name"]): item for item in SETS_OF_OBJECTS["ha-etcd"]}
    coordinator = objects["StatefulSet", "pagoda-coordinator"]
    names = [f"pagoda-coordinator-{index}" for index in range(coordinator["spec"]["replicas"])]
    assert len(names) == 3 and coordinator["spec"]["serviceName"] == "pagoda-coordinator"
    addresses = [f"{name}.pagoda-coordinator:7070" for name in names]
    for component in ("router", "worker", "models"):
        assert flag("ha-etcd", component, "--coordinators").split(",") == addresses, component
    # What each tells of itself is what the others are told to call.
    assert [flag("ha-etcd", "coordinator", "--advertise").replace("$(POD_NAME)", name) for name in names] == addresses
    assert flag("ha-etcd", "coordinator", "--store") == "etcds://etcd-0.etcd.data:2379,etcd-1.etcd.data:2379,etcd-2.etcd.data:2379/pagoda/production"
    assert flag("ha-etcd", "coordinator", "--leader-lease-ms") == "3000"
    pod = coordinator["spec"]["template"]["spec"]
    secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "etcd-tls")
    mount = next(mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "etcd-tls")
    there = {f"{mount['mountPath']}/{entry['path']}" for entry in secret["items"]}
    assert there == {flag("ha-etcd", "coordinator", f"--etcd-{file}-file") for file in ("ca", "certificate", "key")}
    assert len(pod["topologySpreadConstraints"]) == 2 and objects["PodDisruptionBudget", "pagoda-coordinator"]["spec"]["maxUnavailable"] == 1
    assert len(coordinator["spec"]["volumeClaimTemplates"]) == 1, "a claim for each one's models"
    egress = objects["NetworkPolicy", "pagoda-coordinator"]["spec"]["egress"]
    assert any(rule["ports"] == [{"protocol": "TCP", "port": 2379}] and "etcd" in str(rule["to"]) for rule in egress), egress
    # Alone it has a file, no budget and one name.
    assert ("PodDisruptionBudget", "pagoda-coordinator") not in {(item["kind"], item["metadata"]["name"]) for item in SETS_OF_OBJECTS["default"]}
    assert flag("default", "coordinator", "--store") == "/var/lib/pagoda/coordinator.db" and flag("default", "worker", "--coordinators") == "pagoda-coordinator:7070"


def test_traces_go_to_the_collector_and_nowhere_without_one():
    for component in ("router", "coordinator", "worker"):
        assert flag("ha-etcd", component, "--otlp-endpoint") == "http://collector.observability:4318", component
        assert not any("otlp" in argument or "trace" in argument for argument in arguments_of("default", component)), component
        policy = next(item for item in SETS_OF_OBJECTS["ha-etcd"] if item["kind"] == "NetworkPolicy" and item["metadata"]["name"].endswith(component))
        assert any(rule["ports"] == [{"protocol": "TCP", "port": 4318}] for rule in policy["spec"]["egress"]), component
    assert flag("ha-etcd", "router", "--trace-sampling-ratio") == "0.1"


def test_gpus_are_asked_for_as_limits():
    pod = next(pod for name, item, pod in PODS if name == "gpu-2x4-lws" and item["kind"] == "LeaderWorkerSet")
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1 and limits["rdma/hca"] == 1 and pod["spec"]["runtimeClassName"] == "nvidia"


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


if __name__ == "__main__":
    tools.main(sys.modules[__name__])
