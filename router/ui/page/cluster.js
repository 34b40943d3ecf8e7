// Draws what coordinators tell: deployments, pipelines as rows of stages, a box per rank, and workers without a place.
import {bytes, meter, number} from "./charts.js";
import {element, patch} from "./dom.js";

const WORKER_KIND = {ready: "good", loading: "warn", releasing: "warn", idle: "", lost: "bad"};
const PIPELINE_KIND = {ready: "good", assembling: "warn", draining: "warn", pending: "bad", failed: "bad"};

// Only these compute: what another pipeline says of tokens per second, or its ranks of steps, is from before.
const SERVES = new Set(["ready", "draining"]);
const HEARTBEAT_OLD_MS = 3000;  // a worker's step time is the mean of the second before its last heartbeat

const deploymentState = (text) => text.replace("DEPLOYMENT_STATE_", "").toLowerCase();
const clock = (at) => new Date(at).toLocaleTimeString([], {hour12: false});
const pill = (text, kind) => element("span", {class: `pill ${kind}`}, text);

function rankBox(worker, computes) {
  const kind = WORKER_KIND[worker.state] ?? "";
  const placed = Number(worker.pipeline) !== 0;
  const box = element("li", {class: `rank ${kind}`, "data-worker": worker.name, "data-state": worker.state},
    element("div", {class: "row"}, element("strong", {}, worker.name), element("span", {class: kind}, worker.state)),
    element("div", {class: "row quiet"}, element("span", {}, worker.host), element("span", {}, worker.cores === 1 ? "1 thread" : `${worker.cores} threads`)));
  if (worker.state === "loading") {
    const share = worker.load_progress;
    box.append(element("div", {class: "row"}, `loading, ${Math.round(100 * share)}%`), meter(share, `loaded ${Math.round(100 * share)} percent`));
  }
  if (placed && worker.state === "ready") {
    const known = computes && !(worker.heartbeat_age_ms > HEARTBEAT_OLD_MS);
    const waits = known && worker.step_ms > 0 ? worker.wait_ms / worker.step_ms : 0;
    box.append(
      element("div", {class: "row"}, element("span", {}, known ? `step ${number(worker.step_ms)} ms` : "step –"),
              element("span", {}, known ? `waits ${Math.round(100 * waits)}%` : "waits –"),
              element("span", {}, known ? `sends ${bytes(worker.sent_bytes_per_s)}/s` : "sends –")),
      meter(waits, known ? `waits ${Math.round(100 * waits)} percent of a step` : "how long it waits is not known", "other"),
      element("div", {class: "row quiet"}, `weights ${bytes(Number(worker.weights_bytes))}, KV ${bytes(Number(worker.kv_bytes))}`));
  }
  return box;
}

function stageColumns(pipeline, workers, computes) {
  const stages = new Map();
  for (const worker of workers) {
    if (worker.pipeline !== pipeline.id) continue;
    if (!stages.has(worker.stage)) stages.set(worker.stage, []);
    stages.get(worker.stage).push(worker);
  }
  const columns = [...stages.keys()].sort((a, b) => a - b).map((stage) => {
    const ranks = stages.get(stage).sort((a, b) => a.rank - b.rank);
    const layers = ranks[0].layer_end > ranks[0].layer_begin ? `layers ${ranks[0].layer_begin}–${ranks[0].layer_end - 1}` : "";
    const size = ranks.length > 1 ? `${ranks.length} ranks` : "1 rank";
    return element("li", {}, element("h4", {}, ["stage " + stage, layers, size].filter(Boolean).join(" · ")),
                   element("ul", {class: "ranks", "aria-label": `Ranks of stage ${stage}`}, ...ranks.map((worker) => rankBox(worker, computes))));
  });
  return columns.length ? element("ol", {class: "stages", "aria-label": `Stages of pipeline ${pipeline.id}`}, ...columns) : null;
}

