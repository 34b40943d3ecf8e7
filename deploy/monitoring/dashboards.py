#!/usr/bin/env python3
"""Builds the Grafana dashboards of the chart (deploy/helm/pagoda/files/dashboards) with grafana-foundation-sdk.

usage: dashboards.py [FOLDER]      writes one JSON file each; the committed files are this script's output and a test compares them
"""
import itertools
import pathlib
import sys

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync, DataSourceRef, VariableHide, VariableRefresh, VariableSort)

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE.parent / "helm/pagoda/files/dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

SPACE = 'namespace=~"$namespace"'
MODEL = SPACE + ',model_name=~"$model_name"'
TENANT = SPACE + ',tenant=~"$tenant"'
USERS = SPACE + ',endpoint!="other"'  # "other" is probes, scrapes and paths that are not there
RATE = "$__rate_interval"

# Units as Grafana names them.
SECONDS, PER_SECOND, REQUESTS, PERCENT, COUNT, BYTES, BYTES_RATE = "s", "cps", "reqps", "percentunit", "short", "bytes", "Bps"
CELSIUS, WATTS = "celsius", "watt"


def rate(metric, match=SPACE, by=""):
    return f"sum by ({by}) (rate({metric}{{{match}}}[{RATE}]))" if by else f"sum(rate({metric}{{{match}}}[{RATE}]))"


def quantiles(metric, match=SPACE, by="", legend="", of=(0.5, 0.9, 0.99)):
    """One query per quantile of a histogram, summed over everything but `by`."""
    keys = f"{by}, le" if by else "le"
    return [(f"histogram_quantile({q}, sum by ({keys}) (rate({metric}_bucket{{{match}}}[{RATE}])))",
             f"p{q * 100:.0f}" + (f" {legend}" if legend else "")) for q in of]


def mean(metric, match=SPACE, by=""):
    return f"{rate(metric + '_sum', match, by)} / {rate(metric + '_count', match, by)}"


def query(expression, legend, index):
    return (prometheus.Dataquery().datasource(SOURCE).ref_id(chr(ord("A") + index)).expr(expression).legend_format(legend)
            .range().editor_mode("code"))


def graph(title, unit, queries, description, width=8, height=8, low=0.0, high=None, stacked=False):
    panel = (timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(height)
             .min(low).line_width(1).fill_opacity(25 if stacked else 8)
             .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
                     .show_legend(True))
             .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)))
    if high is not None:
        panel = panel.max(high)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode("normal").group("A"))
    for index, (expression, legend) in enumerate(queries):
        panel = panel.with_target(query(expression, legend, index))
    return panel


def number(title, unit, expression, description, width=4):
    return (stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(4)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
            .with_target(query(expression, title, 0)))


