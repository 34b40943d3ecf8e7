#!/usr/bin/env python3
"""A worker is lost, nobody starts it again and there is no spare: what is left of the only pipeline serves, with the same tokens, and
all of it again once the worker is back."""
import os
import signal
import tempfile
import time

import cluster
from bare_cluster import Bare


def what_is_left_serves():
    with tempfile.TemporaryDirectory(prefix="pagoda-makeshift-") as folder, Bare(folder) as serving:
        fields = {"prompt": "The keeper of the lighthouse", "max_tokens": 700, "ignore_eos": True, "temperature": 0.8, "seed": 5}
        whole = cluster.TokenStream(serving, **fields)
        assert whole.read() and len(whole.ids) == 700, whole.ids
        stream = cluster.TokenStream(serving, **fields)
        stream.read(60)
        os.kill(serving.workers[1].process.pid, signal.SIGKILL)
        assert stream.read() and stream.ids == whole.ids, "other tokens than undisturbed"
        print(f"  the stream stood still for {stream.longest_gap_s:.1f} s", flush=True)
        assert 4.5 < stream.longest_gap_s < 12, "five seconds in which the worker might have come back, and a load"
        shown = serving.deployment()
        assert cluster.protos()[0].DeploymentState.Name(shown.state) == "DEPLOYMENT_STATE_DEGRADED" and "runs with 1 of 2 workers" in shown.message, shown
        # The worker is back, and stays: all of the layout again, under streams.
        serving.workers[1] = serving.worker("worker-1b")
        begin = time.monotonic()
        gaps = []
        while (shown := serving.deployment()).message or shown.replicas_ready != 1:
            assert time.monotonic() - begin < 60, shown
            stream = cluster.TokenStream(serving, **fields)
            assert stream.read() and stream.ids == whole.ids, "other tokens than undisturbed"
            gaps.append(stream.longest_gap_s)
        print(f"  {time.monotonic() - begin:.1f} s after the worker was back it had its stage; longest gap of {len(gaps)} streams {max(gaps):.1f} s", flush=True)
        assert max(gaps) < 5 and cluster.protos()[0].DeploymentState.Name(shown.state) == "DEPLOYMENT_STATE_READY"


if __name__ == "__main__":
    cluster.run(what_is_left_serves)
