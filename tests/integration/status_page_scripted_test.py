#!/usr/bin/env python3
"""The status page's files in a real browser, before a router that says what a test wants: refusals of keys, a pipeline that was lost, a
coordinator that falls silent, a router that goes away. What a real cluster shows is status_page_test's."""
import contextlib
import http.server
import json
import queue
import threading
import time

import cluster
from browser import browser
from status_page_test import wait_for

PAGE = cluster.ROOT / "router/ui/page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"


class ScriptedRouter:
    """`keys`: what each key is answered with (None: none was sent). tell() says something to whoever looks, hang_up() ends their streams."""

    def __init__(self, keys=None):
        self.keys = {None: 200} if keys is None else keys
        self.streams = []
        self.asked = []   # bodies of what was sent to the model
        self.pieces = 3   # of an answer
        router = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                key = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
                status = router.keys.get(key, 401)
                if self.path == "/ui/events":
                    return router.stream(self) if status == 200 else self.answer(status, "application/json", b"{}")
                if self.path == "/v1/models":
                    return self.answer(status, "application/json", json.dumps({"data": [{"id": "m"}] if status == 200 else []}).encode())
                path = PAGE / ("index.html" if self.path in ("/ui", "/ui/") else self.path.removeprefix("/ui/"))
                self.answer(200, TYPES[path.suffix], path.read_bytes())

            def do_POST(self):
                router.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(200, "text/event-stream", b"")
                with contextlib.suppress(OSError):
                    for number in range(router.pieces):
                        piece = {"choices": [{"index": 0, "delta": {"content": f"piece{number} "}, "finish_reason": None}]}
                        self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
                        self.wfile.flush()
                        time.sleep(0.05)
                    self.wfile.write(b"data: [DONE]\n\n")

            def answer(self, status, kind, body):
                self.send_response(status)
                self.send_header("Content-Type", kind + "; charset=utf-8")
                self.send_header("Content-Security-Policy", POLICY)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/ui"

    def stream(self, handler):
        handler.answer(200, "text/event-stream", b"")
        told = queue.Queue()
        told.put(("hello", {"version": "1", "router": "scripted", "history": []}))
        self.streams.append(told)
        with contextlib.suppress(OSError):
            while (event := told.get()) is not None:
                handler.wfile.write(f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode())
                handler.wfile.flush()

    def tell(self, kind, data):
        for told in self.streams:
            told.put((kind, data))

    def hang_up(self):
        while self.streams:
            self.streams.pop().put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hang_up()
        self.server.shutdown()


def sample(**changed):
    return {"unix_s": int(time.time()), "in_flight": 3, "prompt_tokens": 11, "output_tokens": 402, "requests": 1, "errors": 0, "rejected": 0,
            "retries": 0, "first_token_p50_ms": 20, "first_token_p95_ms": 42, "inter_token_p50_ms": 5, "inter_token_p95_ms": 9, **changed}


def state(pipeline="ready", worker="ready", **changed):
    """A cluster of one pipeline of one rank, as the coordinator tells it (64-bit numbers are strings)."""
    return {"link": 1, "cluster": {
        "coordinator": "c0", "leader": True, "version": "1",
        "deployments": [{"spec": {"name": "m", "replicas": 1, "pipeline_parallel_size": 1}, "state": "DEPLOYMENT_STATE_READY", "replicas_ready": 1,
                         "max_model_len": "512", "message": ""}],
        "pipelines": [{"id": "1", "deployment": "m", "epoch": "1", "state": pipeline, "running": 3, "waiting": 2, "blocks_total": 100, "blocks_used": 25,
                       "prompt_tokens_per_s": 11, "output_tokens_per_s": 402, "max_model_len": "512", "preemptions": "0", "prefix_hit_tokens": "0",
                       "prefix_query_tokens": "0"}],
        "workers": [{"id": "1", "name": "w0", "host": "h", "state": worker, "pipeline": "1", "stage": 0, "rank": 0, "cores": 1, "load_progress": 1,
                     "layer_begin": 0, "layer_end": 4, "weights_bytes": "1", "kv_bytes": "1", "step_ms": 12.5, "wait_ms": 2.5,
                     "sent_bytes_per_s": 7000, "heartbeat_age_ms": 100, **changed}]}}


