#!/usr/bin/env python3
"""Hostile requests through the real cluster: each is answered with a 4xx and an OpenAI error body, or the connection is
closed, and the cluster serves on as before."""
import json
import socket
import time

import cluster
from cluster import Cluster

serving = None


def error_of(status, text, allowed=(400, 404, 405, 413, 414, 415, 422, 431)):
    assert status in allowed, (status, text[:300])
    error = json.loads(text)["error"]
    assert isinstance(error["message"], str) and error["message"] and error["type"], text
    return error


def post(body, target="/v1/completions", **more):
    status, text = serving.request("POST", target, body, **more)
    assert status != 200, f"accepted: {str(body)[:200]}"
    return error_of(status, text)


def completion(**fields):
    return {"model": serving.name, "prompt": "x", "max_tokens": 2, **fields}


def still_well():
    assert serving.complete("The capital of France is", max_tokens=4, temperature=0)["choices"][0]["text"]
    assert set(serving.pids()) == {"router-0", "coordinator-0", "worker-0", "worker-1"}
    assert serving.pids() == PIDS, "a process was restarted"


def broken_json():
    for body in ("{", "", "null", "[]", "17", '"text"', "{'model': 1}", '{"model": "m",}', "\x00", "{" * 50_000,
                 "[" * 50_000, '{"prompt":' + "[" * 50_000 + "]" * 50_000 + "}", b"\xff\xfe\x00{", '{"a":1}{"b":2}'):
        for target in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
            post(body, target)
    still_well()


def wrong_types_and_ranges():
    for fields in ({"prompt": {"a": 1}}, {"prompt": [[1], 2]}, {"prompt": [1.5]}, {"prompt": []}, {"prompt": None},
                   {"prompt": [-1]}, {"prompt": [1 << 40]}, {"prompt": [10**7]}, {"prompt": [True]},
                   {"max_tokens": -1}, {"max_tokens": "many"}, {"max_tokens": 1e30}, {"max_tokens": 2**63},
                   {"temperature": -1}, {"temperature": "hot"}, {"temperature": 1e300}, {"top_p": 0}, {"top_p": 2},
                   {"min_p": -0.1}, {"top_k": -5}, {"n": 0}, {"n": 10_000}, {"n": 2.5}, {"logprobs": 1000},
                   {"stop": ["x"] * 1000}, {"stop": [""] * 2 + ["y" * 100_000]}, {"stop": 3},
                   {"logit_bias": {"abc": 1}}, {"logit_bias": {"1": 1e9}}, {"logit_bias": {"99999999": 1}},
                   {"logit_bias": {str(i): 1 for i in range(5000)}}, {"seed": "x"}, {"stream": "yes"},
                   {"presence_penalty": 100}, {"repetition_penalty": 0}, {"model": 7}, {"model": "no-such-model"}):
        post(completion(**fields))
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "0x10", "01"):
        post('{"model":"%s","prompt":"x","temperature":%s}' % (serving.name, number))
    still_well()


def wrong_chats():
    for messages in (None, [], {}, "hi", [1], [{}], [{"role": "user"}], [{"role": 1, "content": "x"}],
                     [{"role": "user", "content": {"a": 1}}], [{"role": "user", "content": [{"type": "image_url"}]}],
                     [{"role": "nobody-knows", "content": "x"}] * 2):
        status, text = serving.request("POST", "/v1/chat/completions",
                                       {"model": serving.name, "messages": messages, "max_tokens": 2})
        # A role that no template forbids may be answered.
        if status != 200 or messages is None or messages == []:
            error_of(status, text)
    still_well()


