#!/usr/bin/env python3
"""Streams that go on: from the log at every token, on any router at every event, and over killed and leaving routers.

The undisturbed run is the oracle throughout: tokens, text, log-probabilities and ends must be equal, not close.
"""
import http.client
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

import cluster
from cluster import Cluster

sys.path.insert(0, str(cluster.ROOT / "docs/examples/python"))
from resumable_stream import ResumableStream  # noqa: E402

SMALL = ["--kv-cache-memory-bytes", "64M", "--max-model-len", "512"]
PROMPT = "Once upon a time, in a village by the sea,"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

# name -> path, fields. Every kind of request whose state could be lost at a cut.
MODES = {
    "greedy": (COMPLETIONS, {"temperature": 0}),
    "seeded": (COMPLETIONS, {"temperature": 0.9, "top_p": 0.95, "seed": 7}),
    "seed of the server": (COMPLETIONS, {"temperature": 0.9}),
    "penalties": (COMPLETIONS, {"temperature": 0.8, "seed": 3, "frequency_penalty": 0.7, "presence_penalty": 0.4,
                                "repetition_penalty": 1.1, "no_repeat_ngram_size": 3}),
    "three choices": (COMPLETIONS, {"temperature": 1.0, "seed": 5, "n": 3}),
    "logprobs": (COMPLETIONS, {"temperature": 0.7, "seed": 11, "logprobs": 3}),
    "echo with logprobs": (COMPLETIONS, {"temperature": 0.7, "seed": 11, "logprobs": 1, "echo": True}),
    "stop strings": (COMPLETIONS, {"temperature": 0, "stop": ["STOP"], "ignore_eos": True}),  # filled in by the test
    "min_tokens and bias": (COMPLETIONS, {"temperature": 0.9, "seed": 2, "min_tokens": 12, "ignore_eos": False,
                                          "logit_bias": {"28": 3, "17": 2}}),
    "chat": (CHAT, {"temperature": 0.6, "seed": 9, "logprobs": True, "top_logprobs": 2}),
    "chat with choices": (CHAT, {"temperature": 0.9, "seed": 4, "n": 2}),
}


def body_of(serving, mode, tokens=20):
    path, fields = MODES[mode]
    body = {"model": serving.name, "max_tokens": tokens, "ignore_eos": True, "stream": True, "return_token_ids": True,
            "stream_options": {"include_usage": True}, **fields}
    if path == CHAT:
        body["messages"] = [{"role": "user", "content": "Tell me about the sea."}]
    else:
        body["prompt"] = PROMPT
    return path, body


