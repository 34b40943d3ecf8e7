// A conversation over /v1/chat/completions, streamed, with the time of every piece that comes.
import {milliseconds, number} from "./charts.js";
import {element, patch, svg} from "./dom.js";

const byId = (id) => document.getElementById(id);
const KEY = "pagoda-api-key";

let conversation = [];
let running = null;  // AbortController

function authorization() {
  const key = byId("api-key").value;
  return key ? {Authorization: `Bearer ${key}`} : {};
}

function tellWhetherAKeyIsNeeded(status) {
  const refused = status === 401 || status === 403;
  if (refused && byId("model-error").textContent === "") byId("key-details").open = true;
  byId("model-error").textContent = !refused ? "" : byId("api-key").value === ""
    ? "This cluster asks for an API key: enter one below to chat."
    : status === 403 ? "This API key may not be used to chat (scope inference)." : "This API key was not accepted.";
}

export async function loadModels() {
  try {
    const answer = await fetch("/v1/models", {headers: authorization()});
    tellWhetherAKeyIsNeeded(answer.status);
    if (!answer.ok) return;
    const names = (await answer.json()).data.map((model) => model.id);
    const select = byId("model");
    const shown = [...select.options].map((option) => option.value);
    if (names.join("\n") === shown.join("\n")) return;
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => element("option", {value: name}, name)));
    if (names.includes(chosen)) select.value = chosen;
  } catch {
    // The connection pill tells.
  }
}

function requestBody() {
  const value = (id) => byId(id).value;
  const messages = value("system").trim() ? [{role: "system", content: value("system")}] : [];
  messages.push(...conversation);
  const body = {model: value("model"), messages, stream: true, stream_options: {include_usage: true},
                temperature: Number(value("temperature")), top_p: Number(value("top-p")), max_tokens: Number(value("max-tokens"))};
  if (Number(value("top-k")) > 0) body.top_k = Number(value("top-k"));
  if (value("seed") !== "") body.seed = Number(value("seed"));
  if (value("stop") !== "") body.stop = [value("stop")];
  return body;
}

// Yields the data of each server-sent event.
export async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const event = {type: "message", data: ""};
      for (const line of lines) {
        if (line.startsWith("event: ")) event.type = line.slice(7);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      yield event;
    }
  }
}

function turn(role, text = "") {
  const paragraph = element("p", {class: "turn", "data-role": role}, element("b", {}, role === "user" ? "You" : "Model"), text);
  byId("conversation").append(paragraph);
  return paragraph;
}

// Bars: how long each piece took to come; the first is the time to first token.
function drawTimes(times) {
  const shown = times.slice(-240);
  const most = Math.max(...shown, 1);
  const bars = shown.map((time, index) => svg("rect", {x: index * 4, width: 3, y: 50 - 48 * time / most, height: Math.max(1, 48 * time / most),
                                                        class: index === 0 && shown.length === times.length ? "first" : ""}));
  patch(byId("token-chart"), [svg("svg", {viewBox: `0 0 ${Math.max(240, shown.length * 4)} 50`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Time of each piece of the answer, the longest ${milliseconds(most)}`}, ...bars)]);
}

class Answer {
  // `shown`: whether its conversation is still the one on the page.
  constructor(paragraph, shown) {
    this.paragraph = paragraph;
    this.shown = shown;
    this.text = "";
    this.times = [];
    this.started = performance.now();
    this.last = this.started;
    this.usage = null;
    this.finish = "";
  }

  add(piece) {
    const now = performance.now();
    const took = now - this.last;
    this.last = now;
    this.times.push(took);
    const later = this.times.slice(1);
    const mean = later.reduce((sum, time) => sum + time, 0) / Math.max(1, later.length);
    const slow = later.length > 4 && took > 3 * mean;
    this.paragraph.append(element("span", {class: slow ? "token slow" : "token",
      title: this.times.length === 1 ? `first token after ${milliseconds(took)}` : `after ${milliseconds(took)}`}, piece));
    this.text += piece;
    const log = byId("conversation");
    log.scrollTop = log.scrollHeight;
    this.tell();
  }

  tell() {
    if (!this.shown()) return;
    const seconds = (this.last - this.started - (this.times[0] ?? 0)) / 1000;
    const tokens = this.usage?.completion_tokens ?? this.times.length;
    const parts = [`first token ${milliseconds(this.times[0] ?? null)}`, `${number(tokens)} tokens`];
    if (seconds > 0 && tokens > 1) parts.push(`${number((tokens - 1) / seconds)} tok/s`, `${milliseconds(1000 * seconds / (tokens - 1))} a token`);
    if (this.usage) {
      parts.push(`prompt ${number(this.usage.prompt_tokens)} tokens`);
      const cached = this.usage.prompt_tokens_details?.cached_tokens;
      if (cached) parts.push(`${number(cached)} of them cached`);
    }
    if (this.finish) parts.push(`ended by ${this.finish}`);
    byId("timings").textContent = parts.join(" · ");
    drawTimes(this.times);
  }
}

async function receive(response, answer) {
  for await (const event of serverEvents(response)) {
    if (event.data === "[DONE]") return;
    const chunk = JSON.parse(event.data);
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) answer.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) answer.add(choice.delta.content);
    if (choice?.finish_reason) answer.finish = choice.finish_reason;
  }
}

async function send(event) {
  event.preventDefault();
  const message = byId("message").value;
  if (running || !message.trim()) return;
  running = new AbortController();
  byId("send").disabled = true;
  byId("halt").disabled = false;
  byId("message").value = "";
  conversation.push({role: "user", content: message});
  turn("user", message);
  const mine = conversation;  // another one may have begun when the answer ends
  const answer = new Answer(turn("assistant"), () => mine === conversation);
  byId("timings").textContent = "waiting for the first token";
  try {
    const response = await fetch("/v1/chat/completions", {method: "POST", signal: running.signal, body: JSON.stringify(requestBody()),
      headers: {"Content-Type": "application/json", ...authorization()}});
    if (!response.ok) throw new Error((await response.json()).error?.message ?? `HTTP ${response.status}`);
    await receive(response, answer);
    answer.tell();
    // Said once and whole: a screen reader that read each token as it comes would never keep up.
    if (answer.shown()) byId("announce").textContent = `The model answered: ${answer.text}`;
  } catch (error) {
    if (error.name === "AbortError") {
      answer.finish = "your stop";
      answer.tell();
    } else if (answer.shown()) {
      answer.paragraph.classList.add("failed");
      answer.paragraph.append(` ${error.message}`);
      byId("timings").textContent = "failed";
      byId("announce").textContent = `No answer: ${error.message}`;
    }
  }
  if (answer.text) {
    mine.push({role: "assistant", content: answer.text});
  } else {
    mine.pop();
  }
  running = null;
  byId("send").disabled = false;
  byId("halt").disabled = true;
  byId("message").focus();
}

export function startPlayground() {
  byId("api-key").value = sessionStorage.getItem(KEY) ?? "";
  byId("api-key").addEventListener("change", () => {
    sessionStorage.setItem(KEY, byId("api-key").value);
    loadModels();
  });
  byId("chat-form").addEventListener("submit", send);
  byId("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("chat-form").requestSubmit();
  });
  byId("halt").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", () => {
    running?.abort();
    conversation = [];
    byId("conversation").replaceChildren();
    byId("token-chart").replaceChildren();
    byId("timings").textContent = "";
  });
  loadModels();
}