class Opened:
    def __init__(self, opened, router):
        self.opened = opened
        opened.get(router.address)

    def script(self, code, *arguments):
        return self.opened.execute_script(code, *arguments)

    def seen(self, selector="body"):
        """The text that a person sees there."""
        return self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def tiles(self):
        return dict(self.script("return [...document.querySelectorAll('#tiles div')].map((t) => [t.querySelector('dt').textContent, "
                                "t.querySelector('dd').innerText])"))

    def enter(self, key):
        field = self.opened.find_element("css selector", "#admin-key")
        field.clear()
        field.send_keys(key)
        self.opened.find_element("css selector", "#key-form button").click()

    def wait(self, what, selector="body"):
        wait_for(f"'{what}' in {selector}", lambda: what in self.seen(selector), 10)


def without_a_key_the_page_asks_for_one(opened):
    with ScriptedRouter({"right": 200, "narrow": 403}) as router:
        page = Opened(opened, router)
        page.wait("needs a key", "#connection")
        shown = page.seen()
        assert "This page needs a key." in shown and "scope admin" in shown and "pagoda keys create" in shown, shown
        for nothing in ("Pipelines ready", "0 of 0", "Waiting for a coordinator", "last five minutes", "Nothing has happened"):
            assert nothing not in shown, f"'{nothing}' is shown to who has no key: {shown}"
        page.wait("This cluster asks for an API key: enter one below to chat.", "#playground")
        assert opened.find_element("css selector", "#api-key").is_displayed(), "the field is folded away"
        page.enter("wrong")
        page.wait("none of this cluster's keys", "#key-error")
        page.enter("narrow")
        page.wait("not of scope admin", "#key-error")
        page.enter("right")
        page.wait("live", "#connection")
        assert "This page needs a key" not in page.seen() and "Pipelines ready" in page.seen()
        router.tell("cluster", state())
        page.wait("w0", "#coordinators")
        # The key is revoked while somebody looks.
        router.keys["right"] = 401
        router.hang_up()
        page.wait("it was revoked", "#key-error")
        assert "w0" not in page.script("return document.body.textContent") and "402" not in page.seen(), "what the key showed is still there"


def a_lost_pipeline_has_no_rates(opened):
    with ScriptedRouter() as router:
        page = Opened(opened, router)
        page.wait("live", "#connection")
        page.wait("Waiting for a coordinator.", "#coordinators")
        assert page.tiles()["Pipelines ready"] == "–" and page.tiles()["Running"] == "–", page.tiles()
        router.tell("cluster", state())
        page.wait("out 402 tok/s", "#coordinators")
        page.wait("step 12.5 ms", ".rank")
        assert page.tiles()["Pipelines ready"] == "1 of 1" and page.tiles()["KV cache"] == "25% in use", page.tiles()
        router.tell("cluster", state(pipeline="pending"))
        page.wait("pending", "#coordinators .pill")
        facts = page.seen(".facts")
        assert all(f"{name} –" in facts for name in ("in", "out", "running", "KV")) and "402" not in facts and "waiting 2" in facts, facts
        assert page.tiles()["Running"] == "0 2 waiting" and page.tiles()["KV cache"] == "–", page.tiles()
        rank = page.seen(".rank")
        assert "step –" in rank and "sends –" in rank and "12.5" not in rank and "20%" not in rank, rank
        router.tell("cluster", state(heartbeat_age_ms=9000))
        page.wait("out 402 tok/s", "#coordinators")
        assert "step –" in page.seen(".rank"), "a worker that has been silent for nine seconds shows its last second"


