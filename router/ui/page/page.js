// Puts the page together: one stream of events from the router, kept up; what it tells is drawn.
import {Chart, element, milliseconds, number} from "./charts.js";
import {drawClusters, totals} from "./cluster.js";
import {loadModels, serverEvents, startPlayground} from "./playground.js";

const byId = (id) => document.getElementById(id);
const KEY = "pagoda-admin-key";
const HISTORY = 300;
const KEPT_EVENTS = 200;

const clusters = new Map();  // link -> ClusterState
let samples = [];
let happened = [];           // newest first: {at, kind, text}

const charts = [
  new Chart(byId("chart-grid"), "Tokens", "per second", [{key: "output_tokens", name: "out"}, {key: "prompt_tokens", name: "in"}]),
  new Chart(byId("chart-grid"), "Time to first token", "ms", [{key: "first_token_p50_ms", name: "p50"}, {key: "first_token_p95_ms", name: "p95"}], milliseconds),
  new Chart(byId("chart-grid"), "Between tokens", "ms", [{key: "inter_token_p50_ms", name: "p50"}, {key: "inter_token_p95_ms", name: "p95"}], milliseconds),
  new Chart(byId("chart-grid"), "Requests in flight, submitted again", "count", [{key: "in_flight", name: "in flight"}, {key: "retries", name: "again"}]),
];

function drawTiles() {
  const sums = totals(clusters);
  const last = samples[samples.length - 1] ?? {};
  const recent = samples.filter((sample) => sample.first_token_p95_ms !== null).at(-1);
  const tile = (name, value, small = "", kind = "") =>
    element("div", {}, element("dt", {}, name), element("dd", {class: kind}, value, small ? element("small", {}, " " + small) : null));
  byId("tiles").replaceChildren(
    tile("Pipelines ready", `${sums.ready} of ${sums.pipelines}`, "", sums.ready < sums.pipelines ? "bad" : ""),
    tile("Workers", number(sums.workers), sums.lost ? `${sums.lost} lost` : "", sums.lost ? "warn" : ""),
    tile("Running", number(sums.running), `${number(sums.waiting)} waiting`),
    tile("Output", number(last.output_tokens ?? 0), "tok/s"),
    tile("First token, p95", recent ? milliseconds(recent.first_token_p95_ms) : "–"),
    tile("KV cache", sums.blocks ? `${Math.round(100 * sums.used / sums.blocks)}%` : "–", "in use"));
}

const EVENT_KIND = {worker_lost: "bad", epoch_ended: "bad", worker_fault: "bad", failover: "warn", connection: "warn",
                    pipeline_ready: "good", worker_joined: "good"};

function tellEvent(at, kind, text) {
  happened.push({at, kind, text});
  happened.sort((a, b) => b.at - a.at);
  happened = happened.slice(0, KEPT_EVENTS);
  byId("event-list").replaceChildren(...happened.map((event) => {
    const when = new Date(event.at);
    return element("li", {"data-kind": event.kind}, element("time", {datetime: when.toISOString()}, when.toLocaleTimeString([], {hour12: false})),
      element("span", {class: EVENT_KIND[event.kind] ?? ""}, event.kind.replaceAll("_", " ")), element("span", {}, event.text));
  }));
}

function addSample(sample) {
  samples.push(sample);
  samples = samples.slice(-HISTORY);
  if (sample.retries > 0) tellEvent(1000 * sample.unix_s, "failover", `${number(sample.retries)} streams were submitted again in this second`);
}

const handlers = {
  hello(data) {
    byId("router-name").textContent = `${data.router}, version ${data.version}`;
    samples = [];
    happened = [];
    clusters.clear();
    data.history.forEach(addSample);
  },
  sample(data) {
    addSample(data);
    charts.forEach((chart) => chart.draw(samples));
    drawTiles();
  },
  cluster(data) {
    clusters.set(data.link, data.cluster);
    drawClusters(byId("coordinators"), clusters);
    drawTiles();
  },
  events(data) {
    for (const event of data.events) tellEvent(Number(event.unix_ms), event.kind, event.text);
    const bad = data.events.filter((event) => EVENT_KIND[event.kind] === "bad").at(-1);
    if (bad && Date.now() - Number(bad.unix_ms) < 10000) byId("announce").textContent = bad.text;
    loadModels();
  },
  lost(data) {
    const name = clusters.get(data.link)?.coordinator ?? "a coordinator";
    clusters.delete(data.link);
    tellEvent(Date.now(), "connection", `this router has lost ${name}`);
    byId("announce").textContent = `This router has lost ${name}`;
    drawClusters(byId("coordinators"), clusters);
    drawTiles();
  },
};

function setConnection(text, kind) {
  byId("connection").textContent = text;
  byId("connection").className = `pill ${kind}`;
}

// A key may be given at any time, also while the last one is being tried.
let keyGiven = () => {};
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("admin-key").value);
  byId("key-error").textContent = "";
  keyGiven();
});

// True when it ended because there is another key to try, at once.
async function followOnce() {
  const key = sessionStorage.getItem(KEY);
  const response = await fetch("/ui/events", {headers: key ? {Authorization: `Bearer ${key}`} : {}, cache: "no-store"});
  if (response.status === 401 || response.status === 403) {
    setConnection("needs a key", "warn");
    byId("key-form").hidden = false;
    byId("key-error").textContent = key ? "This key was not accepted." : "";
    if (sessionStorage.getItem(KEY) === key) await new Promise((resolve) => { keyGiven = resolve; });
    return true;
  }
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  byId("key-form").hidden = true;
  setConnection("live", "good");
  for await (const event of serverEvents(response)) handlers[event.type]?.(JSON.parse(event.data));
  return false;
}

async function follow() {
  for (let pause = 500;;) {
    const started = performance.now();
    try {
      if (await followOnce()) continue;
    } catch {
      // Told below.
    }
    if (byId("connection").textContent !== "needs a key") setConnection("not connected, trying again", "bad");
    pause = performance.now() - started > 5000 ? 500 : Math.min(2 * pause, 8000);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("pagoda-theme", root.dataset.theme);
});

startPlayground();
drawTiles();
charts.forEach((chart) => chart.draw(samples));
follow();
