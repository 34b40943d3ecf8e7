#!/usr/bin/env python3
"""A cluster with mutual TLS and API keys: without the right certificate or key nothing answers but health.

Every HTTP route, every gRPC method of every service in proto/, every port; certificates that change under a running cluster;
a worker with another authority's certificate; and no secret in any log.
"""
import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import cluster
from cluster import Cluster

ROLES = ("router", "coordinator", "worker", "admin")
# Who may call what of a coordinator; a worker's Blob service is for workers alone.
ALLOWED = {
    "pagoda.internal.v1.Pipeline": {"router"},
    "pagoda.internal.v1.WorkerControl": {"worker"},
    "pagoda.internal.v1.Blob": {"worker"},
    "pagoda.v1.Admin": {"admin"},
    "pagoda.v1.Admin/GetCluster": {"admin", "router"},
    "pagoda.v1.Admin/ListDeployments": {"admin", "router"},
    "grpc.health.v1.Health": set(ROLES),
}
HEALTH = {"/health", "/livez", "/readyz", "/ping"}


def pagoda(*arguments, check=True):
    done = subprocess.run([str(cluster.binary_folder() / "pagoda"), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"pagoda {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


class Secured:
    """`pagoda serve` with certificates and keys; `secrets` are the keys by their name."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="pagoda-secure-")
        self.tls, self.keys = f"{self.folder}/tls", f"{self.folder}/keys.yaml"
        pagoda("certs", self.tls)
        self.secrets = {}
        for name, more in (("inference", ["--scopes", "inference"]), ("metrics", ["--scopes", "metrics"]), ("admin", ["--scopes", "admin"]),
                           ("other-model", ["--models", "another"]), ("second-tenant", []), ("to-revoke", []),
                           ("watching", ["--scopes", "admin"])):
            self.secrets[name] = pagoda("keys", "create", "--file", self.keys, "--tenant", name, *more).stdout.strip()
        self.cluster = Cluster("--tls", self.tls, "--api-key-file", self.keys, "--pipeline-parallel-size", "2",
                               "--kv-cache-memory-bytes", "64M", "--max-model-len", "512", *self.arguments)
        self.cluster.__enter__()
        return self

    def __exit__(self, kind, value, trace):
        try:
            self.cluster.__exit__(kind, value, trace)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def context(self):
        return ssl.create_default_context(cafile=f"{self.tls}/server/ca.crt")

    def request(self, method, target, body=None, key=None, headers=None, context=None):
        connection = http.client.HTTPSConnection("127.0.0.1", self.cluster.http_port, timeout=60, context=context or self.context())
        sent = {"Content-Type": "application/json", **(headers or {})}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        try:
            connection.request(method, target, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            return answer.status, dict((k.lower(), v) for k, v in answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def complete(self, key, prompt="The harbour at Whitby", **fields):
        body = {"model": self.cluster.name, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
        return self.request("POST", "/v1/completions", body, key)

    def metrics_ports(self):
        """Of the coordinator and the workers, from their command lines and ready files."""
        ports = {}
        for name, pid in self.cluster.pids().items():
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "--metrics-listen" in words:
                ports[name] = int(words[words.index("--metrics-listen") + 1].rsplit(":", 1)[1])
                if ports[name] == 0:  # a worker's own choice at its first start
                    told = pathlib.Path(words[words.index("--ready-file") + 1]).read_text()
                    ports[name] = int(told.split("metrics ", 1)[1].split()[0])
        return ports


def address_of(text):
    """As /proc/net/tcp and tcp6 write it, as one that can be dialled from here."""
    raw = b"".join(bytes.fromhex(text[i:i + 8])[::-1] for i in range(0, len(text), 8))
    if len(raw) == 16:
        raw = raw[12:] if raw[:12] == b"\0" * 10 + b"\xff\xff" else (bytes(4) if raw in (bytes(16), bytes(15) + b"\1") else raw)
    address = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
    return "127.0.0.1" if address == "0.0.0.0" else address


def listening_ports(pid):
    """TCP ports on which a process listens, with where to dial them."""
    inodes = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                inodes.add(match[1])
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, port = fields[1].rsplit(":", 1)
                ports[int(port, 16)] = address_of(host)
    return ports


def services():
    """service -> methods, of all protos but the health protocol, which every server answers."""
    from google.protobuf import descriptor_pool
    cluster.protos()
    for path in (cluster.ROOT / "proto").rglob("*.proto"):
        __import__("importlib").import_module(str(path.relative_to(cluster.ROOT / "proto")).replace("/", ".").removesuffix(".proto") + "_pb2")
    found = {}
    for path in (cluster.ROOT / "proto").rglob("*.proto"):
        file = descriptor_pool.Default().FindFileByName(str(path.relative_to(cluster.ROOT / "proto")))
        if file.package == "grpc.health.v1":
            continue
        for service in file.services_by_name.values():
            found[service.full_name] = list(service.methods)
    return found


def grpc_code(address, method, credentials=None, metadata=(), streaming=(False, False), name="pagoda-coordinator", timeout=3):
    """The status code of one call with an empty message; None when it was answered well."""
    import grpc
    options = [("grpc.ssl_target_name_override", name)]
    channel = grpc.secure_channel(address, credentials, options) if credentials else grpc.insecure_channel(address)
    with channel:
        kind = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary", (True, True): "stream_stream"}[streaming]
        call = getattr(channel, kind)(method, request_serializer=lambda m: m, response_deserializer=lambda m: m)
        sent = iter([b""]) if streaming[0] else b""
        try:
            answer = call(sent, timeout=timeout, metadata=metadata)
            if streaming[1]:
                for _ in answer:
                    break
                answer.cancel()
            return None
        except grpc.RpcError as error:
            return error.code().name


def credentials_of(folder, role=None):
    import grpc
    read = lambda path: pathlib.Path(path).read_bytes()
    if role is None:
        return grpc.ssl_channel_credentials(read(f"{folder}/server/ca.crt"))
    return grpc.ssl_channel_credentials(read(f"{folder}/{role}/ca.crt"), read(f"{folder}/{role}/tls.key"), read(f"{folder}/{role}/tls.crt"))


def only_health_answers_over_http_without_a_key(secured):
    source = (cluster.ROOT / "router/openai/service.cc").read_text()
    routes = re.findall(r'\{"(GET|POST)", "([^"]+)", "[^"]+", &', source)
    assert len(routes) >= 13, routes
    body = {"model": secured.cluster.name, "prompt": "x", "max_tokens": 1, "tokens": [1], "messages": [{"role": "user", "content": "x"}]}
    tried = 0
    for method, path in routes + [("GET", "/v1/models/" + secured.cluster.name), ("GET", "/nothing"), ("GET", "/docs"), ("GET", "/"),
                                  ("DELETE", "/v1/models"), ("GET", "/v1/completions"), ("GET", "/health/../metrics"), ("GET", "//metrics"),
                                  ("GET", "/metrics/"), ("OPTIONS", "/metrics"), ("HEAD", "/metrics"), ("GET", "/%6detrics"), ("GET", "/ui/events"),
                                  ("HEAD", "/ui/events"), ("GET", "/ui/nothing"), ("POST", "/ui"), ("DELETE", "/ui/events")]:
        for key in (None, "sk-pagoda-00000000-" + "0" * 64, "", secured.secrets["inference"][:-1], secured.secrets["inference"] + "0"):
            status, headers, text = secured.request(method, path, body if method == "POST" else None, key)
            tried += 1
            if path in HEALTH:
                assert status == 200, (method, path, key, status)
                continue
            assert status == 401, f"{method} {path} with key {key!r}: {status} {text}"
            assert headers["www-authenticate"].startswith("Bearer"), headers
            if method != "HEAD":
                error = json.loads(text)["error"]
                assert set(error) == {"message", "type", "param", "code"} and error["code"] in ("missing_api_key", "invalid_api_key"), error
    print(f"  {tried} requests refused or health")
    # The status page's own files are a form that asks for a key: the same bytes for everybody, with nothing of the cluster in them.
    for path in ("/ui", "/ui/"):
        status, headers, text = secured.request("GET", path)
        assert status == 200 and "default-src 'none'" in headers["content-security-policy"], headers
        assert text == (cluster.ROOT / "router/ui/page/index.html").read_text() and secured.cluster.name not in text and "worker-0" not in text
    assert secured.request("HEAD", "/ui/events", key=secured.secrets["inference"])[0] == 403
    assert secured.request("HEAD", "/ui/events", key=secured.secrets["admin"])[0] == 200
    assert secured.request("GET", "/metrics", key=secured.secrets["inference"])[0] == 403
    assert secured.request("GET", "/load", key=secured.secrets["inference"])[0] == 403
    assert secured.request("GET", "/v1/models", key=secured.secrets["metrics"])[0] == 403
    assert secured.request("GET", "/metrics", key=secured.secrets["metrics"])[0] == 200
    basic = base64.b64encode(b"prometheus:" + secured.secrets["metrics"].encode()).decode()
    assert secured.request("GET", "/metrics", headers={"Authorization": "Basic " + basic})[0] == 200
    status, _, text = secured.complete(secured.secrets["inference"])
    assert status == 200, text


def a_key_sees_its_models_only(secured):
    key = secured.secrets["other-model"]
    assert json.loads(secured.request("GET", "/v1/models", key=key)[2])["data"] == []
    for name in (secured.cluster.name, "no-such-model"):
        status, _, text = secured.request("POST", "/v1/completions", {"model": name, "prompt": "x", "max_tokens": 1}, key)
        assert status == 403 and json.loads(text)["error"]["code"] == "model_not_allowed", (name, status, text)
        assert secured.request("GET", "/v1/models/" + name, key=key)[0] == 403
        assert secured.request("POST", "/tokenize", {"model": name, "prompt": "x"}, key)[0] == 403


def only_health_answers_over_grpc_without_a_key(secured):
    _, inference = cluster.protos()
    tls = credentials_of(secured.tls)
    address = secured.cluster.grpc_address
    key = [("authorization", f"Bearer {secured.secrets['inference']}")]
    everything = services()
    tried = 0
    for service, methods in everything.items():
        for method in methods:
            path, streaming = f"/{service}/{method.name}", (method.client_streaming, method.server_streaming)
            for metadata in ((), [("authorization", "Bearer wrong")], [("authorization", f"Bearer {secured.secrets['metrics']}")]):
                code = grpc_code(address, path, tls, metadata, streaming, name="localhost")
                if service == "pagoda.v1.Inference":
                    wanted = "PERMISSION_DENIED" if metadata and "wrong" not in metadata[0][1] else "UNAUTHENTICATED"
                else:
                    wanted = "UNIMPLEMENTED"  # of the coordinator, not of a router
                assert code == wanted, f"{path} {metadata}: {code}, not {wanted}"
                tried += 1
    assert grpc_code(address, "/grpc.health.v1.Health/Check", tls, name="localhost") is None
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        assert grpc_code(address, path, tls, (), (True, True), name="localhost") == "UNIMPLEMENTED"
    assert grpc_code(address, "/pagoda.v1.Inference/ListModels", tls, key, name="localhost") is None
    assert grpc_code(address, "/pagoda.v1.Inference/ListModels", None, key) == "UNAVAILABLE", "plain text on the TLS port"
    print(f"  {tried} calls refused")


def only_the_right_role_is_answered_by_the_coordinator(secured):
    stranger = tempfile.mkdtemp(dir=secured.folder)
    pagoda("certs", stranger + "/tls")
    address = secured.cluster.coordinator
    tried = 0
    for service, methods in [*services().items(), ("grpc.health.v1.Health", None)]:
        for name, streaming in ([("Check", (False, False))] if methods is None else
                                [(m.name, (m.client_streaming, m.server_streaming)) for m in methods]):
            path = f"/{service}/{name}"
            allowed = ALLOWED.get(f"{service}/{name}", ALLOWED.get(service, set()))
            for role in ROLES:
                if (service, name) == ("pagoda.v1.Admin", "DrainDeployment") and role in allowed:
                    continue  # waits
                code = grpc_code(address, path, credentials_of(secured.tls, role), (), streaming)
                assert (code != "PERMISSION_DENIED") == (role in allowed), f"{role} calls {path}: {code}"
                assert code != "UNAVAILABLE", f"{role} calls {path}: {code}"
                tried += 1
    path = "/pagoda.v1.Admin/GetCluster"
    assert grpc_code(address, path, credentials_of(secured.tls)) == "UNAVAILABLE", "no certificate"
    assert grpc_code(address, path, None) == "UNAVAILABLE", "plain text"
    assert grpc_code(address, "/grpc.health.v1.Health/Check", None) == "UNAVAILABLE", "plain text"
    import grpc
    mixed = grpc.ssl_channel_credentials(pathlib.Path(f"{secured.tls}/admin/ca.crt").read_bytes(),
                                         pathlib.Path(f"{stranger}/tls/admin/tls.key").read_bytes(),
                                         pathlib.Path(f"{stranger}/tls/admin/tls.crt").read_bytes())
    assert grpc_code(address, path, mixed) == "UNAVAILABLE", "an admin of another authority"
    assert "certificate" in pagoda("deploy", "list", "--coordinators", address, "--tls", f"{secured.tls}/worker", check=False).stderr
    assert pagoda("deploy", "list", "--coordinators", address, check=False).returncode == 1
    assert "ready" in pagoda("deploy", "list", "--coordinators", address, "--tls", f"{secured.tls}/admin").stdout
    print(f"  {tried} calls by role")


def no_port_speaks_to_strangers(secured):
    """Whatever listens: nothing readable comes back without TLS, and nothing but health without a key or certificate."""
    known = {secured.cluster.http_port, int(secured.cluster.grpc_address.rsplit(":", 1)[1]), int(secured.cluster.coordinator.rsplit(":", 1)[1]),
             *secured.metrics_ports().values()}
    ports = {name: listening_ports(pid) for name, pid in secured.cluster.pids().items()}
    print(f"  listening: {({name: len(found) for name, found in ports.items()})}")
    assert known <= set().union(*ports.values()), (known, ports)
    for name, found in ports.items():
        for port, host in found.items():
            for said in (b"GET /metrics HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", os.urandom(4096)):
                with socket.create_connection((host, port), timeout=5) as connection:
                    connection.settimeout(1)
                    heard = b""
                    with contextlib.suppress(OSError):
                        connection.sendall(said)
                        while piece := connection.recv(4096):
                            heard += piece
                assert b"pagoda" not in heard and b"HTTP/1" not in heard, f"{name} answers on {port}: {heard[:200]}"
    for name, port in secured.metrics_ports().items():
        context = secured.context()
        context.check_hostname = False
        for path, key, wanted in (("/metrics", None, 401), ("/metrics", secured.secrets["inference"], 403), ("/livez", None, 200),
                                  ("/readyz", None, 200), ("/other", None, 401), ("/metrics", secured.secrets["metrics"], 200)):
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
            assert connection.getresponse().status == wanted, (name, path, key)
            connection.close()
    # The service of a worker that gives model bytes away: found by trying, since its port is any free one.
    blobs = 0
    for name, found in ports.items():
        for port in set(found) - known if name.startswith("worker") else ():
            host = found[port]
            path = "/pagoda.internal.v1.Blob/ListFiles"
            codes = {role: grpc_code(f"{host}:{port}", path, credentials_of(secured.tls, role), name="pagoda-worker", timeout=1) for role in ROLES}
            if codes["worker"] == "NOT_FOUND":
                blobs += 1
                assert {codes[role] for role in ROLES if role != "worker"} == {"PERMISSION_DENIED"}, codes
                assert grpc_code(f"{host}:{port}", path, credentials_of(secured.tls), name="pagoda-worker") == "UNAVAILABLE"
            else:
                assert set(codes.values()) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, codes  # the data plane
    assert blobs == 2, blobs
    assert secured.complete(secured.secrets["inference"])[0] == 200, "it still works after all that"


def wrong_authority_and_wrong_name_are_noticed_by_clients(secured):
    for context in (ssl.create_default_context(),):
        try:
            secured.request("GET", "/health", context=context)
            raise AssertionError("a client that does not know the authority must not connect")
        except ssl.SSLCertVerificationError:
            pass
    old = secured.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_1 if hasattr(ssl.TLSVersion, "TLSv1_1") else ssl.TLSVersion.MINIMUM_SUPPORTED
    try:
        secured.request("GET", "/health", context=old)
        raise AssertionError("TLS 1.1 is not spoken")
    except (ssl.SSLError, OSError):
        pass


class Relay:
    """A TCP port that passes everything on to another one and counts who came."""

    def __init__(self, host, port):
        self.target, self.connections = (host, port), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                server = socket.create_connection(self.target)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    @staticmethod
    def copy(one, other):
        with contextlib.suppress(OSError):
            while piece := one.recv(65536):
                other.sendall(piece)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()


def a_worker_of_another_authority_does_not_join(secured):
    """It tries again and again, over many heartbeats, and at no moment does the coordinator know it, nor it think that it is in."""
    stranger = tempfile.mkdtemp(dir=secured.folder)
    pagoda("certs", stranger + "/tls")
    host, port = secured.cluster.coordinator.rsplit(":", 1)
    admin, looks = credentials_of(secured.tls, "admin"), 0
    for folder, why in ((f"{stranger}/tls/worker", "another authority"), (None, "no certificate"), (f"{secured.tls}/router", "another role")):
        log, ready = pathlib.Path(stranger, "log"), pathlib.Path(stranger, "ready")
        relay = Relay(host, int(port))
        command = [str(cluster.binary_folder() / "pagoda-worker"), "--coordinators", relay.address, "--name", "stranger", "--threads", "1",
                   "--memory-bytes", "100000000", "--ready-file", str(ready)] + (["--tls", folder] if folder else [])
        with open(log, "w") as out:
            child = subprocess.Popen(command, stdout=out, stderr=out)
            began = time.monotonic()
            # Six heartbeats of a worker that is in.
            while (relay.connections < 6 or time.monotonic() < began + 3) and child.poll() is None and time.monotonic() < began + 30:
                known = cluster.admin_call(secured.cluster.coordinator, "GetCluster", credentials=admin).workers
                assert {worker.name for worker in known} == {"worker-0", "worker-1"}, (why, known)
                assert not ready.exists(), why
                looks += 1
                time.sleep(0.1)
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
            child.wait(30)
        relay.close()
        told = log.read_text()
        if why == "another role":  # it does not even start with such a certificate
            assert child.returncode != 0 and "router" in told and relay.connections == 0, (child.returncode, told[-2000:])
        else:
            assert relay.connections >= 6 and "coordinator_lost" in told, (why, relay.connections, told[-2000:])
        assert '"registered":true' not in told, why
    assert looks >= 40, looks
    print(f"  the coordinator's workers looked at {looks} times")


def a_renewed_certificate_is_for_the_same_hosts():
    with tempfile.TemporaryDirectory() as folder:
        pagoda("certs", folder, "--hosts", "10.79.0.1,fd00::1,llm.example.com")
        names = lambda: subprocess.run(["openssl", "x509", "-in", f"{folder}/server/tls.crt", "-noout", "-ext", "subjectAltName"],  # noqa: E731
                                       check=True, capture_output=True, text=True).stdout
        before = names()
        assert "10.79.0.1" in before and "FD00:0:0:0:0:0:0:1" in before and "llm.example.com" in before, before
        pagoda("certs", folder, "--renew", "--hosts", "more.example.com")
        assert names().replace(", DNS:more.example.com", "") == before, names()


def certificates_change_under_a_running_cluster(secured):
    def shown():
        with socket.create_connection(("127.0.0.1", secured.cluster.http_port)) as raw, secured.context().wrap_socket(raw, server_hostname="localhost") as tls:
            return tls.getpeercert()["serialNumber"]
    before = shown()
    pagoda("certs", secured.tls, "--renew")
    deadline = time.monotonic() + 20
    while shown() == before:
        assert time.monotonic() < deadline, "the router goes on showing its old certificate"
        time.sleep(0.1)
    # A killed worker comes back with the new one, and the cluster serves: both sides took it up.
    os.kill(secured.cluster.pids()["worker-1"], signal.SIGKILL)
    status, _, text = secured.complete(secured.secrets["inference"], max_tokens=4)
    assert status in (200, 503), text
    deadline = time.monotonic() + 60
    while secured.complete(secured.secrets["inference"])[0] != 200:
        assert time.monotonic() < deadline, "it does not serve with new certificates"
        time.sleep(0.2)
    assert "ready" in pagoda("deploy", "list", "--coordinators", secured.cluster.coordinator, "--tls", f"{secured.tls}/admin").stdout


def a_revoked_key_ends_within_seconds_and_at_once_on_a_signal(secured):
    key = secured.secrets["to-revoke"]
    assert secured.complete(key)[0] == 200
    pagoda("keys", "revoke", "--file", secured.keys, key.split("-")[2])
    os.kill(secured.cluster.pids()["router-0"], signal.SIGHUP)
    deadline = time.monotonic() + 1
    while secured.complete(key)[0] != 401:
        assert time.monotonic() < deadline, "SIGHUP does not revoke"
    # A stream that the key opened ends with it.
    watching = http.client.HTTPSConnection("127.0.0.1", secured.cluster.http_port, timeout=10, context=secured.context())
    watching.request("GET", "/ui/events", headers={"Authorization": f"Bearer {secured.secrets['watching']}"})
    events = watching.getresponse()
    assert events.status == 200 and events.readline().startswith(b"event: hello")
    pagoda("keys", "revoke", "--file", secured.keys, secured.secrets["watching"].split("-")[2])
    deadline = time.monotonic() + 10
    while events.readline():  # until the end
        assert time.monotonic() < deadline, "the status page goes on after its key was revoked"
    fresh = pagoda("keys", "create", "--file", secured.keys, "--tenant", "fresh").stdout.strip()
    secured.secrets["fresh"] = fresh
    deadline = time.monotonic() + 10
    while secured.complete(fresh)[0] != 200:
        assert time.monotonic() < deadline, "a new key is not noticed without a signal"
        time.sleep(0.1)
    pathlib.Path(secured.keys).write_text("keys: [broken")
    time.sleep(2.5)
    assert secured.complete(fresh)[0] == 200, "a broken file leaves the keys as they were"


def tenants_do_not_share_the_prefix_cache(secured):
    prompt = "Once upon a time there was a keeper of a very tall and very old pagoda who knew all of its storeys by name. " * 3
    def cached(key):
        answer = json.loads(secured.complete(secured.secrets[key], prompt)[2])
        return (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    assert cached("inference") == 0
    assert cached("inference") > 0, "its own"
    assert cached("second-tenant") == 0, "another tenant's prompt must not be seen in the cache"
    assert cached("second-tenant") > 0


def no_secret_is_in_a_log(secured):
    logs = "".join(path.read_text(errors="replace") for path in pathlib.Path(secured.cluster.folder, "logs").glob("*.log")) + "".join(secured.cluster.output)
    assert len(logs) > 1000
    private = [line for path in pathlib.Path(secured.tls).rglob("*.key") for line in path.read_text().splitlines() if "KEY" not in line]
    for name, secret in secured.secrets.items():
        assert secret not in logs and secret.rsplit("-", 1)[1] not in logs, f"key {name} is in a log"
    for line in private:
        assert line not in logs, "a private key is in a log"
    assert "PRIVATE" not in logs and "Whitby" not in logs and "storeys by name" not in logs, "a prompt or key is in a log"
    assert f'"key":"{secured.secrets["inference"].split("-")[2]}"' in logs, "the key's public name is logged"
    commands = [pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in secured.cluster.pids().values()]
    assert not any(secret in command for secret in secured.secrets.values() for command in commands)


def all_of_it():
    with Secured() as secured:
        for test in (only_health_answers_over_http_without_a_key, a_key_sees_its_models_only, only_health_answers_over_grpc_without_a_key,
                     only_the_right_role_is_answered_by_the_coordinator, no_port_speaks_to_strangers,
                     wrong_authority_and_wrong_name_are_noticed_by_clients, tenants_do_not_share_the_prefix_cache,
                     a_worker_of_another_authority_does_not_join, certificates_change_under_a_running_cluster,
                     a_revoked_key_ends_within_seconds_and_at_once_on_a_signal, no_secret_is_in_a_log):
            started = time.monotonic()
            test(secured)
            print(f"ok      {test.__name__}  {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        import grpc  # noqa: F401
    except ImportError:
        print("skipped: the Python package grpcio is not there (tests/requirements.txt)")
        sys.exit(cluster.SKIPPED)
    cluster.run(a_renewed_certificate_is_for_the_same_hosts, all_of_it)