def read_events(port, path, body, headers):
    """[(id, event)] of one connection; the ids are None when the server gave none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    connection.request("POST", path, json.dumps(body) if body else "", {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200, f"{response.status}: {text}"
    events = []
    blocks = text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""], text[-300:]
    for block in blocks[:-2]:
        lines = block.split("\n")
        event = json.loads(lines[0].removeprefix("data: "))
        assert "error" not in event, event
        events.append((lines[1].removeprefix("id: ") if len(lines) > 1 else None, event))
    return events


class Gathered:
    """What a client has of a stream, however its tokens were cut into events."""

    def __init__(self, events):
        self.choices = {}
        self.usage = None
        self.ids = set()
        for _, event in events:
            self.ids.add((event["id"], event["created"], event["model"]))
            if event.get("usage"):
                counts = dict(event["usage"])
                counts.pop("prompt_tokens_details")  # a replay finds more of its prompt in the cache
                self.usage = counts
            for choice in event["choices"]:
                to = self.choices.setdefault(choice["index"], {"text": "", "tokens": [], "logprobs": [], "roles": 0, "ends": []})
                delta = choice.get("delta")
                to["text"] += (delta.get("content") or "") if delta is not None else choice["text"]
                to["roles"] += delta is not None and "role" in delta
                to["tokens"] += choice.get("token_ids") or []
                listed = choice.get("logprobs")
                if listed and "content" in listed:
                    to["logprobs"] += [json.dumps(entry) for entry in listed["content"]]
                elif listed:
                    keys = ("text_offset", "token_logprobs", "tokens", "top_logprobs")
                    to["logprobs"] += [json.dumps(entry) for entry in zip(*(listed[key] for key in keys))]
                if choice.get("finish_reason"):
                    to["ends"].append((choice["finish_reason"], choice.get("stop_reason")))

    def joined(self, other):
        for index, more in other.choices.items():
            to = self.choices.setdefault(index, {"text": "", "tokens": [], "logprobs": [], "roles": 0, "ends": []})
            for key in to:
                to[key] += more[key]
        self.usage = other.usage or self.usage
        self.ids |= other.ids
        return self

    def __eq__(self, other):
        return self.choices == other.choices and self.usage == other.usage and len(self.ids | other.ids) == len(self.ids)


def every_event_of_every_kind_from_another_router():
    """After each event of each stream: the rest from the other router, by its log and by the body alone."""
    with Cluster("--num-routers", "2", *SMALL) as serving:
        ports = [serving.router_port(i) for i in range(2)]
        # A stop string that lies across tokens of what the model says.
        said = serving.complete(PROMPT, temperature=0, max_tokens=20, ignore_eos=True)["choices"][0]["text"]
        MODES["stop strings"][1]["stop"] = [said[len(said) // 2:len(said) // 2 + 7]]
        counts = {}
        failures = queue.SimpleQueue()

        def sweep(mode):
            path, body = body_of(serving, mode)
            headers = {"Pagoda-Resumable": "1", "X-Request-Id": f"sweep-{mode.replace(' ', '-')}"}
            events = read_events(ports[0], path, body, headers)
            whole = Gathered(events)
            assert all(choice["ends"] and len(choice["ends"]) == 1 for choice in whole.choices.values()), whole.choices
            assert whole.usage, "no usage came"
            cuts = 0
            for i, (event_id, _) in enumerate(events):
                assert event_id, "an event of a resumable stream has no id"
                ways = [("log", None, headers["X-Request-Id"])]
                # Nobody knows this name: all is made again. The seed is of the body, so any name will do.
                if "seed" in body or body["temperature"] == 0:
                    ways.append(("body", body, f"unknown-{mode.replace(' ', '-')}-{i}"))
                for way, again, name in ways if i % 3 == 0 else ways[:1]:
                    rest = read_events(ports[(i + 1) % 2], path, again, {"X-Request-Id": name, "Last-Event-ID": event_id})
                    if way == "body":
                        rest = [(e, {**event, "id": events[0][1]["id"]}) for e, event in rest]
                    got = Gathered(events[:i + 1]).joined(Gathered(rest))
                    assert got == whole, f"{mode}, after {event_id} by the {way}: {got.choices} instead of {whole.choices}"
                    cuts += 1
            counts[mode] = cuts

        def guarded(mode):
            try:
                sweep(mode)
            except BaseException as error:  # noqa: BLE001 (told by the main thread)
                failures.put(f"{mode}: {error}")

        threads = [threading.Thread(target=guarded, args=(mode,)) for mode in MODES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures.empty(), failures.get()
        print(f"  {sum(counts.values())} cuts in {len(MODES)} kinds of streams, all equal to the undisturbed run")
        state = serving.wait_idle()
        assert all(p.blocks_used == 0 for p in state.pipelines), "blocks are leaked"


class Attached:
    """A router's stream to the coordinator, spoken by hand."""

    def __init__(self, address):
        import grpc
        self.wire = cluster.internal_pipeline_proto()
        self.out = queue.SimpleQueue()
        self.channel = grpc.insecure_channel(address)
        call = self.channel.stream_stream("/pagoda.internal.v1.Pipeline/Attach",
                                          request_serializer=self.wire.RouterMessage.SerializeToString,
                                          response_deserializer=self.wire.CoordinatorMessage.FromString)
        self.out.put(self.wire.RouterMessage(hello=self.wire.RouterHello(router="by-hand", protocol=2, version="test")))
        self.messages = call(iter(self.out.get, None))
        self.next_key = 1

    def close(self):
        self.out.put(None)
        self.messages.cancel()
        self.channel.close()

    def run(self, submits):
        """Sends them all; [per submit: {choice: (tokens, logprobs, finish)}] of what came for them."""
        results = {}
        for submit in submits:
            submit.request.high, submit.request.low = 77, self.next_key
            results[self.next_key] = {i: ([], [], 0) for i, c in enumerate(submit.choices) if not c.finished}
            self.next_key += 1
            self.out.put(self.wire.RouterMessage(submit=submit))
        left = sum(len(choices) for choices in results.values())
        for message in self.messages:
            assert message.WhichOneof("kind") != "refused", message
            for got in message.tokens.choices:
                tokens, logprobs, _ = results[got.request.low][got.choice]
                tokens += got.tokens
                logprobs += [[(e.token_id, e.logprob, e.rank) for e in p.entries] for p in got.logprobs]
                assert not got.error, got.error
                if got.finish:
                    results[got.request.low][got.choice] = (tokens, logprobs, got.finish)
                    left -= 1
            if left == 0:
                return list(results.values())
        raise AssertionError("the stream ended")


