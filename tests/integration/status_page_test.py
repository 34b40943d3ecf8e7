#!/usr/bin/env python3
"""The status page in a real browser, on a real cluster: it shows what is there, live; the playground answers; a killed worker is
seen. With --pictures FOLDER it also keeps pictures (idle, loaded, worker lost; light and dark)."""
import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import cluster
from browser import browser, prefer
from cluster import Cluster

LAYOUT = ["--pipeline-parallel-size", "2", "--tensor-parallel-size", "2,1", "--threads-per-worker", "1",
          "--kv-cache-memory-bytes", "64M", "--max-model-len", "1024"]
pictures = None


def wait_for(what, condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not seen within {timeout_s} s: {what}"
        time.sleep(0.05)


class Page:
    def __init__(self, opened, serving):
        self.opened, self.serving = opened, serving
        self.origin = f"http://127.0.0.1:{serving.http_port}"
        opened.get(self.origin + "/ui")
        wait_for("the stream of events", lambda: self.text("#connection") == "live")

    def script(self, code, *arguments):
        return self.opened.execute_script(code, *arguments)

    def text(self, selector):
        return self.script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def count(self, selector):
        return self.script("return document.querySelectorAll(arguments[0]).length", selector)

    def find(self, selector):
        return self.opened.find_element("css selector", selector)

    def picture(self, name, section="#main"):
        if pictures is None:
            return
        for scheme in ("light", "dark"):
            prefer(self.opened, scheme)
            self.script("document.querySelector(arguments[0]).scrollIntoView(); window.scrollTo(0, section_top(arguments[0]));"
                        "function section_top(s) { return s === '#main' ? 0 : document.querySelector(s).offsetTop - 60; }", section)
            self.opened.save_screenshot(str(pictures / f"status-{name}-{scheme}.png"))
        prefer(self.opened, "light")

    def check_console(self):
        """Nothing went wrong in the page, and nothing was refused by its content security policy."""
        bad = [entry for entry in self.opened.get_log("browser") if entry["level"] == "SEVERE"]
        assert not bad, bad


@contextlib.contextmanager
def load(serving, streams):
    """So many long streams, until the block ends."""
    over = threading.Event()

    def run(number):
        while not over.is_set():
            with contextlib.suppress(OSError, AssertionError):
                serving.complete(f"Number {number}: once upon a time", max_tokens=150, seed=number, ignore_eos=True)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(streams)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(120)


def shows_the_cluster(page):
    wait_for("three ready ranks", lambda: page.count(".rank[data-state=ready]") == 3)
    assert page.count(".stages > li") == 2
    headings = page.script("return [...document.querySelectorAll('.stages h4')].map((h) => h.textContent)")
    assert "2 ranks" in headings[0] and "1 rank" in headings[1] and "layers 0" in headings[0], headings
    names = page.script("return [...document.querySelectorAll('.rank strong')].map((r) => r.textContent)")
    assert sorted(names) == ["worker-0", "worker-1", "worker-2"], names
    assert "1 of 1" in page.text("#tiles") and page.serving.name in page.text("#coordinators")
    kinds = page.script("return [...document.querySelectorAll('#event-list li')].map((e) => e.dataset.kind)")
    assert "pipeline_ready" in kinds and "worker_joined" in kinds, kinds
    wait_for("the charts move", lambda: "now" in page.script("return document.querySelector('figure svg').getAttribute('aria-label')"))
    page.picture("idle")


def asks_nobody_else(page):
    fetched = page.script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert fetched and all(name.startswith(page.origin) for name in fetched), fetched
    import http.client
    connection = http.client.HTTPConnection("127.0.0.1", page.serving.http_port)
    connection.request("GET", "/ui/")
    response = connection.getresponse()
    text = response.read().decode()
    policy = response.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy, policy
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert "style=" not in text and "onclick" not in text and "http://" not in text and "https://" not in text
    for method, path, status in (("POST", "/ui/", 405), ("GET", "/ui/nothing", 404), ("GET", "/ui/../etc/passwd", 404)):
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == status and json.loads(body)["error"]["message"], (method, path, answer.status, body)


def can_be_used_without_a_mouse(page):
    from selenium.webdriver.common.keys import Keys
    unlabelled = page.script("""
      return [...document.querySelectorAll('input, select, textarea, button')].filter((e) => !(e.labels?.length || e.ariaLabel ||
        (e.tagName === 'BUTTON' && e.textContent.trim()))).map((e) => e.id)""")
    assert unlabelled == [], unlabelled
    assert page.script("return [...document.querySelectorAll('svg')].every((s) => s.getAttribute('aria-label'))")
    levels = page.script("return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:])), levels
    page.find("body").send_keys(Keys.TAB)
    assert page.script("return document.activeElement.className") == "skip", "the first stop is the way past the header"
    reached = set()
    for _ in range(30):
        page.script("return document.activeElement").send_keys(Keys.TAB)
        reached.add(page.script("return document.activeElement.id"))
        if "send" in reached:
            break
    assert {"theme", "model", "temperature", "message", "send"} <= reached, reached
    for scheme in ("light", "dark"):
        prefer(page.opened, scheme)
        lowest = page.script(CONTRAST)
        assert lowest["ratio"] >= 4.5, f"{scheme}: {lowest}"
    prefer(page.opened, "light")
    before = page.script("return getComputedStyle(document.body).backgroundColor")
    page.find("#theme").click()
    assert page.script("return getComputedStyle(document.body).backgroundColor") != before, "the button changes the theme"
    page.script("localStorage.clear(); delete document.documentElement.dataset.theme")


# The lowest contrast of any text with what is behind it (WCAG asks for 4.5).
CONTRAST = """
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  let lowest = {ratio: 21};
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || e.closest('svg, noscript') || !e.checkVisibility() || e.disabled) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < lowest.ratio) lowest = {ratio, text: e.textContent.slice(0, 40), tag: e.tagName, css: e.className};
  }
  return lowest;"""


def playground_answers(page):
    from selenium.webdriver.common.keys import Keys
    wait_for("a model to choose", lambda: page.count("#model option") == 1)
    for field, value in (("#temperature", "0"), ("#max-tokens", "24"), ("#seed", "7")):
        page.find(field).clear()
        page.find(field).send_keys(value)
    page.find("#message").send_keys("What is a pagoda?")
    page.find("#send").click()
    wait_for("tokens of the answer", lambda: page.count("[data-role=assistant] .token") >= 10)
    wait_for("the end of the answer", lambda: "ended by" in page.text("#timings"))
    timings = page.text("#timings")
    assert "first token" in timings and "24 tokens" in timings and "tok/s" in timings and "ended by length" in timings, timings
    asked = page.serving.chat("What is a pagoda?", temperature=0, max_tokens=24, seed=7)
    shown = page.script("return [...document.querySelectorAll('[data-role=assistant] .token')].map((t) => t.textContent).join('')")
    assert shown == asked, (shown, asked)
    assert page.count("#token-chart rect") >= 10
    titles = page.script("return [...document.querySelectorAll('.token')].map((t) => t.title)")
    assert titles[0].startswith("first token after") and all("ms" in title or " s" in title for title in titles), titles[:3]
    page.picture("playground", "#playground")
    # A second turn, sent from the keyboard and stopped by the button.
    page.find("#max-tokens").clear()
    page.find("#max-tokens").send_keys("900")
    page.find("#message").send_keys("Tell me a very long story." + Keys.CONTROL + Keys.ENTER)
    wait_for("the second answer", lambda: page.count("[data-role=assistant]:last-of-type .token") >= 3)
    page.find("#halt").click()
    wait_for("the stop", lambda: "ended by your stop" in page.text("#timings"))
    page.serving.wait_idle(10)  # the cluster stops computing, too


def shows_load(page):
    with load(page.serving, 6):
        wait_for("running requests", lambda: page.script(
            "return [...document.querySelectorAll('#tiles div')].some((t) => /^Running[1-9]/.test(t.textContent))"))
        wait_for("tokens per second", lambda: page.script(
            "return [...document.querySelectorAll('#tiles div')].some((t) => /^Output[1-9]/.test(t.textContent))"))
        if pictures is not None:
            time.sleep(45)  # so that the charts have something to show
        page.picture("loaded")
        page.picture("loaded-charts", "#charts")


def shows_a_lost_worker(page):
    with load(page.serving, 3):
        victim = page.serving.pids()["worker-1"]
        os.kill(victim, signal.SIGKILL)
        seen = wait_for("the lost worker in the events", lambda: page.script(
            "return [...document.querySelectorAll('#event-list li[data-kind=worker_lost]')].map((e) => e.textContent)[0]"))
        assert "worker-1" in seen, seen
        assert "worker-1" in page.text("#announce"), "a screen reader is told"
        wait_for("a pipeline that is not ready", lambda: page.count("[data-pipeline]:not([data-state=ready])") == 1, 5)
        facts = page.script("return document.querySelector('[data-pipeline]:not([data-state=ready]) .facts')?.innerText ?? 'out –'")
        assert "out –" in facts, f"a pipeline that computes nothing has the rates of before: {facts}"
        page.picture("worker-lost")
        wait_for("the streams that were submitted again", lambda: page.count("#event-list li[data-kind=failover]") >= 1)
        wait_for("the cluster whole again", lambda: page.count(".rank[data-state=ready]") == 3)
        assert page.count("#event-list li[data-kind=worker_lost] svg.bad") >= 1, "the lost worker has no picture"
        kinds = "const kinds = [...document.querySelectorAll('#event-list li')].map((e) => e.dataset.kind);"  # newest first
        wait_for("the new epoch in the events", lambda: page.script(
            kinds + "return kinds.includes('pipeline_ready') && kinds.indexOf('pipeline_ready') < kinds.indexOf('worker_lost')"))
        page.picture("events", "#events")


def shows_a_lost_coordinator(page):
    os.kill(page.serving.pids()["coordinator-0"], signal.SIGKILL)
    wait_for("the lost coordinator", lambda: page.count("#event-list li[data-kind=connection]") >= 1)
    wait_for("the cluster again", lambda: page.count(".rank[data-state=ready]") == 3, 60)


def page_in_a_browser():
    with Cluster(*LAYOUT) as serving, browser() as opened:
        page = Page(opened, serving)
        for part in (shows_the_cluster, asks_nobody_else, can_be_used_without_a_mouse, playground_answers, shows_load,
                     shows_a_lost_worker, shows_a_lost_coordinator):
            started = time.monotonic()
            part(page)
            print(f"  {part.__name__}: {time.monotonic() - started:.1f} s", flush=True)
        page.check_console()


def cluster_is_shown_to_holders_of_the_admin_key():
    with tempfile.TemporaryDirectory() as folder:
        keys = f"{folder}/keys.yaml"
        make = [str(cluster.binary_folder() / "pagoda"), "keys", "create", "--file", keys, "--tenant", "t", "--scopes"]
        secrets = {scope: subprocess.run([*make, scope], capture_output=True, text=True, check=True).stdout.strip() for scope in ("inference", "admin")}
        with Cluster("--api-key-file", keys, "--pipeline-parallel-size", "1", "--threads-per-worker", "1", "--kv-cache-memory-bytes", "64M",
                     "--max-model-len", "512") as serving, browser() as opened:
            opened.get(f"http://127.0.0.1:{serving.http_port}/ui")
            def text(selector):
                return opened.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
            def enter(key):
                field = opened.find_element("css selector", "#admin-key")
                field.clear()
                field.send_keys(key)
                opened.find_element("css selector", "#key-form button").click()
            wait_for("the form", lambda: opened.find_element("css selector", "#key-form").is_displayed())
            seen = opened.execute_script("return document.body.innerText")
            assert "This page needs a key." in seen and "Pipelines ready" not in seen and "Waiting for a coordinator" not in seen, seen
            assert text("#connection") == "needs a key" and "worker-0" not in opened.page_source and serving.name not in opened.page_source
            for wrong in ("sk-pagoda-wrong", secrets["inference"]):
                enter(wrong)
                wait_for("the refusal", lambda: "not accepted" in text("#key-error"))
                assert "worker-0" not in opened.page_source
            enter("sk-pagoda-typed-too-early")  # and another one while it is tried
            enter(secrets["admin"])
            wait_for("the cluster", lambda: text("#connection") == "live" and "worker-0" in opened.page_source)
            assert not opened.find_element("css selector", "#key-form").is_displayed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=pathlib.Path)
    pictures = parser.parse_args().pictures
    sys.argv = sys.argv[:1]
    cluster.run(page_in_a_browser, cluster_is_shown_to_holders_of_the_admin_key)
