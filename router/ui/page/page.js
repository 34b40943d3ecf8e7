// Puts the page together: one stream of events from the router, kept up; what it tells is drawn.
import {Chart, milliseconds, number} from "./charts.js";
import {drawClusters, totals} from "./cluster.js";
import {element, patch, svg} from "./dom.js";
import {loadModels, serverEvents, startPlayground} from "./playground.js";

const byId = (id) => document.getElementById(id);
const KEY = "pagoda-admin-key";
const HISTORY = 300;
const KEPT_EVENTS = 200;
const OLD_MS = 5000;         // coordinators tell every second: what is older says nothing of now
const RECENT_SECONDS = 10;

const clusters = new Map();  // link -> {cluster, fresh, at}
let samples = [];
let happened = [];           // newest first: {at, kind, text}
let live = false;            // the router's stream is there
let paused = false;          // what comes is kept, and drawn later

const charts = [
  new Chart(byId("chart-grid"), "Tokens", "per second", [{key: "output_tokens", name: "out"}, {key: "prompt_tokens", name: "in"}]),
  new Chart(byId("chart-grid"), "Time to first token", "ms", [{key: "first_token_p50_ms", name: "p50"}, {key: "first_token_p95_ms", name: "p95"}], milliseconds),
  new Chart(byId("chart-grid"), "Between tokens", "ms", [{key: "inter_token_p50_ms", name: "p50"}, {key: "inter_token_p95_ms", name: "p95"}], milliseconds),
  new Chart(byId("chart-grid"), "Requests in flight, submitted again", "count", [{key: "in_flight", name: "in flight"}, {key: "retries", name: "again"}]),
];

function drawTiles() {
  if (paused) return;
  const sums = totals(clusters);
  const last = live ? samples.at(-1) : undefined;
  const recent = last && samples.filter((sample) => sample.first_token_p95_ms !== null && last.unix_s - sample.unix_s < RECENT_SECONDS).at(-1);
  const tile = (name, value, small = "", kind = "") =>
    element("div", {}, element("dt", {}, name), element("dd", {class: kind}, value, small ? element("small", {}, " " + small) : null));
  patch(byId("tiles"), [
    tile("Pipelines ready", sums ? `${sums.ready} of ${sums.pipelines}` : "–", "", sums && sums.ready < sums.pipelines ? "bad" : ""),
    tile("Workers", sums ? number(sums.workers) : "–", sums?.lost ? `${sums.lost} lost` : "", sums?.lost ? "warn" : ""),
    tile("Running", sums ? number(sums.running) : "–", sums ? `${number(sums.waiting)} waiting` : ""),
    tile("Output", last ? number(last.output_tokens) : "–", last ? "tok/s" : ""),
    tile("First token, p95", recent ? milliseconds(recent.first_token_p95_ms) : "–"),
    tile("KV cache", sums?.blocks ? `${Math.round(100 * sums.used / sums.blocks)}%` : "–", sums?.blocks ? "in use" : "")]);
}

function drawCluster(waiting = "") {
  if (waiting) {
    patch(byId("coordinators"), [element("p", {class: "quiet"}, waiting)]);
  } else if (!paused) {
    drawClusters(byId("coordinators"), clusters);
  }
  drawTiles();
}

// What has not been told again for a while is not shown as if it were of now.
function noticeAge() {
  let changed = false;
  for (const entry of clusters.values()) {
    const fresh = live && Date.now() - entry.at < OLD_MS;
    changed ||= fresh !== entry.fresh;
    entry.fresh = fresh;
  }
  if (changed) drawCluster();
}

const EVENT_KIND = {worker_lost: "bad", epoch_ended: "bad", worker_fault: "bad", failover: "warn", connection: "warn",
                    pipeline_ready: "good", worker_joined: "good"};

// A worker is a box: crossed out when it was lost, with a plus when it joined, fading when it left.
function eventPicture(kind) {
  const parts = {
    worker_lost: [svg("rect", {x: 1.5, y: 3.5, width: 13, height: 9, rx: 2, class: "gone"}), svg("path", {d: "M4 1.5 12 14.5M12 1.5 4 14.5"})],
    worker_left: [svg("rect", {x: 1.5, y: 3.5, width: 13, height: 9, rx: 2, class: "gone"})],
    worker_joined: [svg("rect", {x: 1.5, y: 3.5, width: 13, height: 9, rx: 2}), svg("path", {d: "M8 5.5v5M5.5 8h5"})],
    worker_fault: [svg("path", {d: "M8 1.5 15 14.5H1ZM8 6v4M8 11.6v1"})],
    epoch_ended: [svg("path", {d: "M8 1.5 15 14.5H1ZM8 6v4M8 11.6v1"})],
    pipeline_ready: [svg("path", {d: "M2 8.5 6 12.5 14 3.5"})],
    failover: [svg("path", {d: "M2 8h11M9 4l4 4-4 4"})],
    connection: [svg("path", {d: "M1 8h4M11 8h4M6.5 4l3 8"})],
  }[kind] ?? [svg("circle", {cx: 8, cy: 8, r: 2})];
  return svg("svg", {class: `happening ${EVENT_KIND[kind] ?? ""}`, viewBox: "0 0 16 16", "aria-hidden": "true", "aria-label": kind.replaceAll("_", " ")}, ...parts);
}

