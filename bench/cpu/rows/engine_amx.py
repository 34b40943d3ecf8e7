"""Peers that are only worth their while where there is AMX; left out elsewhere. Not run yet: no such machine was at hand."""

from bench.cpu.harness import amx_peers
from bench.cpu.harness.engine_rows import Bar, ours, prepare
from bench.cpu.harness.row import Contestant, Row


def openvino_prefill(context):
    return 512 / amx_peers.openvino(context, context.models.default(), 1, 512, 1)


def openvino_streams(context):
    model = context.models.default()
    alone = amx_peers.openvino(context, model, 32, 64, 1)  # prompts and first tokens
    return 32 * 64 / (amx_peers.openvino(context, model, 32, 64, 65) - alone)


ROWS = [
    Row(name="engine_amx_prefill_512", title="Prefill of 512 tokens against OpenVINO GenAI", unit="tokens/s", needs=("amx_int8",),
        contestants=[ours("Q4_1", 512, 1, repeat=4), Contestant("OpenVINO GenAI Q4_1", openvino_prefill)],
        bars=[Bar(1.2, ("OpenVINO GenAI Q4_1",))], prepare=prepare("Q4_1")),
    Row(name="engine_amx_32_streams", title="32 streams decoding against OpenVINO GenAI", unit="tokens/s", needs=("amx_int8",),
        contestants=[ours("Q4_1", 64, 65, 32), Contestant("OpenVINO GenAI Q4_1", openvino_streams)],
        bars=[Bar(1.6, ("OpenVINO GenAI Q4_1",))], prepare=prepare("Q4_1")),
]
