#!/usr/bin/env python3
"""The layout does not matter: token ids and log-probabilities are the same, number for number, however the model is cut, on
whatever instruction set, alone or in company, in one chunk or many, from the prefix cache or cold, preempted or not.

Without arguments: a short form. --full: 20 prompts x 64 tokens, greedy and seeded, all layouts on all instruction sets of this
machine, the plain twin too.
"""
import argparse
import concurrent.futures
import pathlib
import sys

import cluster
from cluster import Cluster

TEXT = """The harbour at Whitby has two piers that reach out like arms. In winter the sea comes over them, and the boats stay in.
A lighthouse stands at the end of each, and a bell that rings when the swell is high. People come in summer to walk along
the west pier, to look at the abbey on the cliff, and to eat fish out of paper. In 1885 a Russian schooner ran aground on
the sand below the church, and a writer who was on holiday there made a story of it. The story has been told many times
since, in books and in films, and the town has been glad of it, because stories bring people and people bring money."""

LAYOUTS = {
    "1x1": ["--pipeline-parallel-size", "1"],
    "2x1": ["--pipeline-parallel-size", "2"],
    "4x1": ["--pipeline-parallel-size", "4"],
    "1x2": ["--pipeline-parallel-size", "1", "--tensor-parallel-size", "2"],
    "1x3": ["--pipeline-parallel-size", "1", "--tensor-parallel-size", "3"],
    "2x3": ["--pipeline-parallel-size", "2", "--tensor-parallel-size", "3"],
    "3,1": ["--tensor-parallel-size", "3,1"],
}
SMALL = ["--threads-per-worker", "1", "--kv-cache-memory-bytes", "64M", "--max-model-len", "1024"]


def instruction_sets():
    flags = set(pathlib.Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    sets = ["scalar"]
    if {"avx2", "fma", "f16c"} <= flags:
        sets.append("avx2")
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
        sets.append("avx512")
    if "amx_int8" in flags:
        sets.append("amx")
    return sets


def requests(count, tokens):
    """Prompts of growing length; each once greedy and once sampled with a seed."""
    words = TEXT.split()
    made = []
    for i in range(count):
        prompt = " ".join(words[i:i + 3 + 9 * (i % 11)])
        common = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "logprobs": 2}
        made.append({**common, "temperature": 0})
        made.append({**common, "temperature": 0.9, "top_p": 0.95, "seed": 1000 + i, "presence_penalty": 0.3})
    return made


def answer(serving, request):
    """What must not change: the ids and the log-probabilities of the chosen tokens and of the others, exactly."""
    choice = serving.complete(**request)["choices"][0]
    logprobs = choice["logprobs"]
    assert len(choice["token_ids"]) == request["max_tokens"], choice
    return choice["token_ids"], logprobs["token_logprobs"], logprobs["top_logprobs"]


def answers(serving, made, at_once=16):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda request: answer(serving, request), made))


def first_difference(got, expected):
    for i, (a, b) in enumerate(zip(got, expected)):
        if a == b:
            continue
        at = next((k for k in range(len(a[0])) if a[0][k] != b[0][k] or a[1][k] != b[1][k]), None)
        if at is None:
            return f"request {i}: top_logprobs differ"
        return (f"request {i}, output token {at}: id {a[0][at]} logprob {a[1][at]!r} "
                f"instead of id {b[0][at]} logprob {b[1][at]!r}")
    return None


class Reference:
    """One stage, one rank, the machine's best instruction set; made once."""
    made = None
    expected = None

    @classmethod
    def get(cls, options):
        if cls.made is None:
            cls.made = requests(options.prompts, options.tokens)
            with Cluster(*LAYOUTS["1x1"], *SMALL) as serving:
                cls.expected = answers(serving, cls.made)
        return cls.made, cls.expected


options = None


def check(name, arguments, at_once=16):
    made, expected = Reference.get(options)
    with Cluster(*arguments, *SMALL) as serving:
        difference = first_difference(answers(serving, made, at_once), expected)
    assert difference is None, f"{name}: {difference}"
    print(f"  {name}: {len(made)} requests x {options.tokens} tokens the same", flush=True)


def every_layout_gives_the_same():
    for name, arguments in LAYOUTS.items():
        if name != "1x1":
            check(name, arguments)


