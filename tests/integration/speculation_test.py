#!/usr/bin/env python3
"""Prompt lookup is lossless: whatever a request asks for, on every layout, its tokens and log-probabilities are those of the run
without, alone and among others, from the prefix cache, and across a worker's death."""
import concurrent.futures
import json
import os
import re
import signal

import cluster
from cluster import Cluster

SMALL = ["--kv-cache-memory-bytes", "64M", "--max-model-len", "1024", "--activation-bits", "8"]
RECORDS = "[\n" + ",\n".join(json.dumps({"id": i, "name": f"sensor-{i:03d}", "unit": "celsius", "status": "ok"}) for i in range(8)) + ",\n"
COUNT = "one two three one two three one two three one two"
STORY = "Once upon a time, in a land far away, there lived"
REQUESTS = [
    ("greedy, repetitive", RECORDS, {"temperature": 0}),
    ("greedy, logprobs", COUNT, {"temperature": 0, "logprobs": 3}),
    ("seeded", RECORDS, {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 11}),
    ("seeded, no repetition", STORY, {"temperature": 1.0, "seed": 12}),
    ("penalties", COUNT, {"temperature": 0, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.1}),
    ("no_repeat_ngram_size", COUNT, {"temperature": 0, "no_repeat_ngram_size": 6}),
    ("a stop string", RECORDS, {"temperature": 0, "stop": ["\"id\": 11"]}),
    ("min_tokens", COUNT, {"temperature": 0, "ignore_eos": False, "min_tokens": 50}),
    ("three choices", COUNT, {"temperature": 0.8, "seed": 13, "n": 3, "max_tokens": 40}),
    ("bias and bad words", COUNT, {"temperature": 0, "bad_words": [" four"], "logit_bias": {"253": 2.0}}),
]


def ask(serving, prompt, fields, guesses):
    body = {"max_tokens": 90, "ignore_eos": True, **fields}
    if guesses is not None:
        body["num_speculative_tokens"] = guesses
    answer = serving.complete(prompt, **body)
    return [(c["token_ids"], c["text"], c["finish_reason"], c["logprobs"]) for c in answer["choices"]]


def counted(serving):
    """Drafts, tokens drafted, tokens accepted, of the coordinator's metrics."""
    import urllib.request
    pid = serving.pids()["coordinator-0"]
    words = open(f"/proc/{pid}/cmdline").read().split("\0")
    address = words[words.index("--metrics-listen") + 1]
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    return [sum(float(v) for v in re.findall(rf"^pagoda_speculation_{name}_total{{.*}} ([0-9.e+]+)$", text, re.M))
            for name in ("drafts", "draft_tokens", "accepted_tokens")]


def same_tokens(serving):
    expected = [ask(serving, prompt, fields, 0) for _, prompt, fields in REQUESTS]
    assert counted(serving)[0] == 0, "0 means none"
    for guesses in (4, 15, None):
        for (name, prompt, fields), without in zip(REQUESTS, expected):
            got = ask(serving, prompt, fields, guesses)
            assert got == without, f"{name} with num_speculative_tokens {guesses}:\n{got}\ninstead of\n{without}"
    drafts, drafted, accepted = counted(serving)
    assert drafts > 50 and 100 < accepted < drafted, (drafts, drafted, accepted)
    # All at once, a mixture of guessing and not.
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        jobs = [(name, without, pool.submit(ask, serving, prompt, fields, guesses))
                for (name, prompt, fields), without in zip(REQUESTS, expected) for guesses in (6, None)]
        for name, without, job in jobs:
            assert job.result() == without, f"{name}, among others"
    print(f"  {drafts:.0f} drafts of {drafted:.0f} tokens, {accepted:.0f} accepted")
    return expected


def test_one_worker():
    with Cluster(*SMALL) as serving:
        same_tokens(serving)
        status, text = serving.request("POST", "/v1/completions", {"model": serving.name, "prompt": "x", "num_speculative_tokens": 16})
        assert status == 400 and "num_speculative_tokens" in text, (status, text)


def test_stages_and_ranks():
    with Cluster("--pipeline-parallel-size", "2", "--tensor-parallel-size", "3,1", *SMALL) as serving:
        same_tokens(serving)


def test_a_worker_dies():
    """The stream goes on from the router's log with the tokens that it would have had."""
    with Cluster("--pipeline-parallel-size", "2", *SMALL) as serving:
        fields = {"temperature": 0.7, "top_k": 20, "seed": 11, "max_tokens": 400}
        without = ask(serving, RECORDS, fields, 0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            before = counted(serving)[0]
            job = pool.submit(ask, serving, RECORDS, fields, 8)
            while counted(serving)[0] < before + 5:  # it drafts
                assert not job.done(), "it ended before anything was killed: the test does not test"
            os.kill(serving.pids()["worker-1"], signal.SIGKILL)
            assert job.result() == without


if __name__ == "__main__":
    cluster.run(test_one_worker, test_stages_and_ranks, test_a_worker_dies)