SAMPLINGS = {
    "greedy": dict(),
    "seeded": dict(temperature=0.9, top_p=0.95, top_k=50),
    "penalties": dict(temperature=0.8, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.7, no_repeat_ngram_size=2),
    "min_p, typical_p": dict(temperature=1.2, min_p=0.05, typical_p=0.9),
    "min_tokens": dict(temperature=1.0, min_tokens=14, stop_token_ids=[2, 28, 30, 198]),
}


def the_log_at_every_token():
    """A submission with the first k tokens gives the rest of the tokens and log-probabilities, for every k, on any layout."""
    for arguments in (["--pipeline-parallel-size", "2"], ["--tensor-parallel-size", "2"]):
        with Cluster(*arguments, *SMALL, "--no-example") as serving:
            tokens = json.loads(serving.request("POST", "/tokenize", {"prompt": PROMPT})[1])["tokens"]
            attached = Attached(serving.coordinator)
            wire = attached.wire
            pipeline = serving.state().pipelines[0].id
            cuts = 0
            for name, fields in SAMPLINGS.items():
                for n in (1, 3):
                    settled = dict(temperature=0.0, top_p=1.0, typical_p=1.0, repetition_penalty=1.0, seed=99, max_tokens=20,
                                   logprobs=2, prompt_logprobs=-1)
                    settled.update(fields)

                    def submit(logs, attempt):
                        return wire.Submit(attempt=attempt, pipeline=pipeline, prompt=tokens, accepted=True,
                                           sampling=wire.SettledSampling(**settled),
                                           choices=[wire.ChoiceLog(tokens=log) for log in logs])
                    whole, = attached.run([submit([[]] * n, 1)])
                    most = max(len(whole[c][0]) for c in whole)
                    # Each choice at a place of its own.
                    places = [[min(len(whole[c][0]), max(0, k - 2 * c)) for c in range(n)] for k in range(most + 1)]
                    replays = [submit([whole[c][0][:at[c]] for c in range(n)], 2) for at in places]
                    for at, got in zip(places, attached.run(replays)):
                        for c in range(n):
                            expected = (whole[c][0][at[c]:], whole[c][1][at[c]:], whole[c][2])
                            assert got[c] == expected, f"{name}, n={n}, choice {c} from {at[c]}: {got[c]} instead of {expected}"
                            cuts += 1
            attached.close()
            print(f"  {' '.join(arguments)}: {cuts} continuations equal to the bit")


def collect(stream, results, key):
    try:
        ids, text = {}, {}
        for event in stream:
            for choice in event["choices"]:
                ids.setdefault(choice["index"], []).extend(choice.get("token_ids") or [])
                text[choice["index"]] = text.get(choice["index"], "") + (choice.get("text") or "")
            results.setdefault("progress", {})[key] = sum(len(v) for v in ids.values())
        results[key] = (ids, text, stream.reconnects)
    except BaseException as error:  # noqa: BLE001
        results[key] = error