def unicode_that_is_none():
    post(b'{"model":"m","prompt":"\xff\xfe"}')
    post('{"model":"%s","prompt":"\\ud800"}' % serving.name)
    post('{"model":"%s","prompt":"\\udfff\\ud800"}' % serving.name)
    post('{"model":"%s","prompt":"x","stop":"\\ud800"}' % serving.name)
    for text in ("\u0000", "\u202e\u200b\ufeff", "e\u0301" * 50, "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 20, "\uffff"):
        assert serving.complete(text, max_tokens=2)["choices"]
    still_well()


def too_large():
    error_of(*serving.request("POST", "/v1/completions", completion(prompt="word " * 3_000_000)), allowed=(413, 400))
    assert "max" in post(completion(prompt="word " * 20_000))["message"].lower()
    error_of(*serving.request("GET", "/" + "a" * 100_000), allowed=(414, 431, 400))
    error_of(*serving.request("GET", "/v1/models", headers={"X-Long": "a" * 60_000}), allowed=(431, 400))
    still_well()


def raw(data, timeout_s=3):
    with socket.create_connection(("127.0.0.1", serving.http_port), timeout=timeout_s) as connection:
        connection.sendall(data)
        try:
            return connection.recv(65536).decode("latin-1")
        except (socket.timeout, ConnectionResetError):
            return ""


def broken_http():
    for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
                 b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
                 b"GET /v1/models HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n"):
        first_line = raw(data).split("\r\n")[0]
        assert first_line == "" or first_line.split()[1][0] in "45", (data[:80], first_line)
    still_well()


def unknown_paths_and_methods():
    error_of(*serving.request("GET", "/nothing"), allowed=(404,))
    error_of(*serving.request("GET", "/v1/completions"), allowed=(405, 404))
    error_of(*serving.request("DELETE", "/v1/models"), allowed=(405, 404))
    error_of(*serving.request("GET", "/../../etc/passwd"), allowed=(404, 400))
    still_well()


def half_open_connections():
    waiting = []
    try:
        for i in range(200):
            connection = socket.create_connection(("127.0.0.1", serving.http_port), timeout=5)
            connection.sendall([b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n",
                                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"][i % 4])
            waiting.append(connection)
        started = time.monotonic()
        still_well()
        assert time.monotonic() - started < 10
    finally:
        for connection in waiting:
            connection.close()
    still_well()


def clients_that_leave():
    body = json.dumps(completion(max_tokens=200, stream=True, ignore_eos=True)).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", serving.http_port), timeout=5) as connection:
            connection.sendall(head % len(body) + body)
            connection.recv(100)
    state = serving.wait_idle(timeout_s=10)
    assert all(pipeline.blocks_used == 0 for pipeline in state.pipelines), state.pipelines
    still_well()


def hostile_grpc():
    import grpc
    _, inference = cluster.protos()
    with grpc.insecure_channel(serving.grpc_address) as channel:
        generate = channel.unary_stream("/pagoda.v1.Inference/Generate", request_serializer=lambda data: data,
                                        response_deserializer=inference.GenerateResponse.FromString)

        def code(data):
            try:
                list(generate(data, timeout=20))
                return grpc.StatusCode.OK
            except grpc.RpcError as error:
                return error.code()

        def request(**fields):
            return inference.GenerateRequest(model=serving.name, **fields).SerializeToString()
        broken = code(b"\xff\xff\xff\xff")
        # What does not parse never reaches us: gRPC's callback server answers by itself.
        assert broken in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED), broken
        wrong = [inference.TokenPrompt(token_ids=ids) for ids in ([], [-1], [10**8])]
        for tokens in wrong:
            assert code(request(tokens=tokens)) == grpc.StatusCode.INVALID_ARGUMENT, tokens
        assert code(request()) == grpc.StatusCode.INVALID_ARGUMENT
        assert code(request(text="x", n=10**6)) == grpc.StatusCode.INVALID_ARGUMENT
        assert code(inference.GenerateRequest(model="none", text="x").SerializeToString()) == grpc.StatusCode.NOT_FOUND
        nan = inference.GenerateRequest(model=serving.name, text="x")
        nan.sampling.temperature = float("nan")
        assert code(nan.SerializeToString()) == grpc.StatusCode.INVALID_ARGUMENT
    still_well()


if __name__ == "__main__":
    with Cluster("--max-model-len", "1024", "--kv-cache-memory-bytes", "128M") as serving:
        PIDS = serving.pids()
        cluster.run(broken_json, wrong_types_and_ranges, wrong_chats, unicode_that_is_none, too_large, broken_http,
                    unknown_paths_and_methods, half_open_connections, clients_that_leave, hostile_grpc)