def board(name, title, description, rows, with_namespace=True, with_model=False, with_tenant=False, with_node=False):
    built = (dashboard.Dashboard(title).uid(f"pagoda-{name}").description(description).tags(["pagoda"]).editable()
             .timezone("browser").refresh("30s").time("now-1h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
             .link(dashboard.DashboardLink("Pagoda").type("dashboards").tags(["pagoda"]).as_dropdown(True).keep_time(True)
                   .include_vars(True))
             .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")))
    if with_namespace:
        built = built.with_variable(label_values("namespace", "Namespace", "label_values(pagoda_coordinator_routers, namespace)"))
    if with_node:
        built = built.with_variable(label_values("node", "Node", "label_values(DCGM_FI_DEV_GPU_UTIL, Hostname)"))
    if with_model:
        built = built.with_variable(label_values(
            "model_name", "Model", 'label_values(pagoda_kv_blocks{namespace=~"$namespace"}, model_name)'))
    if with_tenant:
        built = built.with_variable(label_values(
            "tenant", "Tenant", 'label_values(pagoda_router_tenant_output_tokens_total{namespace=~"$namespace"}, tenant)'))
    ids = itertools.count(1)
    for row, panels in rows:
        built = built.with_row(dashboard.Row(row).id(next(ids)))
        for panel in panels:
            built = built.with_panel(panel.id(next(ids)))
    return name, built.build()


def label_values(name, label, expression):
    return (dashboard.QueryVariable(name).label(label).query(expression).datasource(SOURCE).refresh(
        VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True)
        .all_value(".*").hide(VariableHide.DONT_HIDE))


def overview():
    requests = rate("pagoda_router_requests_total", USERS)
    errors = rate("pagoda_router_requests_total", USERS + ',code=~"5.."')
    return board("overview", "Pagoda / Overview", "The four golden signals of a Pagoda cluster.", [
        ("Now", [
            number("Requests", REQUESTS, requests, "Clients' requests that ended; probes and scrapes are not counted."),
            number("Errors", PERCENT, f"{errors} / ({requests} > 0) or vector(0)", "Share that ended with a 5xx."),
            number("Output", PER_SECOND, rate("pagoda_router_output_tokens_total"), "Tokens sent, each second."),
            number("In flight", COUNT, f"sum(pagoda_router_requests_in_flight{{{SPACE}}})", "Generations accepted and not ended."),
            number("Waiting", COUNT, f"sum(pagoda_waiting_sequences{{{SPACE}}})", "Sequences in the pipelines' queues."),
            number("Pipelines", COUNT, f"sum(max by (model_name) (pagoda_router_pipelines_ready{{{SPACE}}}))",
                   "Pipelines that take work.")]),
        ("Traffic", [
            graph("Requests by outcome", REQUESTS, [(f"sum by (code) (rate(pagoda_router_requests_total{{{USERS}}}[{RATE}])) > 0",
                                                     "{{code}}")], "HTTP codes; gRPC statuses are shown as the code they map to.",
                  stacked=True),
            graph("Requests by endpoint", REQUESTS,
                  [(f"sum by (endpoint) (rate(pagoda_router_requests_total{{{USERS}}}[{RATE}])) > 0", "{{endpoint}}")],
                  "What clients call; probes and scrapes are not counted.", stacked=True),
            graph("Tokens by model", PER_SECOND,
                  [(rate("pagoda_prompt_tokens_total", by="model_name"), "in {{model_name}}"),
                   (rate("pagoda_generation_tokens_total", by="model_name"), "out {{model_name}}")],
                  "Prompt tokens admitted and tokens generated.")]),
        ("Latency", [
            graph("Time to first token", SECONDS, quantiles("pagoda_router_time_to_first_token_seconds"),
                  "From the receipt of a request to its first token, at the router."),
            graph("Between tokens", SECONDS, quantiles("pagoda_router_inter_token_latency_seconds"),
                  "Time between news of one request over their tokens, at the router."),
            graph("Whole request", SECONDS,
                  quantiles("pagoda_router_request_duration_seconds", SPACE + ',endpoint=~"/v1/.*completions|grpc.Generate"'),
                  "Generations only.")]),
        ("Latency by model", [
            graph("First token by model, p90", SECONDS,
                  quantiles("pagoda_router_time_to_first_token_seconds", SPACE, "model_name", "{{model_name}}", (0.9,)),
                  "From the receipt of a request to its first token, at the router."),
            graph("Between tokens by model, p90", SECONDS,
                  quantiles("pagoda_router_inter_token_latency_seconds", SPACE, "model_name", "{{model_name}}", (0.9,)),
                  "Time between news of one request over their tokens, at the router.")] + [
            graph(title, SECONDS, quantiles(f"pagoda_request_{part}_seconds", SPACE, "model_name", "{{model_name}}", (0.9,)), description)
            for title, part, description in (("Queue, p90", "queue", "From arrival to the first scheduled row, at the coordinator."),
                                             ("Prefill, p90", "prefill", "From there to the first token."),
                                             ("Decode, p90", "decode", "From the first token to the last."))]),
        ("Saturation", [
            graph("Sequences", COUNT, [(f"sum by (model_name) (pagoda_running_sequences{{{SPACE}}})", "running {{model_name}}"),
                                       (f"sum by (model_name) (pagoda_waiting_sequences{{{SPACE}}})", "waiting {{model_name}}")],
                  "Running ones have a slot on the workers."),
            graph("KV blocks in use", PERCENT,
                  [(f"sum by (model_name) (pagoda_kv_blocks_used{{{SPACE}}}) / sum by (model_name) (pagoda_kv_blocks{{{SPACE}}})",
                    "{{model_name}}")], "Share of the pool that running sequences hold.", high=1),
            graph("Workers", COUNT, [(f"sum by (state) (pagoda_coordinator_workers{{{SPACE}}})", "{{state}}")],
                  "As the coordinator knows them.", stacked=True)]),
    ])


def pipeline():
    worker = SPACE
    waiting = MODEL + ',phase=~"wait_in|group_wait"'
    return board("pipeline", "Pagoda / Pipelines", "Steps, stages and links.", [
        ("Steps", [
            graph("Step time", SECONDS, quantiles("pagoda_step_seconds", MODEL), "From a micro-batch's dispatch to its result."),
            graph("Steps", PER_SECOND, [(rate("pagoda_steps_total", MODEL, "model_name, pipeline"), "{{model_name}} {{pipeline}}")],
                  "Micro-batches dispatched, each second."),
            graph("Rows of a step", COUNT,
                  [(f"{rate('pagoda_step_rows_total', MODEL, 'model_name, pipeline')} / "
                    f"{rate('pagoda_steps_total', MODEL, 'model_name, pipeline')}", "{{model_name}} {{pipeline}}")],
                  "Token rows of a micro-batch, on average: the batch that the workers see."),
            graph("Surplus rows", PERCENT,
                  [(f"{rate('pagoda_surplus_rows_total', MODEL, 'model_name')} / {rate('pagoda_step_rows_total', MODEL, 'model_name')}",
                    "{{model_name}}")], "Share of rows computed for sequences that had ended already.", high=1)]),
        ("Stages", [
            graph("Step time by stage", SECONDS, [(mean("pagoda_worker_step_seconds", MODEL, "model_name, stage"), "{{model_name}} stage {{stage}}")],
                  "Wall time of one step on a rank, on average; the slowest stage sets the pace."),
            graph("Where a step's time goes", SECONDS,
                  [(mean("pagoda_worker_step_phase_seconds", MODEL, "model_name, stage, phase"), "{{model_name}} stage {{stage}} {{phase}}")],
                  "wait_in: for hidden states or tokens; group_wait: for ranks of the group.", stacked=True),
            graph("Bubble", PERCENT,
                  [(f"{rate('pagoda_worker_step_phase_seconds_sum', waiting, 'model_name, stage, rank')} / "
                    f"{rate('pagoda_worker_step_seconds_sum', MODEL, 'model_name, stage, rank')}", "{{model_name}} stage {{stage}} rank {{rank}}")],
                  "Share of a step in which a rank waits for others.", high=1),
            graph("Rows", PER_SECOND, [(rate("pagoda_worker_rows_total", MODEL, "model_name, stage, rank"), "{{model_name}} stage {{stage}} rank {{rank}}")],
                  "Token rows through a rank's layers."),
            graph("Bytes sent", BYTES_RATE,
                  [(rate("pagoda_worker_sent_bytes_total", MODEL, "model_name, stage, rank"), "{{model_name}} stage {{stage}} rank {{rank}}")],
                  "To other ranks: hidden states, collectives, tokens."),
            graph("Memory", BYTES, [(f"sum(pagoda_worker_weights_bytes{{{worker}}})", "weights"),
                                    (f"sum(pagoda_worker_kv_cache_bytes{{{worker}}})", "KV cache")],
                  "Of all workers.", stacked=True)]),
        ("Failures", [
            graph("Workers registered", COUNT, [(f"sum(pagoda_worker_connected{{{worker}}})", "registered"),
                                                (f"count(pagoda_worker_connected{{{worker}}})", "scraped")],
                  "Workers that say they are registered, and those that Prometheus reaches."),
            graph("Failed epochs", COUNT, [(f"sum(increase(pagoda_worker_faults_total{{{worker}}}[{RATE}]))", "faults")],
                  "Epochs that workers saw fail, each counted by every worker of the pipeline."),
            graph("Epochs", COUNT, [(f"sum by (model_name, pipeline) (pagoda_epochs_total{{{MODEL}}})", "{{model_name}} {{pipeline}}")],
                  "Assemblies of each pipeline that is there."),
            graph("Streams moved", REQUESTS,
                  [(rate("pagoda_router_retries_total", SPACE + ',reason=~"pipeline_lost|coordinator_lost|resumed"', "reason"), "{{reason}}")],
                  "Streams submitted again, with their tokens, because what they ran on was lost, or their client came back.", stacked=True),
            graph("Faults found", COUNT,
                  [(f"sum(increase(pagoda_coordinator_faults_total{{{SPACE}}}[{RATE}])) or vector(0)", "faults")],
                  "Workers that the coordinator found dead, wedged, slow or cut off."),
            graph("Coordinators", COUNT,
                  [(f"sum(pagoda_coordinator_leading{{{SPACE}}})", "lead"), (f"count(pagoda_coordinator_leading{{{SPACE}}})", "scraped")],
                  "One of them leads; none does for the moment in which a standby takes over."),
            graph("Tokens of failed-over sequences", PER_SECOND,
                  [(rate("pagoda_resumed_tokens_kept_total", MODEL), "KV still there"),
                   (rate("pagoda_resumed_tokens_recomputed_total", MODEL), "computed again")],
                  "What a failure costs: tokens of sequences that ran before, by whether their KV survived.", stacked=True)]),
    ], with_model=True)


def cache():
    return board("kv-cache", "Pagoda / KV and prefix cache", "Blocks, prefix hits, preemptions.", [
        ("Blocks", [
            graph("Blocks", COUNT, [(f"sum(pagoda_kv_blocks_used{{{MODEL}}})", "in use"),
                                    (f"sum(pagoda_kv_blocks_cached{{{MODEL}}})", "cached only"),
                                    (f"sum(pagoda_kv_blocks{{{MODEL}}})", "all")], "KV blocks of the pipelines' pools."),
            graph("In use", PERCENT,
                  [(f"sum by (model_name, pipeline) (pagoda_kv_blocks_used{{{MODEL}}}) / "
                    f"sum by (model_name, pipeline) (pagoda_kv_blocks{{{MODEL}}})", "{{model_name}} {{pipeline}}")],
                  "By pipeline.", high=1),
            graph("Preemptions", PER_SECOND, [(rate("pagoda_preemptions_total", MODEL, "model_name"), "{{model_name}}")],
                  "Sequences sent back to the queue for want of blocks.")]),
        ("Prefix cache", [
            graph("Hit ratio", PERCENT,
                  [(f"{rate('pagoda_prefix_cache_hit_tokens_total', MODEL, 'model_name')} / "
                    f"{rate('pagoda_prefix_cache_query_tokens_total', MODEL, 'model_name')}", "{{model_name}}")],
                  "Prompt tokens found in the cache over those looked up.", high=1),
            graph("Tokens looked up", PER_SECOND,
                  [(rate("pagoda_prefix_cache_hit_tokens_total", MODEL), "hit"),
                   (f"{rate('pagoda_prefix_cache_query_tokens_total', MODEL)} - "
                    f"{rate('pagoda_prefix_cache_hit_tokens_total', MODEL)}", "computed")],
                  "Prompt tokens by where they came from.", stacked=True),
            number("Leaked blocks", COUNT, f"sum(pagoda_coordinator_leaked_blocks{{{MODEL}}})",
                   "Blocks in use although nothing runs: always 0.", width=8)]),
    ], with_model=True)


def router():
    return board("router", "Pagoda / Routers", "What the front ends see.", [
        ("Load", [
            graph("In flight", COUNT, [(f"pagoda_router_requests_in_flight{{{SPACE}}}", "{{pod}} {{instance}}")],
                  "Generations accepted and not ended, by router."),
            graph("Connections", COUNT, [(f"pagoda_router_connections{{{SPACE}}}", "{{pod}} {{instance}}")],
                  "Open HTTP connections, by router."),
            graph("Coordinators attached", COUNT, [(f"pagoda_router_coordinators_attached{{{SPACE}}}", "{{pod}} {{instance}}")],
                  "0 means that this router serves nothing.")]),
        ("Refused, cut, tried again", [
            graph("Refused", REQUESTS, [(rate("pagoda_router_rejected_total", by="reason"), "{{reason}}")],
                  "Requests refused, by reason.", stacked=True),
            graph("Refused by pipelines", REQUESTS, [(rate("pagoda_refused_requests_total", by="model_name"), "{{model_name}}")],
                  "A full queue, mostly; the router may try another pipeline."),
            graph("Cut short", REQUESTS, [(rate("pagoda_router_streams_cut_total", by="reason"), "{{reason}}")],
                  "Generations that ended before their time.", stacked=True),
            graph("Submitted again", REQUESTS, [(rate("pagoda_router_retries_total", by="reason"), "{{reason}}")],
                  "Submissions after the first.", stacked=True),
            graph("Resumed under another profile", REQUESTS, [(rate("pagoda_router_profile_changes_total"), "streams")],
                  "Streams that went on with other numerics: their tokens may differ."),
            graph("Ended choices", REQUESTS, [(rate("pagoda_finished_choices_total", by="reason"), "{{reason}}")],
                  "Choices that ended, by reason, at the coordinator.", stacked=True),
            graph("Circuits opened", REQUESTS, [(rate("pagoda_router_circuits_opened_total"), "circuits")],
                  "Pipelines that failed so often in a row that this router gave them no work for a while."),
            graph("Resumable streams", COUNT, [(f"sum(pagoda_coordinator_resumable_streams{{{SPACE}}})", "streams")],
                  "Streams that their clients may come back for, at the coordinators.")]),
        ("Sizes", [
            graph("Prompt tokens", COUNT, quantiles("pagoda_router_request_prompt_tokens"), "Of a request."),
            graph("Output tokens", COUNT, quantiles("pagoda_router_request_output_tokens"), "Of a request, all choices."),
            graph("Cached prompt tokens", PERCENT,
                  [(f"{rate('pagoda_router_cached_prompt_tokens_total')} / {rate('pagoda_router_prompt_tokens_total')}", "cached")],
                  "Share of prompt tokens that a prefix cache held already.", high=1)]),
    ])


def tenants():
    def name(metric):
        return f"pagoda_router_tenant_{metric}"
    requests, refused = rate(name("requests_total"), TENANT, "tenant"), TENANT + ',outcome="refused"'
    return board("tenants", "Pagoda / Tenants", "What each tenant of the API keys asks, gets and is refused, over all routers.", [
        ("Throughput", [
            graph("Requests by tenant", REQUESTS, [(requests, "{{tenant}}")], "Requests that ended, whatever became of them.", stacked=True),
            graph("Output tokens by tenant", PER_SECOND, [(rate(name("output_tokens_total"), TENANT, "tenant"), "{{tenant}}")],
                  "Tokens sent, each second.", stacked=True),
            graph("Prompt tokens by tenant", PER_SECOND, [(rate(name("prompt_tokens_total"), TENANT, "tenant"), "{{tenant}}")],
                  "Prompt tokens accepted, each second.", stacked=True)]),
        ("Latency", [
            graph("Time to first token, median", SECONDS, quantiles(name("time_to_first_token_seconds"), TENANT, "tenant", "{{tenant}}", (0.5,)),
                  "From the receipt of a tenant's request to its first token."),
            graph("Time to first token, p99", SECONDS, quantiles(name("time_to_first_token_seconds"), TENANT, "tenant", "{{tenant}}", (0.99,)),
                  "Of one request in a hundred. It rises for all when the cluster is full, for one when that one asks for much."),
            graph("Between tokens, p99", SECONDS, quantiles(name("inter_token_latency_seconds"), TENANT, "tenant", "{{tenant}}", (0.99,)),
                  "Time between news of one request over their tokens.")]),
        ("Refusals", [
            graph("Over the quota", REQUESTS, [(rate(name("quota_refusals_total"), TENANT, "tenant, quota"), "{{tenant}} {{quota}}")],
                  "Requests refused because a key had used its quota, at one of the routers.", stacked=True),
            graph("Refused", PERCENT, [(f"{rate(name('requests_total'), refused, 'tenant')} / ({requests} > 0)",
                                        "{{tenant}}")], "Share of requests that ended with 429 or 503: quota, a full queue, no pipeline.", high=1),
            graph("Errors by tenant", REQUESTS,
                  [(rate(name("requests_total"), TENANT + ',outcome=~"client_error|server_error"', "tenant, outcome"), "{{tenant}} {{outcome}}")],
                  "Other 4xx (clients that went away too) and other 5xx.", stacked=True)]),
    ], with_tenant=True)


def capacity():
    ratio = "namespace:pagoda_router_error_ratio:rate"
    return board("capacity", "Pagoda / Capacity and objectives", "Error budget (99.5%), queues, room left. Needs the recording rules.", [
        ("Objectives", [
            graph("Error budget burn", COUNT,
                  [(f"{ratio}{window}{{{SPACE}}} / 0.005", window) for window in ("5m", "30m", "1h", "6h")],
                  "1 uses up a month's budget in a month; alerts at 14.4 (1h and 5m) and 6 (6h and 30m).", width=12),
            graph("First token, p99", SECONDS,
                  [(f"namespace:pagoda_router_time_to_first_token_seconds:p99_5m{{{SPACE}}}", "p99 {{namespace}}")],
                  "Alerts at 10 s.", width=12)]),
        ("Where requests wait", [
            graph("Queue", SECONDS, quantiles("pagoda_request_queue_seconds", MODEL), "From arrival to the first scheduled row."),
            graph("Prefill", SECONDS, quantiles("pagoda_request_prefill_seconds", MODEL), "From there to the first token."),
            graph("Decode", SECONDS, quantiles("pagoda_request_decode_seconds", MODEL), "From the first token to the last.")]),
        ("Room", [
            graph("Queue, p90 by model", SECONDS, [(f"namespace_model:pagoda_queue_seconds:p90_5m{{{MODEL}}}", "{{model_name}}")],
                  "Alerts at 5 s."),
            graph("KV blocks in use", PERCENT, [(f"namespace_model:pagoda_kv_usage:ratio{{{MODEL}}}", "{{model_name}}")],
                  "Alerts at 95% with preemptions.", high=1),
            graph("Tokens generated", PER_SECOND, [(f"namespace_model:pagoda_generation_tokens:rate5m{{{MODEL}}}", "{{model_name}}")],
                  "Over five minutes.")]),
    ], with_model=True)


def gpu():
    """Of NVIDIA's dcgm-exporter, which runs once per node; its namespace is its own."""
    def device(*metrics, by="sum", more=""):
        series = " + ".join(f'{by} by (Hostname, gpu) ({metric}{{Hostname=~"$node"}})' for metric in metrics)
        return [(series + more, "{{Hostname}} GPU {{gpu}}")]
    used, free = (device(f"DCGM_FI_DEV_FB_{which}")[0][0] for which in ("USED", "FREE"))
    return board("gpu", "Pagoda / GPUs", "Devices of the workers' nodes, as NVIDIA's dcgm-exporter shows them.", [
        ("Work", [
            graph("Busy", PERCENT, device("DCGM_FI_DEV_GPU_UTIL", by="avg", more=" / 100"), "Share of time in which a kernel ran.", high=1),
            graph("Tensor cores", PERCENT, device("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", by="avg"), "Share of cycles in which they worked: prefill.", high=1),
            graph("Memory bandwidth", PERCENT, device("DCGM_FI_PROF_DRAM_ACTIVE", by="avg"), "Share of cycles that moved data: decode.", high=1)]),
        ("Memory and links", [
            graph("Memory in use", PERCENT, [(f"{used} / ({used} + {free})", "{{Hostname}} GPU {{gpu}}")], "Weights, KV cache, workspace.", high=1),
            graph("NVLink", BYTES_RATE, device("DCGM_FI_PROF_NVLINK_TX_BYTES", "DCGM_FI_PROF_NVLINK_RX_BYTES"), "Between GPUs of a host: collectives. The exporter has to be told to read these counters (--collectors)."),
            graph("PCIe", BYTES_RATE, device("DCGM_FI_PROF_PCIE_TX_BYTES", "DCGM_FI_PROF_PCIE_RX_BYTES"), "To and from the host.")]),
        ("Health", [
            graph("Temperature", CELSIUS, device("DCGM_FI_DEV_GPU_TEMP", by="avg"), "Of the chip."),
            graph("Power", WATTS, device("DCGM_FI_DEV_POWER_USAGE", by="avg"), "Drawn by the device."),
            graph("Last error", COUNT, device("DCGM_FI_DEV_XID_ERRORS", by="max"), "XID of the device's last error; 0: none.")]),
    ], with_namespace=False, with_node=True)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, built in (overview(), pipeline(), cache(), router(), tenants(), capacity(), gpu()):
        (folder / f"{name}.json").write_text(JSONEncoder(sort_keys=True, indent=1).encode(built) + "\n")


if __name__ == "__main__":
    main()
