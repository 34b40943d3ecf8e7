"""docs/openapi.yaml against the router: its routes and methods, the fields it reads, what it answers (schemas of answers are closed, so
a field that is not in the file fails), its errors."""
import json
import pathlib
import re
import sys

from processes import Cluster, check, events, skip

try:
    import jsonschema
    import yaml
except ImportError as error:
    skip(f"{error.name} is not installed (scripts/test installs it)")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPEC = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())


def schema(name):
    return {"$ref": f"#/components/schemas/{name}", "components": SPEC["components"]}


def fits(value, name):
    problems = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in jsonschema.Draft202012Validator(schema(name)).iter_errors(value)]
    check(not problems, f"{name}: {problems[:3]} in {json.dumps(value)[:500]}")


def properties(name):
    own = SPEC["components"]["schemas"][name]
    found = set(own.get("properties", {}))
    for part in own.get("allOf", []):
        found |= properties(part["$ref"].rsplit("/", 1)[1]) if "$ref" in part else set(part.get("properties", {}))
    return found


def test_the_file_is_sound(c):
    text = json.dumps(SPEC)
    for name in re.findall(r'"#/components/(\w+)/(\w+)"', text):
        check(name[1] in SPEC["components"][name[0]], f"a reference to nothing: {name}")
    for name, value in SPEC["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(value)
        check(f'"#/components/schemas/{name}"' in text, f"schema {name} is not used")


def test_every_route(c):
    source = (ROOT / "router/openai/service.cc").read_text()
    routes = {(m.lower(), p) for m, p in re.findall(r'\{"(GET|POST|PUT|DELETE|PATCH)", "([^"]+)"', source)}
    check(len(routes) >= 12, routes)
    routes |= {("get", "/v1/models/{model}"), ("get", "/ui"), ("get", "/ui/events")}  # by prefix, and the status page's
    described = {(method, path) for path, methods in SPEC["paths"].items() for method in methods}
    check(routes == described, f"only in the router: {routes - described}; only in the file: {described - routes}")
    for method, path in sorted(described - {("get", "/ui/events")}):
        real = path.replace("{model}", "fake-model")
        status, headers, body = c.request(method.upper(), real, body="{}" if method == "post" else None,
                                          headers={"Content-Type": "application/json"})
        answers = SPEC["paths"][path][method]["responses"]
        check(str(status) in answers or "default" in answers, (method, path, status))
        check(status not in (404, 405), (method, path, status))
        kind = headers.get("content-type", "").split(";")[0]
        expected = set(answers.get(str(status), {}).get("content", {})) or ({"application/json"} if status >= 400 else {""})
        check(kind in expected or (not kind and "" in expected), (method, path, status, kind, expected))
        if status >= 400:
            fits(json.loads(body), "Error")


def test_every_field_that_is_read(c):
    reads = re.compile(r'in\.(?:Find|Real|Integer|IntegerList|Bool|String|StringOrList)\("([a-z_]+)"')
    source = (ROOT / "router/openai/request.cc").read_text()
    read = set(reads.findall(source))
    read |= set(re.findall(r'"([a-z_]+)"', re.search(r'\{"structured_outputs".*?\}', source, re.S)[0]))
    known = properties("ChatRequest") | properties("CompletionRequest")
    check(len(read) > 45, read)
    check(read <= known, f"read by the router, not in the file: {sorted(read - known)}")
    check(known <= read, f"in the file, not read by the router: {sorted(known - read)}")
    source = (ROOT / "router/openai/prepare.cc").read_text()
    read = set(reads.findall(source))
    known = properties("TokenizeRequest") | properties("DetokenizeRequest")
    check(read <= known, f"read by the router, not in the file: {sorted(read - known)}")


REQUESTS = [
    {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2, "max_tokens": 6, "return_token_ids": True,
     "prompt_logprobs": 1, "n": 2, "seed": 1, "stop": ["zzz"]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_completion_tokens": 100, "stop": "fox jumps"},
    {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "stream_options": {"include_usage": True}, "logprobs": True,
     "top_logprobs": 1, "max_tokens": 4, "return_token_ids": True},
    {"prompt": ["Hi", "Ho"], "logprobs": 2, "max_tokens": 5, "echo": True, "return_token_ids": True, "prompt_logprobs": 2},
    {"prompt": [1, 2, 3], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_token_ids": [7], "logit_bias": {"3": 1}},
    {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "max_tokens": 5, "logprobs": 1},
]


def test_answers(c):
    for request in REQUESTS:
        chat = "messages" in request
        fits({"model": "fake-model", **request}, "ChatRequest" if chat else "CompletionRequest")
        status, _, body = c.post("/v1/chat/completions" if chat else "/v1/completions", {"model": "fake-model", **request})
        check(status == 200, (request, body))
        if not request.get("stream"):
            fits(json.loads(body), "ChatAnswer" if chat else "CompletionAnswer")
            continue
        found = events(body)
        check(found[-1] == "[DONE]" and len(found) > 3, found)
        for event in found[:-1]:
            fits(json.loads(event), "ChatChunk" if chat else "CompletionChunk")
    fits(json.loads(c.get("/v1/models")[1]), "ModelList")
    fits(json.loads(c.get("/v1/models/fake-model")[1]), "Model")
    for request in ({"prompt": "Hi"}, {"messages": [{"role": "user", "content": "Hi"}], "return_token_strs": True}):
        fits(request, "TokenizeRequest")
        fits(json.loads(c.post("/tokenize", request)[2]), "TokenizeAnswer")
    fits(json.loads(c.post("/detokenize", {"tokens": [5, 6]})[2]), "DetokenizeAnswer")


def test_errors(c):
    wrong = [("/v1/completions", {"prompt": "x", "max_tokens": -1}, 400), ("/v1/completions", {"prompt": "x", "model": "none"}, 404),
             ("/v1/chat/completions", {"messages": []}, 400), ("/v1/completions", {"prompt": "x", "guided_json": {}}, 400),
             ("/v1/completions", "not json", 400), ("/tokenize", {}, 400), ("/detokenize", {"tokens": [10**9]}, 400)]
    for path, body, expected in wrong:
        status, headers, answer = c.post(path, body)
        check(status == expected, (path, body, status, answer))
        fits(json.loads(answer), "Error")
        check("x-request-id" in headers, headers)
    status, _, answer = c.request("DELETE", "/v1/models")
    check(status == 405, status)
    fits(json.loads(answer), "Error")
    # What a schema says is out of range, the router refuses: the file's bounds are the router's.
    ranged = {**SPEC["components"]["schemas"]["Sampling"]["properties"]}
    for field, spec in sorted(ranged.items()):
        for bound, step in (("maximum", 1), ("minimum", -1)):
            if bound not in spec or field in ("max_tokens", "min_tokens", "truncate_prompt_tokens"):
                continue
            status, _, answer = c.post("/v1/completions", {"prompt": "Hi", field: spec[bound] + step})
            check(status == 400 and json.loads(answer)["error"]["param"] == field, (field, bound, status, answer))


if __name__ == "__main__":
    with Cluster() as cluster:
        for name, test in list(globals().items()):
            if name.startswith("test_"):
                test(cluster)
                print("ok", name)
    sys.exit(0)
