"""What the tests of the Helm chart share: it rendered by the real helm, with the default values and with every values set of ci/."""
import concurrent.futures
import os

import tools

yaml = tools.need("yaml", "pyyaml")
HELM = tools.helm()
SETS = sorted((tools.CHART / "ci").glob("*-values.yaml"))
ENVIRONMENT = {**os.environ, "HELM_CACHE_HOME": "/tmp", "HELM_CONFIG_HOME": "/tmp", "HELM_DATA_HOME": "/tmp"}
# Whose certificate a component shows.
ROLE_OF = {"router": "router", "coordinator": "coordinator", "worker": "worker", "models": "admin", "test": "admin"}


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
