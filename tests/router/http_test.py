"""The HTTP front end as a client without a library sees it: routes, shapes, streams, errors, health, metrics, drain."""
import http.client
import json
import signal
import threading
import time

from processes import Cluster, check, events

ANSWER = "The quick brown fox jumps over the lazy dog. ¡Olé, 世界! 🦊 Then it sleeps."


def completion(cluster, **fields):
    status, headers, body = cluster.post("/v1/completions", {"model": "fake-model", "prompt": "Hello", **fields})
    check(status == 200, (status, body))
    return headers, json.loads(body)


def stream(cluster, path, **fields):
    status, headers, body = cluster.post(path, {"model": "fake-model", "stream": True, **fields})
    check(status == 200, (status, body))
    check(headers["content-type"].startswith("text/event-stream"), headers)
    found = events(body)
    check(found[-1] == "[DONE]", found[-1])
    return [json.loads(event) for event in found[:-1]]


def test_whole_answers(c):
    headers, answer = completion(c, max_tokens=100)
    check(answer["choices"][0]["text"] == ANSWER, answer)
    check(answer["choices"][0]["finish_reason"] == "stop", answer)
    check(answer["object"] == "text_completion" and answer["id"].startswith("cmpl-"), answer)
    usage = answer["usage"]
    check(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], usage)
    check(len(headers["x-request-id"]) == 32, headers)
    _, short = completion(c, max_tokens=3)
    check(short["choices"][0]["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 3, short)
    _, many = completion(c, prompt=[[4], [1, 2, 3]], n=2, max_tokens=4)
    check([x["index"] for x in many["choices"]] == [0, 1, 2, 3], many)
    check(many["choices"][0]["text"] == many["choices"][2]["text"] != many["choices"][1]["text"], many)
    check(many["usage"]["completion_tokens"] == 16, many)

    status, headers, body = c.post("/v1/chat/completions",
                                   {"model": "fake-model", "messages": [
                                       {"role": "system", "content": "Be brief."},
                                       {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
                                   {"X-Request-Id": "my-request/1"})
    check(status == 200, body)
    check(headers["x-request-id"] == "my-request/1", headers)
    chat = json.loads(body)
    check(chat["object"] == "chat.completion" and chat["id"].startswith("chatcmpl-"), chat)
    message = chat["choices"][0]["message"]
    check(message["role"] == "assistant" and message["content"] == ANSWER and message["refusal"] is None, chat)


def test_streams(c):
    chunks = stream(c, "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], n=2,
                    stream_options={"include_usage": True})
    check(len({(x["id"], x["created"], x["model"], x["object"]) for x in chunks}) == 1, chunks[0])
    for index in (0, 1):
        own = [x["choices"][0] for x in chunks if x["choices"] and x["choices"][0]["index"] == index]
        check(own[0]["delta"] == {"role": "assistant", "content": ""}, own[0])
        check(own[-1]["delta"] == {} and own[-1]["finish_reason"] == "stop", own[-1])
        check(all(x["finish_reason"] is None for x in own[:-1]), own)
        text = "".join(x["delta"].get("content", "") for x in own)
        check(index == 1 or text == ANSWER, text)
        lead = next(x for x in chunks if x["choices"] and x["choices"][0]["index"] == index)
        check("prompt_token_ids" not in lead, lead)
    ids = stream(c, "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], return_token_ids=True, prompt_logprobs=0)
    check(ids[0]["prompt_token_ids"] and ids[0]["choices"][0]["token_ids"] == [], ids[0])
    check(all("prompt_token_ids" not in x for x in ids[1:]) and "prompt_token_ids" not in ids[0]["choices"][0], ids)
    check(chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0, chunks[-1])
    check(all(x["usage"] is None for x in chunks[:-1]), chunks[0])

    chunks = stream(c, "/v1/completions", prompt="Hi", max_tokens=100,
                    stream_options={"include_usage": True, "continuous_usage_stats": True})
    check("".join(x["choices"][0]["text"] for x in chunks if x["choices"]) == ANSWER, chunks)
    counts = [x["usage"]["completion_tokens"] for x in chunks]
    check(counts == sorted(counts) and counts[0] >= 1, counts)
    usage = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(c, "/v1/completions", prompt="Hi", max_tokens=5, echo=True, return_token_ids=True,
                    stream_options=usage)
    check(chunks[0]["choices"][0]["text"] == "Hi" and chunks[0]["usage"]["completion_tokens"] == 0, chunks[0])
    emitted = 0
    for chunk in chunks[1:]:
        emitted += sum(len(x["token_ids"]) for x in chunk["choices"])
        check(chunk["usage"]["completion_tokens"] == emitted, (emitted, chunk))
    check(emitted == 5, emitted)
    chunks = stream(c, "/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}], stream_options=usage)
    check(chunks[0]["usage"]["completion_tokens"] == 0, chunks[0])


def test_stops(c):
    _, answer = completion(c, max_tokens=100, stop=["fox jumps", "zzz"])
    choice = answer["choices"][0]
    check(choice["text"] == "The quick brown " and choice["stop_reason"] == "fox jumps", choice)
    check(choice["finish_reason"] == "stop", choice)
    _, answer = completion(c, max_tokens=100, stop="fox jumps", include_stop_str_in_output=True)
    check(answer["choices"][0]["text"] == "The quick brown fox jumps", answer)
    chunks = stream(c, "/v1/completions", prompt="Hi", max_tokens=100, stop="lazy dog. ¡O")
    check("".join(x["choices"][0]["text"] for x in chunks) == "The quick brown fox jumps over the ", chunks)
    check(chunks[-1]["choices"][0]["stop_reason"] == "lazy dog. ¡O", chunks[-1])
    tokens = json.loads(c.post("/tokenize", {"prompt": ANSWER})[2])["tokens"]
    _, answer = completion(c, max_tokens=100, stop_token_ids=[tokens[2]])
    check(answer["choices"][0]["stop_reason"] == tokens[2], answer)
    _, answer = completion(c, max_tokens=40, ignore_eos=True)
    check(answer["choices"][0]["finish_reason"] == "length", answer)


def test_logprobs_and_ids(c):
    _, answer = completion(c, max_tokens=3, logprobs=2, return_token_ids=True)
    choice = answer["choices"][0]
    logprobs = choice["logprobs"]
    check(logprobs["tokens"] == ["The", " quick", " brown"], logprobs)
    check(logprobs["text_offset"] == [0, 3, 9], logprobs)
    check(len(logprobs["token_logprobs"]) == 3 and len(logprobs["top_logprobs"][0]) == 2, logprobs)
    check(len(choice["token_ids"]) == 3 and choice["prompt_token_ids"], choice)
    _, answer = completion(c, max_tokens=2, logprobs=1, return_tokens_as_token_ids=True)
    check(answer["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:"), answer)
    status, _, body = c.post("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2, "max_tokens": 40,
        "prompt_logprobs": 1, "return_token_ids": True})
    chat = json.loads(body)
    check(status == 200, chat)
    content = chat["choices"][0]["logprobs"]["content"]
    check(content[0]["token"] == "The" and content[0]["bytes"] == list(b"The"), content[0])
    check(len(content[0]["top_logprobs"]) == 2, content[0])
    joined = b"".join(bytes(x["bytes"]) for x in content[:-1])
    check(joined.decode().startswith("The quick brown fox"), joined)
    check(chat["prompt_logprobs"][0] is None and len(chat["prompt_logprobs"]) == len(chat["prompt_token_ids"]), chat)
    entry = next(iter(chat["prompt_logprobs"][1].values()))
    check(set(entry) == {"logprob", "rank", "decoded_token"}, entry)
    _, echo = completion(c, prompt="Once upon", echo=True, max_tokens=0, logprobs=1)
    choice = echo["choices"][0]
    check(choice["text"] == "Once upon" and echo["usage"]["completion_tokens"] == 0, echo)
    check(choice["logprobs"]["token_logprobs"][0] is None and choice["logprobs"]["tokens"] == ["Once", " upon"], echo)
    _, echo = completion(c, prompt="Once upon", echo=True, max_tokens=2)
    check(echo["choices"][0]["text"] == "Once uponThe quick", echo)


def test_other_routes(c):
    models = json.loads(c.get("/v1/models")[1])
    check(models["object"] == "list" and models["data"][0]["id"] == "fake-model", models)
    check(models["data"][0]["max_model_len"] == 2048, models)
    check(json.loads(c.get("/v1/models/fake-model")[1])["object"] == "model", "one model")
    check(c.get("/v1/models/none")[0] == 404, "unknown model")
    tokens = json.loads(c.post("/tokenize", {"prompt": "Hello 世界", "return_token_strs": True})[2])
    check(tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]), tokens)
    check(json.loads(c.post("/detokenize", {"tokens": tokens["tokens"]})[2])["prompt"] == "Hello 世界", tokens)
    chat = json.loads(c.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]})[2])
    check(chat["count"] > 5, chat)
    for path in ("/health", "/livez", "/readyz", "/ping"):
        check(c.get(path) == (200, b""), path)
    check("version" in json.loads(c.get("/version")[1]), "version")
    check(json.loads(c.get("/load")[1]) == {"server_load": 0}, "load")
    check(c.get("/nothing")[0] == 404, "404")
    check(c.get("/v1/completions")[0] == 405, "405")
    status, headers, body = c.request("HEAD", "/version")
    check(status == 200 and body == b"" and int(headers["content-length"]) > 0, headers)


def test_errors(c):
    cases = [("/v1/completions", {"prompt": "a", "temperature": 9}, 400, "temperature", None),
             ("/v1/completions", {"model": "no", "prompt": "a"}, 404, "model", "model_not_found"),
             ("/v1/completions", {"prompt": "a", "max_tokens": 5000}, 400, "max_tokens", "context_length_exceeded"),
             ("/v1/chat/completions", {"messages": []}, 400, "messages", None),
             ("/v1/chat/completions", b"{", 400, None, None),
             ("/tokenize", {}, 400, "prompt", None),
             ("/detokenize", {"tokens": [-1]}, 400, "tokens", None)]
    for path, body, code, param, name in cases:
        status, headers, data = c.post(path, body)
        error = json.loads(data)["error"]
        check(status == code, (path, status, data))
        check(set(error) == {"message", "type", "param", "code"}, error)
        check(error["param"] == param and error["code"] == name, error)
        check(error["type"] == "invalid_request_error" and "x-request-id" in headers, (error, headers))
    status, _, data = c.post("/v1/completions", {"prompt": "a"}, {"Content-Type": "text/plain"})
    check(status == 415 and "error" in json.loads(data), data)
    for encoding, code in (("gzip", 415), ("identity, br", 415), ("Identity", 200)):
        status, headers, data = c.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, {"Content-Encoding": encoding})
        check(status == code and "x-request-id" in headers, (encoding, status, data))
        check(status == 200 or json.loads(data)["error"]["code"] == "unsupported_content_encoding", data)