def wait_for(condition, what, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def routers_go_under_streams():
    """kill -9 and then SIGTERM of the router that serves them: helpers in Python and C++ get what they would have had."""
    tokens = 120
    with Cluster("--num-routers", "2", *SMALL) as serving:
        urls = [f"http://127.0.0.1:{serving.router_port(i)}" for i in range(2)]
        cpp = pathlib.Path(cluster.binary_folder()) / "example-generate-resumable"
        grpc_addresses = [serving.router_grpc(i) for i in range(2)]

        def body(i):
            return {"model": serving.name, "prompt": f"{PROMPT} number {i}", "max_tokens": tokens, "temperature": 0.8,
                    "seed": i, "n": 1 + i % 2, "ignore_eos": True, "return_token_ids": True}

        def example(order):
            return subprocess.Popen([str(cpp), PROMPT, *(grpc_addresses[i] for i in order)], stdout=subprocess.PIPE, text=True)

        expected = {}
        for i in range(6):
            collect(ResumableStream(urls, COMPLETIONS, body(i)), expected, i)
            assert not isinstance(expected[i], BaseException), expected[i]
            assert expected[i][2] == 0
        expected_text = example([1, 0]).communicate(timeout=90)[0]
        assert "[200 tokens, 0 reconnects]" in expected_text, expected_text
        for number, name in ((signal.SIGKILL, "kill -9"), (signal.SIGTERM, "SIGTERM")):
            results = {}
            threads = [threading.Thread(target=collect, args=(ResumableStream(urls, COMPLETIONS, body(i)), results, i))
                       for i in range(6)]
            for thread in threads:
                thread.start()
            process = example([0, 1])
            wait_for(lambda: len(results.get("progress", {})) == 6 and min(results["progress"].values()) > 5, "nothing streams")
            victim = serving.pids()["router-0"]
            os.kill(victim, number)
            for thread in threads:
                thread.join(120)
            text = process.communicate(timeout=120)[0]
            for i in range(6):
                assert not isinstance(results[i], BaseException), results[i]
                assert results[i][:2] == expected[i][:2], f"{name}: {results[i]} instead of {expected[i]}"
            moved = sum(results[i][2] > 0 for i in range(6))
            assert moved == 6, f"{name}: only {moved} of 6 streams came back; the test does not test"
            assert text.rsplit("[", 1)[0] == expected_text.rsplit("[", 1)[0], f"{text}\ninstead of\n{expected_text}"
            print(f"  {name}: 6 streams and one of C++ went on with the same tokens; the latter: {text.rsplit('[', 1)[1].strip()}")
            wait_for(lambda: serving.pids().get("router-0", victim) != victim, "router-0 does not come back")
            wait_for(lambda: ready(serving, 0), "router-0 does not become ready")
        state = serving.wait_idle()
        assert all(p.blocks_used == 0 for p in state.pipelines), "blocks are leaked"


def ready(serving, router):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", serving.router_port(router), timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def others_work_is_cancelled_and_strangers_get_nothing():
    with Cluster("--num-routers", "2", *SMALL) as serving:
        body = {"model": serving.name, "prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", serving.router_port(0), timeout=60)
        connection.request("POST", COMPLETIONS, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        first = response.readline()
        assert b"id:" not in first and first.startswith(b"data: {"), first
        os.kill(serving.pids()["router-0"], signal.SIGKILL)
        serving.wait_idle(5)
        connection.close()
        ask = http.client.HTTPConnection("127.0.0.1", serving.router_port(1), timeout=30)
        for headers, text, status in (({"Last-Event-ID": "1:5", "X-Request-Id": "nobody-had-this"}, "", 404),
                                      ({"Last-Event-ID": "garbage", "X-Request-Id": "x"}, json.dumps(body), 400),
                                      ({"Last-Event-ID": "1:5"}, json.dumps(body), 400),
                                      ({"Last-Event-ID": "1:5.5", "X-Request-Id": "y"}, json.dumps(body), 400)):
            ask.request("POST", COMPLETIONS, text, {"Content-Type": "application/json", **headers})
            answer = ask.getresponse()
            got = answer.read()
            assert answer.status == status and b'"error"' in got, (headers, answer.status, got)


if __name__ == "__main__":
    cluster.run(every_event_of_every_kind_from_another_router, the_log_at_every_token, routers_go_under_streams,
                others_work_is_cancelled_and_strangers_get_nothing)
