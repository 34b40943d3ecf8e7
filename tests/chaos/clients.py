"""What is asked, and who asks it: a fixed set of requests of every kind, over HTTP and gRPC, and clients that draw from it.

Clients come back by themselves when they lose a router (docs/examples/python/resumable_stream.py; over gRPC the same in a few
lines) and give up after 120 s.
"""
import random
import sys
import threading
import time
import uuid

import testbed
from testbed import cluster
from history import History

sys.path.insert(0, str(cluster.ROOT / "docs/examples/python"))
from resumable_stream import ResumableStream  # noqa: E402
from resume_test import CHAT, COMPLETIONS, MODES, Gathered  # noqa: E402

GIVE_UP_S = 120
TOKENS = 40
PROMPTS = ["Once upon a time, in a village by the sea,", "The three rules of the workshop are simple:", "2, 4, 6, 8, 10,"]
QUESTIONS = ["Tell me about the sea.", "What is a pagoda?", "Name three colours."]


class HttpRequest:
    def __init__(self, name, path, fields, prompt):
        self.name, self.path = name, path
        self.body = {"model": testbed.MODEL, "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True,
                     "stream_options": {"include_usage": True}, **fields}
        if path == CHAT:
            self.body["messages"] = [{"role": "user", "content": QUESTIONS[prompt]}]
        else:
            self.body["prompt"] = PROMPTS[prompt]

    def open(self, bed, request_id, first_router):
        """(events, how often the connection was made again: a function)."""
        urls = bed.urls[first_router:] + bed.urls[:first_router]
        stream = ResumableStream(urls, self.path, self.body, headers={"X-Request-Id": request_id}, give_up_s=GIVE_UP_S)
        return iter(stream), lambda: stream.reconnects

    @staticmethod
    def id_of(event):
        return event["id"].split("-", 1)[1]

    @staticmethod
    def ends_in(event):
        return sum(choice.get("finish_reason") is not None for choice in event["choices"])

    @staticmethod
    def tokens_in(event):
        return sum(len(choice.get("token_ids") or []) for choice in event["choices"])

    @staticmethod
    def gathered(events):
        """{choice: what came of it}, however the tokens were cut into events; and the usage, if it came."""
        got = Gathered([(None, event) for event in events])
        return got.choices, got.usage


class GrpcRequest:
    def __init__(self, name, fields, prompt):
        _, inference = cluster.protos()
        self.name = name
        self.message = inference.GenerateRequest(model=testbed.MODEL, text=PROMPTS[prompt], resumable=True, **fields)
        self.message.stopping.max_tokens = TOKENS
        self.message.stopping.ignore_eos = True

    def open(self, bed, request_id, first_router):
        counts = {"calls": 0}
        return self._events(bed.grpc_addresses, request_id, first_router, counts), lambda: counts["calls"] - 1

    def _events(self, addresses, request_id, router, counts):
        import grpc
        _, inference = cluster.protos()
        message = inference.GenerateRequest()
        message.CopyFrom(self.message)
        message.request_id = request_id
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
        deadline, pause = time.monotonic() + GIVE_UP_S, 0.02
        while True:
            counts["calls"] += 1
            with grpc.insecure_channel(addresses[router % len(addresses)], options=options) as channel:
                call = channel.unary_stream("/pagoda.v1.Inference/Generate", request_serializer=message.SerializeToString,
                                            response_deserializer=inference.GenerateResponse.FromString)(message)
                try:
                    for event in call:
                        message.last_event_id = event.event_id
                        yield event
                        deadline, pause = time.monotonic() + GIVE_UP_S, 0.02
                    return
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN,
                                            grpc.StatusCode.CANCELLED) or time.monotonic() + pause > deadline:
                        raise
                finally:
                    call.cancel()
            time.sleep(pause)
            pause, router = min(2 * pause, 2.0), router + 1

    @staticmethod
    def id_of(event):
        return event.request_id

    @staticmethod
    def ends_in(event):
        return int(event.HasField("finish"))

    @staticmethod
    def tokens_in(event):
        return len(event.token_ids)

    @staticmethod
    def gathered(events):
        choices = {}
        for event in events:
            to = choices.setdefault(event.index, {"text": "", "tokens": [], "logprobs": [], "ends": []})
            to["text"] += event.text
            to["tokens"] += event.token_ids
            to["logprobs"] += [[(e.token_id, e.logprob, e.rank) for e in position.entries] for position in event.logprobs]
            if event.HasField("finish"):
                to["ends"].append(str(event.finish))
        return choices, None


