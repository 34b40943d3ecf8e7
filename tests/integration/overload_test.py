#!/usr/bin/env python3
"""Three times more than a cluster can do: early refusals with a time to come back, deadlines that hold, no collapse.

It checks counts; figures are bench/overload/run's.
"""
import http.client
import json
import random
import statistics
import threading
import time

import cluster
from cluster import Cluster

TOKENS = 32
SEQUENCES = 8
ARGUMENTS = ["--max-num-seqs", str(SEQUENCES), "--kv-cache-memory-bytes", "64M", "--max-model-len", "512"]


class Outcome:
    def __init__(self, status, seconds, tokens, retry_after, code):
        self.status, self.seconds, self.tokens, self.retry_after, self.code = status, seconds, tokens, retry_after, code


def one(serving, number, deadline_s=None, tenant=None):
    body = {"model": serving.name, "prompt": f"Story number {number}: once upon a time", "max_tokens": TOKENS,
            "ignore_eos": True, "temperature": 0.8, "seed": number}
    headers = {"Content-Type": "application/json"}
    if deadline_s:
        headers["Pagoda-Deadline-Ms"] = str(int(deadline_s * 1000))
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", serving.http_port, timeout=90)
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    tokens = answer["usage"]["completion_tokens"] if response.status == 200 else 0
    return Outcome(response.status, time.monotonic() - started, tokens, response.getheader("Retry-After"),
                   answer.get("error", {}).get("code"))


def closed_loop(serving, clients, seconds):
    """At capacity: as many clients as sequences may run. (tokens/s, requests/s, latencies)"""
    outcomes, numbers, lock = [], iter(range(10**9)), threading.Lock()
    until = time.monotonic() + seconds

    def client():
        while time.monotonic() < until:
            with lock:
                number = next(numbers)
            outcome = one(serving, number)
            with lock:
                outcomes.append(outcome)

    started = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    assert all(o.status == 200 for o in outcomes), [o.status for o in outcomes]
    return sum(o.tokens for o in outcomes) / took, len(outcomes) / took, sorted(o.seconds for o in outcomes)


def open_loop(serving, rate, seconds, deadline_s):
    """Poisson arrivals, whatever comes of them."""
    draw = random.Random(7)
    outcomes, threads = [], []
    started = time.monotonic()
    at = 0.0
    while True:
        at += draw.expovariate(rate)
        if at > seconds:
            break
        time.sleep(max(0.0, started + at - time.monotonic()))
        thread = threading.Thread(target=lambda n=len(threads): outcomes.append(one(serving, 10_000 + n, deadline_s)))
        thread.start()
        threads.append(thread)
    sent_s = time.monotonic() - started
    for thread in threads:
        thread.join()
    assert len(outcomes) == len(threads), "a request got no answer"
    return outcomes, sent_s


def p99(values):
    values = sorted(values)
    return values[min(len(values) - 1, int(0.99 * len(values)))]


def overload(measure_s, overload_s):
    with Cluster(*ARGUMENTS) as serving:
        closed_loop(serving, SEQUENCES, 2)  # warm
        peak, rate, latencies = closed_loop(serving, SEQUENCES, measure_s)
        at_capacity = p99(latencies)
        deadline_s = 1.5 * at_capacity
        outcomes, sent_s = open_loop(serving, 3 * rate, overload_s, deadline_s)
        done = [o for o in outcomes if o.status == 200]
        in_time = [o for o in done if o.seconds <= deadline_s]
        refused = [o for o in outcomes if o.status in (429, 503)]
        late = [o for o in outcomes if o.status == 504]
        assert len(done) + len(refused) + len(late) == len(outcomes), {o.status for o in outcomes}
        assert refused and all(o.retry_after and int(o.retry_after) >= 1 for o in refused), "refused without Retry-After"
        # Refused at once, not after a wait.
        refusal_s = statistics.median(o.seconds for o in refused)
        goodput = sum(o.tokens for o in in_time) / sent_s
        started = time.monotonic()
        state = serving.wait_idle(5)
        idle_s = time.monotonic() - started
        assert all(p.blocks_used == 0 and p.waiting == 0 for p in state.pipelines), "something is left of the overload"
        after = [one(serving, 90_000 + i) for i in range(SEQUENCES)]
        assert all(o.status == 200 for o in after), "not recovered"
        figures = {"peak_tokens_per_s": peak, "requests_per_s": rate, "p99_at_capacity_s": at_capacity,
                   "sent": len(outcomes), "done": len(done), "in_time": len(in_time), "refused": len(refused),
                   "late": len(late), "goodput_tokens_per_s": goodput, "goodput_of_peak": goodput / peak,
                   "p99_accepted_s": p99([o.seconds for o in done]),
                   "p99_accepted_of_capacity": p99([o.seconds for o in done]) / at_capacity,
                   "refusal_median_ms": refusal_s * 1000, "idle_after_s": idle_s}
        print("  " + json.dumps({k: round(v, 3) for k, v in figures.items()}))
        return figures


def at_three_times_capacity_most_of_it_is_still_served_in_time():
    figures = overload(4, 8)
    # The bars of bench/overload/run are 0.9 and 1.5; a test shares its two cores with its clients and with other tests.
    assert figures["in_time"] >= 0.8 * figures["done"], "accepted requests were late"
    assert figures["goodput_of_peak"] >= 0.5, "collapse"
    assert figures["refused"] + figures["late"] >= 0.4 * figures["sent"], "it was not overloaded: the test does not test"
    assert figures["late"] <= 0.3 * figures["sent"], "taken in and then dropped: the refusals come too late"


if __name__ == "__main__":
    cluster.run(at_three_times_capacity_most_of_it_is_still_served_in_time)
