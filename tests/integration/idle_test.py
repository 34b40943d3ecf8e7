#!/usr/bin/env python3
"""An idle cluster takes under 2% of one core in all, and the router adds under 1 ms to the first token."""
import queue
import statistics
import time

import cluster
from cluster import Cluster

IDLE_S = 10


def idle_takes_no_cpu():
    with Cluster("--tensor-parallel-size", "2", "--threads-per-worker", "1", "--kv-cache-memory-bytes", "64M") as serving:
        serving.complete("warm up", max_tokens=8)
        serving.wait_idle()
        time.sleep(3)  # what a finished request still does
        pids = {**serving.pids(), "serve": serving.process.pid}
        before = {name: cluster.cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(IDLE_S)
        shares = {name: 100 * (cluster.cpu_seconds(pid) - before[name]) / IDLE_S for name, pid in pids.items()}
        print("  % of a core: " + ", ".join(f"{name} {share:.2f}" for name, share in sorted(shares.items())))
        assert shares["serve"] == 0, "an idle supervisor uses CPU"
        assert sum(shares.values()) < 2, shares


class DirectClient:
    """Speaks Pipeline/Attach with a coordinator as a router does: what a first token costs without a router."""

    def __init__(self, address):
        import grpc
        self.pb = cluster.internal_pipeline_proto()
        self.outgoing = queue.Queue()
        self.channel = grpc.insecure_channel(address)
        attach = self.channel.stream_stream("/pagoda.internal.v1.Pipeline/Attach",
                                            request_serializer=self.pb.RouterMessage.SerializeToString,
                                            response_deserializer=self.pb.CoordinatorMessage.FromString)
        self.incoming = attach(iter(self.outgoing.get, None))
        self.outgoing.put(self.pb.RouterMessage(hello=self.pb.RouterHello(router="idle-test", protocol=1)))
        for message in self.incoming:
            ready = [p for p in message.snapshot.pipelines if p.ready]
            if ready:
                self.pipeline = ready[0].pipeline
                break

    def first_token_ms(self, number, prompt):
        submit = self.pb.Submit(pipeline=self.pipeline, prompt=prompt, attempt=1)
        submit.request.high, submit.request.low = 77, number
        submit.choices.add()
        sampling = submit.sampling
        sampling.top_p = sampling.typical_p = sampling.repetition_penalty = 1
        sampling.max_tokens = 1
        sampling.logprobs = sampling.prompt_logprobs = -1
        started = time.perf_counter()
        self.outgoing.put(self.pb.RouterMessage(submit=submit))
        for message in self.incoming:
            assert message.WhichOneof("kind") != "refused", message
            if message.WhichOneof("kind") == "tokens":
                return (time.perf_counter() - started) * 1000
        raise AssertionError("the stream ended")

    def close(self):
        self.outgoing.put(None)
        self.channel.close()


def router_adds_little_to_the_first_token():
    """The same client library on both ways, turn by turn: straight to the coordinator, and through the router."""
    import grpc
    _, inference = cluster.protos()
    with Cluster("--pipeline-parallel-size", "1", "--kv-cache-memory-bytes", "64M") as serving:
        direct = DirectClient(serving.coordinator)
        channel = grpc.insecure_channel(serving.grpc_address)
        generate = channel.unary_stream("/pagoda.v1.Inference/Generate",
                                        request_serializer=inference.GenerateRequest.SerializeToString,
                                        response_deserializer=inference.GenerateResponse.FromString)
        rounds = []
        straight, routed = [], []
        for i in range(360):
            prompt = [1000 + i, 2000 + i, 3000 + i, 4000 + i]
            straight.append(direct.first_token_ms(i, prompt))
            request = inference.GenerateRequest(model=serving.name, tokens=inference.TokenPrompt(token_ids=prompt[::-1]))
            request.stopping.max_tokens = 1
            request.sampling.temperature = 0
            started = time.perf_counter()
            for response in generate(request):
                if response.token_ids:
                    routed.append((time.perf_counter() - started) * 1000)
                    break
            if len(routed) == 120:
                rounds.append((statistics.median(straight[20:]), statistics.median(routed[20:])))
                straight, routed = [], []
        direct.close()
        channel.close()
    for without, through in rounds:
        print(f"  first token p50: {without:.2f} ms from the coordinator, {through:.2f} ms through the router")
    # Others may use this machine: the best of three rounds counts.
    assert min(through - without for without, through in rounds) < 1, rounds


if __name__ == "__main__":
    cluster.run(idle_takes_no_cpu, router_adds_little_to_the_first_token)