def what_is_old_is_not_shown_as_if_it_were_of_now(opened):
    with ScriptedRouter() as router:
        page = Opened(opened, router)
        page.wait("live", "#connection")
        router.tell("cluster", state())
        router.tell("sample", sample())
        page.wait("out 402 tok/s", "#coordinators")
        assert page.tiles()["Output"] == "402 tok/s" and page.tiles()["First token, p95"] == "42 ms", page.tiles()
        told = time.monotonic()
        while "Last heard of at" not in page.seen("#coordinators"):  # the router goes on, the coordinator is silent
            router.tell("sample", sample(first_token_p95_ms=None, output_tokens=7))
            assert time.monotonic() - told < 15, page.seen("#coordinators")
            time.sleep(0.5)
        assert time.monotonic() - told > 3, "one late message is no silence"
        assert "w0" in page.seen("#coordinators") and "402" not in page.seen("#coordinators") and "step –" in page.seen(".rank")
        assert page.tiles()["Pipelines ready"] == "–" and page.tiles()["Output"] == "7 tok/s", page.tiles()
        router.tell("cluster", state())
        page.wait("out 402 tok/s", "#coordinators")
        router.keys[None] = 500
        router.hang_up()  # and now the router is gone
        page.wait("not connected", "#connection")
        assert set(page.tiles().values()) == {"–"}, page.tiles()
        charts = page.script("return [...document.querySelectorAll('figure svg')].map((s) => s.getAttribute('aria-label'))")
        assert charts and all("now: " in chart and "402" not in chart.split(";")[0] and "–" in chart for chart in charts), charts
        assert "out 402 tok/s" not in page.seen("#coordinators") and "Last heard of at" in page.seen("#coordinators")
        router.keys[None] = 200
        page.wait("live", "#connection")
        page.wait("Waiting for a coordinator.", "#coordinators")


def events_picture_a_lost_worker(opened):
    with ScriptedRouter() as router:
        page = Opened(opened, router)
        page.wait("live", "#connection")
        page.wait("Nothing has happened", "#event-list")
        now = int(1000 * time.time())
        router.tell("events", {"link": 1, "coordinator": "c0", "events": [
            {"number": str(number), "unix_ms": str(now + number), "kind": kind, "text": f"{kind} said"}
            for number, kind in enumerate(("worker_joined", "pipeline_ready", "worker_lost", "epoch_ended", "something_new"))]})
        page.wait("worker_lost said", "#event-list")
        pictures = page.script("""return Object.fromEntries([...document.querySelectorAll('#event-list li')].map((li) => {
          const picture = li.querySelector('svg'), box = picture.getBoundingClientRect();
          return [li.dataset.kind, [picture.innerHTML, getComputedStyle(picture).stroke, box.width, box.height]]; }))""")
        assert len(pictures) == 5 and all(width > 10 and height > 10 for _, _, width, height in pictures.values()), pictures
        bad = page.script("return getComputedStyle(document.querySelector('#event-list li[data-kind=worker_lost] span')).color")
        assert pictures["worker_lost"][1] == bad and pictures["worker_joined"][1] != bad, pictures
        assert len({drawn for drawn, *_ in pictures.values()}) == 5 and "gone" in pictures["worker_lost"][0], pictures
        assert page.script("return [...document.querySelectorAll('svg')].every((s) => s.getAttribute('aria-label'))")