def all_requests(bed, prompts=len(PROMPTS)):
    """Each kind with each of so many prompts. The stop string lies across tokens of what the model says."""
    requests = []
    for prompt in range(prompts):
        plain = HttpRequest("", COMPLETIONS, {"temperature": 0}, prompt)
        events, _ = plain.open(bed, uuid.uuid4().hex, 0)
        said = plain.gathered(list(events))[0][0]["text"]
        stop = said[len(said) // 2:len(said) // 2 + 7]
        for kind, (path, fields) in MODES.items():
            if kind == "seed of the server":  # it follows from the request's id: there is nothing to compare with
                continue
            if kind == "stop strings":
                fields = {**fields, "stop": [stop]}
            requests.append(HttpRequest(f"{kind}, {prompt}", path, fields, prompt))
        for kind, fields in {"greedy": {"sampling": {"temperature": 0}},
                             "two choices": {"n": 2, "sampling": {"temperature": 0.9, "seed": 5}},
                             "penalties with logprobs": {"sampling": {"temperature": 0.8, "seed": 6, "frequency_penalty": 0.7,
                                                                      "repetition_penalty": 1.1}, "logprobs": {"logprobs": 2}},
                             "stop strings": {"sampling": {"temperature": 0}, "stopping": {"stop": [stop]}}}.items():
            requests.append(GrpcRequest(f"gRPC {kind}, {prompt}", fields, prompt))
    return requests


def play(bed, request, client, first_router, cancel_after=None):
    """One request from its start to its end, as a History."""
    history = History(client=client, request=request, request_id=uuid.uuid4().hex, started=time.monotonic())
    events, reconnects = request.open(bed, history.request_id, first_router)
    tokens = 0
    try:
        for event in events:
            history.events.append(event)
            history.times.append(time.monotonic())
            tokens += request.tokens_in(event)
            if cancel_after is not None and tokens >= cancel_after:
                history.end = "cancelled"
                break
        else:
            history.end = "whole"
    except Exception as error:  # noqa: BLE001 (a failed request is what is looked for)
        history.end, history.error = "failed", repr(error)
    finally:
        events.close()
    history.ended, history.ended_unix = time.monotonic(), time.time()
    history.reconnects = reconnects()
    return history


class Clients:
    """So many at once, each with one request after the other, until told to stop."""

    def __init__(self, bed, requests, count, seed, think_s=2.0, cancelled=0.15):
        self.bed, self.requests, self.think_s, self.cancelled = bed, requests, think_s, cancelled
        self.histories, self.lock, self.stopping = [], threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(i, random.Random(f"{seed} {i}")), daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, client, draw):
        while not self.stopping.wait(draw.random() * 2 * self.think_s):
            request = draw.choice(self.requests)
            cancel_after = draw.randrange(1, TOKENS // 2) if draw.random() < self.cancelled else None
            history = play(self.bed, request, client, draw.randrange(len(self.bed.urls)), cancel_after)
            with self.lock:
                self.histories.append(history)

    def finish(self):
        """Waits for what runs. The names of the clients that have not ended when they should have given up."""
        self.stopping.set()
        deadline = time.monotonic() + GIVE_UP_S + 30
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [i for i, thread in enumerate(self.threads) if thread.is_alive()]