function pipelineCard(pipeline, cluster, fresh) {
  const computes = fresh && SERVES.has(pipeline.state);
  const rate = (value) => computes ? number(value) + " tok/s" : "–";
  const total = pipeline.blocks_total, used = pipeline.blocks_used;
  const share = total > 0 ? used / total : 0;
  const asked = Number(pipeline.prefix_query_tokens);
  const fact = (name, value) => element("li", {}, name + " ", element("b", {}, value));
  const deployment = cluster.deployments.find((entry) => entry.spec.name === pipeline.deployment);
  const message = pipeline.state !== "ready" && deployment ? deployment.message : "";
  return element("article", {class: "card", "data-pipeline": pipeline.id, "data-state": pipeline.state},
    element("div", {class: "card-head"}, element("h3", {}, `Pipeline ${pipeline.id}: ${pipeline.deployment}`),
            pill(pipeline.state, PIPELINE_KIND[pipeline.state] ?? ""), element("span", {class: "quiet"}, `epoch ${pipeline.epoch}`)),
    message ? element("p", {class: "message"}, message) : null,
    element("ul", {class: "facts"},
      fact("running", computes ? number(pipeline.running) : "–"), fact("waiting", fresh ? number(pipeline.waiting) : "–"),
      fact("in", rate(pipeline.prompt_tokens_per_s)), fact("out", rate(pipeline.output_tokens_per_s)),
      fact("prefix hits", asked > 0 ? Math.round(100 * Number(pipeline.prefix_hit_tokens) / asked) + "%" : "–"),
      fact("preempted", number(Number(pipeline.preemptions))),
      fact("context", number(Number(pipeline.max_model_len)) + " tokens"),
      fact("KV", computes && total > 0 ? `${number(used)} of ${number(total)} blocks (${Math.round(100 * share)}%)` : "–")),
    computes && total > 0 ? meter(share, `KV cache ${Math.round(100 * share)} percent in use`) : null,
    stageColumns(pipeline, cluster.workers, computes));
}

function deploymentTable(cluster) {
  const head = element("tr", {}, ...["Deployment", "State", "Replicas", "Stages", "Context", "Message"].map((text) => element("th", {scope: "col"}, text)));
  const rows = cluster.deployments.map((entry) => {
    const state = deploymentState(entry.state);
    const kind = {ready: "good", degraded: "warn", rolling: "warn", draining: "warn", loading: "warn", pending: "bad", failed: "bad"}[state] ?? "";
    return element("tr", {}, element("td", {}, entry.spec.name), element("td", {class: kind}, state),
      element("td", {}, `${entry.replicas_ready} of ${entry.spec.replicas}`), element("td", {}, number(entry.spec.pipeline_parallel_size || 1)),
      element("td", {}, Number(entry.max_model_len) ? number(Number(entry.max_model_len)) : "–"), element("td", {}, entry.message));
  });
  return element("div", {class: "card scroll", role: "region", "aria-label": "Deployments", tabindex: 0}, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function coordinatorBlock({cluster, fresh, at}) {
  const others = cluster.workers.filter((worker) => Number(worker.pipeline) === 0);
  return element("div", {},
    element("p", {class: "quiet"}, `coordinator ${cluster.coordinator}${cluster.leader ? " (leader)" : ""}, version ${cluster.version}`),
    fresh ? null : element("p", {class: "message"}, `Last heard of at ${clock(at)}: what is shown may have changed since, and nothing is known of now.`),
    ...cluster.pipelines.map((pipeline) => pipelineCard(pipeline, cluster, fresh)),
    others.length ? element("div", {class: "card"}, element("h3", {}, "Workers without a place"),
                            element("ul", {class: "others"}, ...others.map((worker) => rankBox(worker, false)))) : null,
    deploymentTable(cluster));
}

// Each entry: {cluster, fresh, at (milliseconds since 1970)}.
export function drawClusters(parent, clusters) {
  if (clusters.size === 0) {
    patch(parent, [element("p", {class: "bad"}, "No coordinator is attached to this router.")]);
    return;
  }
  patch(parent, [...clusters.values()].map(coordinatorBlock));
}

// What the tiles show; null when nothing is known of now.
export function totals(clusters) {
  const known = [...clusters.values()].filter((entry) => entry.fresh);
  if (known.length === 0) return null;
  const sums = {pipelines: 0, ready: 0, workers: 0, lost: 0, running: 0, waiting: 0, used: 0, blocks: 0};
  for (const {cluster} of known) {
    for (const pipeline of cluster.pipelines) {
      sums.pipelines += 1;
      sums.ready += pipeline.state === "ready";
      sums.waiting += pipeline.waiting;
      if (!SERVES.has(pipeline.state)) continue;
      sums.running += pipeline.running;
      sums.used += pipeline.blocks_used;
      sums.blocks += pipeline.blocks_total;
    }
    for (const worker of cluster.workers) {
      sums.lost += worker.state === "lost";
      sums.workers += worker.state !== "lost";
    }
  }
  return sums;
}
