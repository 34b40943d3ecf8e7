"""A streamed generation over gRPC, with messages made by protoc.

    mkdir -p /tmp/pagoda_py
    protoc -I proto --python_out=/tmp/pagoda_py proto/pagoda/v1/*.proto
    PYTHONPATH=/tmp/pagoda_py python generate_grpc.py [127.0.0.1:8001] [prompt]
"""
import sys

import grpc

from pagoda.v1 import inference_pb2, sampling_pb2

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
prompt = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"

# Long prompts are larger than gRPC's default of 4 MiB; pings below 10 s apart would be refused by the server.
options = [("grpc.max_send_message_length", 64 << 20), ("grpc.keepalive_time_ms", 30_000)]
with grpc.insecure_channel(address, options=options) as channel:
    generate = channel.unary_stream(
        "/pagoda.v1.Inference/Generate",
        request_serializer=inference_pb2.GenerateRequest.SerializeToString,
        response_deserializer=inference_pb2.GenerateResponse.FromString,
    )
    request = inference_pb2.GenerateRequest(text=prompt)
    request.sampling.temperature = 0
    request.stopping.max_tokens = 100
    try:
        for response in generate(request, timeout=120):  # always set a deadline; leaving the loop cancels
            print(response.text, end="", flush=True)
            if response.HasField("finish"):
                reason = sampling_pb2.FinishReason.Name(response.finish.reason)
                print(f"\n[{response.finish.output_tokens} tokens, {reason}]")
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        sys.exit(f"{error.code().name}: {error.details()} (retry after {trailers.get('retry-after-ms', '-')} ms)")