def test_keep_alive_and_pipelining(c):
    connection = http.client.HTTPConnection(c.host, c.port, timeout=20)
    for _ in range(3):
        body = json.dumps({"prompt": "a", "max_tokens": 2, "stream": True})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        check(events(connection.getresponse().read())[-1] == "[DONE]", "stream on a kept connection")
        sock = connection.sock
        check(sock is not None, "the connection was kept")
    sock.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
    data = b""
    while data.count(b"HTTP/1.1 200") < 5:
        part = sock.recv(65536)
        check(part, "closed early")
        data += part
    connection.close()


def test_disconnect_cancels(c):
    before = c.metric('pagoda_router_streams_cut_total{reason="client_gone"}')
    for streamed in (True, False):
        connection = http.client.HTTPConnection(c.host, c.port, timeout=20)
        body = json.dumps({"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "stream": streamed})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        if streamed:
            check(connection.getresponse().read(20), "it began")
        connection.sock.close()
        connection.close()
    deadline = time.monotonic() + 10
    while c.metric('pagoda_router_streams_cut_total{reason="client_gone"}') < before + 2:
        check(time.monotonic() < deadline, "the generations went on")
        time.sleep(0.05)
    check(c.metric("pagoda_router_requests_in_flight") == 0, "in flight")


def test_metrics(c):
    text = c.get("/metrics")[1].decode()
    for line in ('pagoda_router_requests_total{code="503",endpoint="/v1/completions"} 0',
                 'vllm:num_requests_waiting{engine="0",model_name="fake-model"} 0',
                 'pagoda_router_retries_total{reason="coordinator_lost"} 0',
                 'pagoda_router_time_to_first_token_seconds_bucket{model_name="fake-model",le="1.0"}'):
        check(line in text, line + " is not in\n" + text[:3000])
    for name in ("running", "waiting"):
        check(f"vllm:num_requests_{name}{{" in text, name)
    for name in ("vllm:kv_cache_usage_perc{", "vllm:lora_requests_info{", "vllm:cache_config_info{"):
        check(name in text, name)
    check(c.metric('pagoda_router_requests_total{code="200",endpoint="/v1/completions"}') > 0, "counted")
    check(c.metric("pagoda_router_output_tokens_total") > 0, "tokens")


def test_drain(c):
    """SIGTERM while a stream runs: not ready, no new work, the stream ends whole, exit code 0."""
    connection = http.client.HTTPConnection(c.host, c.port, timeout=20)
    body = json.dumps({"prompt": "a", "max_tokens": 600, "ignore_eos": True, "stream": True})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    first = response.read(50)
    c.router.child.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    check(c.get("/readyz")[0] == 503, "not ready any more")
    check(c.get("/livez")[0] == 200, "but alive")
    status, headers, data = c.post("/v1/completions", {"prompt": "a"})
    check(status == 503 and "retry-after" in headers, (status, data))
    rest = first + response.read()
    check(events(rest)[-1] == "[DONE]", rest[-200:])
    check(json.loads(events(rest)[-2])["choices"][0]["finish_reason"] == "length", rest[-400:])
    check(c.router.child.wait(10) == 0, "exit code")


def test_an_idle_router_stops_at_once(c):
    """Many times: on a busy machine it once hung, when gRPC was done before the loop ran for the last time (event_loop_test)."""
    for _ in range(10):
        c.start_router()
        check(c.router.stop(timeout=5) == 0, "exit code")


def main():
    with Cluster(router_flags=["--log-level", "info"]) as cluster:
        for test in (test_whole_answers, test_streams, test_stops, test_logprobs_and_ids, test_other_routes,
                     test_errors, test_keep_alive_and_pipelining, test_disconnect_cancels, test_metrics, test_drain):
            test(cluster)
            print("passed", test.__name__)
        log = cluster.router.output()
        line = next(x for x in log.splitlines() if "my-request/1" in x)
        check(json.loads(line)["status"] == 200, line)
        test_an_idle_router_stops_at_once(cluster)


main()