def what_stays_is_not_made_anew(opened):
    """Who reads, selects or scrolls is not thrown out every second; who wants it still gets it still."""
    with ScriptedRouter() as router:
        page = Opened(opened, router)
        page.wait("live", "#connection")
        router.tell("cluster", state())
        router.tell("sample", sample())
        page.wait("step 12.5 ms", ".rank")
        page.script("""window.kept = ['.rank', '[data-pipeline]', '#tiles div', 'table', 'figure svg text'].map((s) => document.querySelector(s));
                       document.querySelector('.scroll').focus();""")
        router.tell("cluster", state(step_ms=14.5, state="loading", load_progress=0.5))
        router.tell("sample", sample(output_tokens=77))
        page.wait("loading, 50%", ".rank")
        wait_for("the tile", lambda: page.tiles()["Output"] == "77 tok/s", 10)
        assert page.script("return window.kept.every((node) => node.isConnected) && document.activeElement.matches('.scroll')")
        # A worker goes and another comes: each box stays its own worker's.
        many = state()
        many["cluster"]["workers"] += [{**many["cluster"]["workers"][0], "id": str(n), "name": f"w{n}", "rank": n} for n in (1, 2)]
        router.tell("cluster", many)
        page.wait("w2", "#coordinators")
        page.script("window.second = document.querySelector('[data-worker=w2]')")
        del many["cluster"]["workers"][1]
        router.tell("cluster", many)
        wait_for("w1 to go", lambda: "w1" not in page.seen("#coordinators"), 10)
        assert page.script("return window.second.isConnected && window.second.dataset.worker === 'w2'")
        pause = opened.find_element("css selector", "#pause")
        pause.click()
        assert pause.get_attribute("aria-pressed") == "true" and "stands still" in page.script("return document.querySelector('#announce').textContent")
        router.tell("cluster", state(pipeline="draining"))
        router.tell("sample", sample(output_tokens=99))
        router.tell("events", {"link": 1, "coordinator": "c0", "events": [{"number": "1", "unix_ms": str(int(1000 * time.time())), "kind": "worker_lost",
                                                                         "text": "w0 is lost"}]})
        wait_for("who cannot see it", lambda: page.script("return document.querySelector('#announce').textContent") == "w0 is lost", 10)
        assert "draining" not in page.seen("#coordinators") and page.tiles()["Output"] == "77 tok/s" and "w0 is lost" not in page.seen("#event-list")
        pause.click()
        page.wait("draining", "#coordinators")
        page.wait("w0 is lost", "#event-list")
        assert page.tiles()["Output"] == "99 tok/s"
        # What scrolls can be reached by keyboard, and every field has a short name.
        assert page.script("""return [...document.querySelectorAll('#event-list, .scroll, #conversation')].every((e) => e.tabIndex === 0 &&
          (e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')))""")
        names = page.script("return [...document.querySelectorAll('input, select, textarea')].map((e) => e.labels[0]?.textContent.trim() ?? '')")
        assert all(0 < len(name) < 20 for name in names), names
        assert page.script("return document.querySelector('#timings').getAttribute('role')") is None, "each token would be read out"


def a_new_conversation_has_nothing_of_the_old_one(opened):
    with ScriptedRouter() as router:
        page = Opened(opened, router)
        page.wait("live", "#connection")
        page.wait("m", "#model")
        def send(text):
            opened.find_element("css selector", "#message").send_keys(text)
            opened.find_element("css selector", "#send").click()
        send("first")
        wait_for("the whole answer", lambda: "piece2" in page.seen("#conversation") and not page.script("return document.querySelector('#send').disabled"), 10)
        assert "piece2" in page.script("return document.querySelector('#announce').textContent"), "who cannot see it is not told"
        send("second")
        wait_for("the second question", lambda: len(router.asked) == 2, 10)
        assert [message["content"].strip() for message in router.asked[1]["messages"]] == ["first", "piece0 piece1 piece2", "second"]
        router.pieces = 200
        wait_for("the end", lambda: not page.script("return document.querySelector('#send').disabled"), 10)
        send("third")
        wait_for("its beginning", lambda: len(router.asked) == 3 and "piece4" in page.seen("#conversation"), 10)
        opened.find_element("css selector", "#clear").click()
        wait_for("its end", lambda: not page.script("return document.querySelector('#send').disabled"), 10)
        assert page.seen("#conversation") == "" and page.seen("#timings") == "" and not page.script("return document.querySelector('#token-chart svg')")
        router.pieces = 1
        send("fourth")
        wait_for("the fourth question", lambda: len(router.asked) == 4, 10)
        assert [message["content"] for message in router.asked[3]["messages"]] == ["fourth"], router.asked[3]


def in_a_browser():
    with browser() as opened:
        for part in (without_a_key_the_page_asks_for_one, a_lost_pipeline_has_no_rates, what_is_old_is_not_shown_as_if_it_were_of_now,
                     events_picture_a_lost_worker, what_stays_is_not_made_anew,
                     a_new_conversation_has_nothing_of_the_old_one):
            opened.get("about:blank")
            part(opened)
            bad = [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]]
            assert not bad, bad
            print(f"  {part.__name__}: seen", flush=True)


if __name__ == "__main__":
    cluster.run(in_a_browser)
