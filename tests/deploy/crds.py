"""What the API servers of others' custom resources would say of ours. cert-manager, KEDA and the Prometheus operator: typed models that
are generated from their CRDs (packages cloudcoil-models-*). LeaderWorkerSet, HTTPRoute and InferencePool, which no package has: the part of
their APIs that the chart uses, written down here; a field that is not here is refused."""
import importlib

import tools

jsonschema = tools.need("jsonschema", "jsonschema")

MODELS = {"PodMonitor": "prometheus_operator.v1", "PrometheusRule": "prometheus_operator.v1", "ScaledObject": "keda.v1alpha1",
          "Issuer": "cert_manager.v1", "Certificate": "cert_manager.v1"}


def fields(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def listed(item, least=1, most=16):
    return {"type": "array", "items": item, "minItems": least, "maxItems": most}


TEXT, COUNT, PORT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
HOST = {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"}
ANYTHING = {"type": "object"}  # a pod or claim: checked elsewhere, as one
SPECS = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): fields(
        ["leaderWorkerTemplate"], replicas=COUNT, startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        rolloutStrategy=fields(["type"], type={"const": "RollingUpdate"},
                               rollingUpdateConfiguration=fields(partition=COUNT, maxUnavailable=COUNT, maxSurge=COUNT)),
        leaderWorkerTemplate=fields(["workerTemplate"], size={"type": "integer", "minimum": 1}, workerTemplate=ANYTHING, volumeClaimTemplates=listed(ANYTHING),
                                    restartPolicy={"enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]})),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): fields(
        parentRefs=listed(fields(["name"], name=TEXT, namespace=TEXT, sectionName=TEXT, port=PORT, group=TEXT, kind=TEXT)), hostnames=listed(HOST, 0),
        rules=listed(fields(matches=listed(fields(path=fields(type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value={"pattern": "^/"}))),
                            backendRefs=listed(fields(["name"], group={"type": "string"}, kind=TEXT, name=TEXT, port=PORT)),
                            timeouts=fields(request=DURATION, backendRequest=DURATION)))),
    ("inference.networking.k8s.io/v1", "InferencePool"): fields(
        ["selector", "targetPorts"], selector=fields(["matchLabels"], matchLabels={"type": "object", "minProperties": 1}),
        targetPorts=listed(fields(["number"], number=PORT), most=8),
        endpointPickerRef=fields(["name", "port"], name=TEXT, port=fields(["number"], number=PORT), failureMode={"enum": ["FailOpen", "FailClose"]}))}


def models():
    """kind -> model; None when the packages are not there."""
    try:
        return {kind: getattr(importlib.import_module(f"cloudcoil.models.{module}"), kind) for kind, module in MODELS.items()}
    except ImportError:
        return None


def lost(given, kept, where):
    """Paths of `given` that the model did not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{where}.{key}"
            else:
                yield from lost(value, kept[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept)):
            yield from lost(one, other, f"{where}[{index}]")


def faults(item, known):
    """What is wrong with a custom resource, and whether it was looked at."""
    kind = item["kind"]
    if (item["apiVersion"], kind) in SPECS:
        checked = jsonschema.Draft7Validator(SPECS[item["apiVersion"], kind])
        return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in checked.iter_errors(item["spec"])]
    if known is None:
        return []
    try:
        parsed = known[kind].model_validate(item)
    except ValueError as error:
        return [str(error)]
    return list(lost(item["spec"], parsed.model_dump(by_alias=True, exclude_unset=True, mode="json")["spec"], "spec"))