def the_scalar_twin_gives_the_same():
    """Many times slower: in the short form a few requests with the shortest prompts, and the first tokens of them."""
    made, expected = Reference.get(options)
    shortest = sorted(range(len(made)), key=lambda i: len(made[i]["prompt"]))[:options.scalar_requests]
    tokens = options.scalar_tokens
    wanted = [tuple(part[:tokens] for part in expected[i]) for i in shortest]
    for name in (options.scalar_layouts or (LAYOUTS if options.full else ["1x1", "2x3"])):
        # Small steps: one of hundreds of rows would take longer than a step may.
        with Cluster(*LAYOUTS[name], *SMALL, "--isa", "scalar", "--max-num-batched-tokens", "32") as serving:
            difference = first_difference(answers(serving, [{**made[i], "max_tokens": tokens} for i in shortest], at_once=8), wanted)
        assert difference is None, f"{name} scalar: {difference}"
        print(f"  {name} scalar: {len(shortest)} requests x {tokens} tokens the same", flush=True)


def every_instruction_set_gives_the_same():
    for isa in instruction_sets()[1:]:
        for name in (LAYOUTS if options.full else ["1x1"]):
            check(f"{name} {isa}", [*LAYOUTS[name], "--isa", isa])


def company_does_not_matter():
    made, _ = Reference.get(options)
    with Cluster(*LAYOUTS["2x1"], *SMALL) as serving:
        alone = [answer(serving, request) for request in made[:4]]
        others = [{"prompt": TEXT[k:k + 40 + 7 * k], "max_tokens": 100, "ignore_eos": True, "temperature": 1.0, "seed": k}
                  for k in range(32)]
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            company = [pool.submit(serving.complete, **other) for other in others]
            among = list(pool.map(lambda request: answer(serving, request), made[:4]))
            for other in company:
                other.result()
    difference = first_difference(among, alone)
    assert difference is None, difference


def chunks_do_not_matter():
    check("chunks of 16 rows", [*LAYOUTS["1x1"], "--max-num-batched-tokens", "16"], at_once=4)


def the_prefix_cache_does_not_matter():
    made, expected = Reference.get(options)
    longest = max(made, key=lambda request: len(request["prompt"]))
    at = made.index(longest)
    with Cluster(*LAYOUTS["2x1"], *SMALL) as serving:
        cold = answer(serving, longest)
        before = serving.wait_idle().pipelines[0].prefix_hit_tokens
        hit = answer(serving, longest)
        after = serving.wait_idle().pipelines[0].prefix_hit_tokens
    assert after > before, "the second request did not hit the prefix cache"
    assert first_difference([cold, hit], [expected[at]] * 2) is None, first_difference([cold, hit], [expected[at]] * 2)


def preemption_does_not_matter():
    """A KV cache with room for a few of many sequences: some are thrown out and come back."""
    made, expected = Reference.get(options)
    small = ["--threads-per-worker", "1", "--kv-cache-memory-bytes", str(20 << 20), "--max-model-len", "512",
             "--no-enable-prefix-caching"]
    with Cluster(*LAYOUTS["1x1"], *small) as serving:
        got = answers(serving, made, at_once=len(made))
        # Long ones, so that they cannot all stay.
        long = [{**request, "max_tokens": 200} for request in made[:12]]
        together = answers(serving, long, at_once=len(long))
        preemptions = serving.wait_idle().pipelines[0].preemptions
        one_by_one = [answer(serving, request) for request in long[:4]]
    assert first_difference(got, expected) is None, first_difference(got, expected)
    assert preemptions > 0, "nothing was preempted: the test does not test"
    assert first_difference(together[:4], one_by_one) is None, first_difference(together[:4], one_by_one)
    print(f"  {preemptions} preemptions")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--scalar-requests", type=int)
    parser.add_argument("--scalar-tokens", type=int)
    parser.add_argument("--scalar-layouts", nargs="+", choices=LAYOUTS)
    options = parser.parse_args()
    options.prompts = options.prompts or (20 if options.full else 5)
    options.tokens = options.tokens or (64 if options.full else 24)
    options.scalar_requests = options.scalar_requests or (2 * options.prompts if options.full else 2)
    options.scalar_tokens = options.scalar_tokens or (options.tokens if options.full else 4)
    sys.argv = sys.argv[:1]
    cluster.run(every_layout_gives_the_same, company_does_not_matter, chunks_do_not_matter,
                the_prefix_cache_does_not_matter, preemption_does_not_matter, the_scalar_twin_gives_the_same,
                every_instruction_set_gives_the_same)