function drawEvents(nothing = "Nothing has happened since this page was opened.") {
  if (happened.length === 0) {
    patch(byId("event-list"), [element("li", {class: "quiet"}, nothing)]);
    return;
  }
  if (paused) return;
  patch(byId("event-list"), happened.map((event) => {
    const when = new Date(event.at);
    return element("li", {"data-kind": event.kind, "data-number": event.number}, element("time", {datetime: when.toISOString()}, when.toLocaleTimeString([], {hour12: false})),
      eventPicture(event.kind), element("span", {class: EVENT_KIND[event.kind] ?? ""}, event.kind.replaceAll("_", " ")), element("span", {}, event.text));
  }));
}

let tellings = 0;

function tellEvent(at, kind, text) {
  happened.push({at, kind, text, number: ++tellings});
  happened.sort((a, b) => b.at - a.at);
  happened = happened.slice(0, KEPT_EVENTS);
  drawEvents();
}

function addSample(sample) {
  samples.push(sample);
  samples = samples.slice(-HISTORY);
  if (sample.retries > 0) tellEvent(1000 * sample.unix_s, "failover", `${number(sample.retries)} streams were submitted again in this second`);
}

function drawCharts() {
  if (!paused) charts.forEach((chart) => chart.draw(samples, live));
}

function forget() {
  samples = [];
  happened = [];
  clusters.clear();
  drawEvents();
}

const handlers = {
  hello(data) {
    byId("router-name").textContent = `${data.router}, version ${data.version}`;
    forget();
    data.history.forEach(addSample);
    drawCharts();
    drawCluster("Waiting for a coordinator.");
  },
  sample(data) {
    addSample(data);
    drawCharts();
    drawTiles();
  },
  cluster(data) {
    clusters.set(data.link, {cluster: data.cluster, fresh: true, at: Date.now()});
    drawCluster();
  },
  events(data) {
    for (const event of data.events) tellEvent(Number(event.unix_ms), event.kind, event.text);
    const bad = data.events.filter((event) => EVENT_KIND[event.kind] === "bad").at(-1);
    if (bad && Date.now() - Number(bad.unix_ms) < 10000) byId("announce").textContent = bad.text;
    loadModels();
  },
  lost(data) {
    const name = clusters.get(data.link)?.cluster.coordinator ?? "a coordinator";
    clusters.delete(data.link);
    tellEvent(Date.now(), "connection", `this router has lost ${name}`);
    byId("announce").textContent = `This router has lost ${name}`;
    drawCluster();
  },
};

function setConnection(text, kind) {
  byId("connection").textContent = text;
  byId("connection").className = `pill ${kind}`;
}

function setLive(now) {
  live = now;
  noticeAge();
  drawCharts();
  drawTiles();
}

function pause(now) {
  paused = now;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  byId("announce").textContent = paused ? "The page stands still. What happens meanwhile is shown when it goes on." : "The page shows what is now.";
  if (paused) return;
  if (clusters.size > 0) drawCluster();
  drawTiles();
  drawCharts();
  drawEvents();
}

// Nothing of the cluster is shown, not even zeros, until there is a key that may see it.
function askForKey(status, key) {
  pause(false);
  forget();
  setConnection("needs a key", "warn");
  document.body.dataset.locked = "yes";
  drawCluster("Not shown without a key.");
  byId("key-form").hidden = false;
  byId("key-error").textContent = !key ? "" : status === 403
    ? "This key was not accepted: it is one of this cluster's keys, but not of scope admin."
    : "This key was not accepted: it is none of this cluster's keys, or it was revoked.";
}

function unlock() {
  delete document.body.dataset.locked;
  byId("key-form").hidden = true;
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
    askForKey(response.status, key);
    if (sessionStorage.getItem(KEY) === key) await new Promise((resolve) => { keyGiven = resolve; });
    return true;
  }
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  unlock();
  setConnection("live", "good");
  setLive(true);
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
    setLive(false);
    if (byId("connection").textContent !== "needs a key") setConnection("not connected, trying again", "bad");
    pause = performance.now() - started > 5000 ? 500 : Math.min(2 * pause, 8000);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

byId("pause").addEventListener("click", () => pause(!paused));
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("pagoda-theme", root.dataset.theme);
});

startPlayground();
drawTiles();
drawCharts();
setInterval(noticeAge, 1000);
follow();
