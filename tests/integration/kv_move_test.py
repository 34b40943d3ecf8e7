#!/usr/bin/env python3
"""A pipeline is left on purpose (a worker of it gets SIGTERM; the deployment is scaled in) under long streams: their KV goes to the
other pipeline, what is computed again are tails, and the tokens are those of an undisturbed run."""
import os
import random
import signal
import threading
import time

import cluster
from cluster import Cluster, TokenStream

STREAMS = 6
PROMPT = 640
TOKENS = 96
BLOCK = 16
ARGUMENTS = ["--data-parallel-size", "2", "--max-model-len", "1024", "--max-num-seqs", "32", "--kv-cache-memory-bytes", "128M"]


class Streams:
    """STREAMS long prompts at once; `started` when all have some tokens."""

    def __init__(self, serving):
        self.results, self.errors, self.gaps = {}, [], []
        self.started, self.go = threading.Semaphore(0), threading.Event()
        self.threads = [threading.Thread(target=self.read, args=(serving, i)) for i in range(STREAMS)]
        for thread in self.threads:
            thread.start()

    def read(self, serving, index):
        try:
            chooser = random.Random(index)
            stream = TokenStream(serving, prompt=[chooser.randrange(100, 40000) for _ in range(PROMPT)], max_tokens=TOKENS,
                                 temperature=0.8, seed=index)
            stream.read(6)
            stream.longest_gap_s = 0
            self.started.release()
            stream.read()
            self.results[index] = stream.ids
            self.gaps.append(stream.longest_gap_s)
        except Exception as error:  # noqa: BLE001 (told by the main thread)
            self.errors.append((index, error))
            self.started.release()

    def wait_started(self):
        for _ in range(STREAMS):
            assert self.started.acquire(timeout=300)

    def finish(self):
        for thread in self.threads:
            thread.join()
        assert not self.errors, self.errors
        return self.results


def total(serving, name, **labels):
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(value for key, value in serving.coordinator_metrics().items()
               if key.split("{")[0] == name and all(label in key for label in wanted))


def undisturbed(serving):
    streams = Streams(serving)
    streams.wait_started()
    return streams.finish()


def check(serving, left, what, seconds, gaps):
    """Prints what moved; tails only were computed again."""
    kept = total(serving, "pagoda_resumed_tokens_kept_total")
    again = total(serving, "pagoda_resumed_tokens_recomputed_total")
    blocks, size = total(serving, "pagoda_moved_kv_blocks_total"), total(serving, "pagoda_moved_kv_bytes_total")
    moved = round((kept + again) / (PROMPT + TOKENS / 2))
    print(f"  {what}: drained in {seconds * 1000:.0f} ms, longest gap of a stream {max(gaps) * 1000:.0f} ms; {blocks:.0f} blocks, "
          f"{size / 1e6:.1f} MB moved; tokens kept {kept:.0f}, computed again {again:.0f}")
    assert total(serving, "pagoda_kv_moves_total", pipeline=left, result="moved") == 1, \
        serving.log_events("coordinator-0", "kv_move_ended")
    assert kept >= PROMPT and blocks >= PROMPT // BLOCK and size > 0, (kept, blocks, size)
    assert again <= max(moved, 1) * 3 * BLOCK, f"{again} tokens of {moved} streams were computed again"


def a_worker_is_told_to_stop(*layout):
    with Cluster(*ARGUMENTS, *layout) as serving:
        expected = undisturbed(serving)
        # Each prompt goes where it ran before, so the other pipeline does not have its blocks.
        streams = Streams(serving)
        streams.wait_started()
        left = max(serving.state().pipelines, key=lambda p: p.running)
        assert left.running > 0
        name = next(w.name for w in serving.state().workers if w.id == left.workers[-1])
        before = time.monotonic()
        pid = serving.pids()[name]
        os.kill(pid, signal.SIGTERM)
        while not serving.log_events("coordinator-0", "epoch_ended"):
            assert time.monotonic() < before + 20, "the epoch does not end"
            time.sleep(0.01)
        seconds = time.monotonic() - before
        results = streams.finish()
        assert results == expected, [i for i in expected if results[i] != expected[i]]
        check(serving, left.id, "worker told to stop", seconds, streams.gaps)
        state = serving.wait_idle()
        assert all(p.blocks_used == 0 for p in state.pipelines), state.pipelines


def workers_of_stages_and_ranks():
    a_worker_is_told_to_stop("--pipeline-parallel-size", "2")


def the_deployment_is_scaled_in():
    with Cluster(*ARGUMENTS) as serving:
        expected = undisturbed(serving)
        streams = Streams(serving)
        streams.wait_started()
        left = max(serving.state().pipelines, key=lambda p: p.id)
        assert left.running > 0, "nothing runs where the scale-in takes from: the test does not test"
        before = time.monotonic()
        cluster.admin_call(serving.coordinator, "ScaleDeployment", name=serving.name, replicas=1)
        while any(p.id == left.id for p in serving.state().pipelines):
            assert time.monotonic() < before + 60, "the pipeline does not go"
            time.sleep(0.02)
        seconds = time.monotonic() - before
        stays = serving.state().pipelines
        assert len(stays) == 1 and stays[0].running > 0, "the streams had ended before: the test does not test"
        results = streams.finish()
        assert results == expected, [i for i in expected if results[i] != expected[i]]
        event = serving.log_events("coordinator-0", "kv_move_ended")[0]
        assert event["result"] == "moved", event
        kept = total(serving, "pagoda_resumed_tokens_kept_total")
        again = total(serving, "pagoda_resumed_tokens_recomputed_total")
        print(f"  scaled in: drained in {seconds * 1000:.0f} ms, longest gap {max(streams.gaps) * 1000:.0f} ms, move {event['ms']} ms, "
              f"{event['blocks']} blocks; tokens kept {kept:.0f}, computed again {again:.0f}")
        assert kept >= PROMPT and again <= STREAMS * 3 * BLOCK, (kept, again)
        state = serving.wait_idle()
        assert all(p.blocks_used == 0 for p in state.pipelines), state.pipelines


if __name__ == "__main__":
    cluster.run(a_worker_is_told_to_stop, workers_of_stages_and_ranks, the_deployment_is_scaled_in)
