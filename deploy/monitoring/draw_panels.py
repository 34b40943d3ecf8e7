#!/usr/bin/env python3
"""Draws panels of the committed dashboards as one SVG, with real data from a Prometheus: for the README, and for machines without
Grafana (which no Debian or PyPI package installs). It draws what Grafana would ask for, not what Grafana would look like.

usage: draw_panels.py PROMETHEUS_URL OUT.svg DASHBOARD "PANEL TITLE"... [--minutes 5]
"""
import argparse
import datetime
import json
import math
import pathlib
import time
import urllib.parse
import urllib.request
from xml.sax.saxutils import escape

DASHBOARDS = pathlib.Path(__file__).resolve().parents[1] / "helm/pagoda/files/dashboards"
COLUMNS, WIDTH, HEIGHT, GAP = 3, 400, 250, 12
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 34, 24
LEGEND_ROW, MOST_SERIES = 15, 6
COLORS = ["#b23c0a", "#2463a8", "#1a7f4b", "#8a5cb5", "#b8860b", "#5f5b53", "#c2407f", "#17868f", "#6b7a1e", "#3c3a8c"]
STYLE = ("text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#1c1b19}.title{font-weight:600;font-size:13px}.quiet{fill:#5f5b53;font-size:11px}"
         ".card{fill:#fff;stroke:#d8d4cb}.grid{stroke:#e6e3dc}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}")


def ask(url, expression, begin, end, step):
    query = urllib.parse.urlencode({"query": expression, "start": begin, "end": end, "step": step})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=20) as answer:
        return json.load(answer)["data"]["result"]


def filled(expression, interval):
    return expression.replace("$__rate_interval", interval).replace("$namespace", ".*").replace("$model_name", ".*").replace("$tenant", ".*")


def legend_of(template, labels):
    for key, value in labels.items():
        template = template.replace("{{" + key + "}}", value)
    return " ".join(word for word in template.split() if not word.startswith("{{"))


def shown(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    suffix = {"cps": "/s", "reqps": "/s", "Bps": "B/s", "bytes": "B"}.get(unit, "")
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10 ** power:
            return f"{value / 10 ** power:.3g} {letter}{suffix}"
    return f"{value:.3g}{suffix and ' ' + suffix}"


def ceiling(value):
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if value <= step * power * 1.0001)


def series_of(panel, url, begin, end, step, interval):
    """(name, whose it is, points) of each series. Whose: the tenant where there is one, so that a tenant is known by its color."""
    found = []
    for target in panel["targets"]:
        for result in ask(url, filled(target["expr"], interval), begin, end, step):
            points = [(float(t), float(v)) for t, v in result["values"] if v not in ("NaN", "+Inf", "-Inf")]
            if points:
                name = legend_of(target.get("legendFormat", ""), result["metric"])
                found.append((name, result["metric"].get("tenant", name), points))
    found = sorted(found, key=lambda entry: -max(v for _, v in entry[2]))[:MOST_SERIES]
    first = {}  # of several series of one tenant the largest has its color
    for name, owner, _ in found:
        first.setdefault(owner, name)
    return [(name, owner if first[owner] == name else name, points) for name, owner, points in found]


def colors_of(panels):
    """A color for each series of each panel (lists of names): a name that several panels show has the same one in all of them."""
    seen_in = {}
    for names in panels:
        for name in names:
            seen_in[name] = seen_in.get(name, 0) + 1
    shared = [name for name in seen_in if name and seen_in[name] > 1]
    fixed = {name: COLORS[index] for index, name in enumerate(sorted(shared)[:len(COLORS)])}
    chosen = []
    for names in panels:
        free = iter([color for color in COLORS if color not in {fixed.get(name) for name in names}])
        chosen.append([fixed.get(name) or next(free) for name in names])
    return chosen


def draw(panel, series, colors, begin, end):
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    rows = math.ceil(len(series) / 2)
    bottom = HEIGHT - BOTTOM - LEGEND_ROW * rows
    top_value = ceiling(max((v for _, _, points in series for _, v in points), default=1))
    x = lambda t: LEFT + (WIDTH - LEFT - RIGHT) * (t - begin) / (end - begin)
    y = lambda v: bottom - (bottom - TOP) * max(v, 0) / top_value
    out = [f'<rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="6"/>', f'<text class="title" x="12" y="21">{escape(panel["title"])}</text>']
    for share in (0, 0.5, 1):
        level = y(share * top_value)
        out += [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>',
                f'<text class="quiet" text-anchor="end" x="{LEFT - 5}" y="{level + 4:.1f}">{escape(shown(share * top_value, unit))}</text>']
    for share, anchor in ((0, "start"), (1, "end")):
        when = datetime.datetime.fromtimestamp(begin + share * (end - begin), datetime.timezone.utc).strftime("%H:%M:%S")
        out.append(f'<text class="quiet" text-anchor="{anchor}" x="{x(begin + share * (end - begin)):.1f}" y="{bottom + 15}">{when}</text>')
    for index, (name, _, points) in enumerate(series):
        color = colors[index]
        path = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)
        out.append(f'<polyline class="line" stroke="{color}" points="{path}"/>')
        at_x, at_y = 12 + (WIDTH - 24) / 2 * (index % 2), bottom + 31 + LEGEND_ROW * (index // 2)
        label = f"{name or panel['title']}: {shown(points[-1][1], unit)}"
        out += [f'<rect x="{at_x:.0f}" y="{at_y - 8:.0f}" width="9" height="9" rx="2" fill="{color}"/>',
                f'<text class="quiet" x="{at_x + 14:.0f}" y="{at_y:.0f}">{escape(label)}</text>']
    return "\n".join(out)


def picture(url, board_name, titles, minutes=5, interval="30s"):
    """The SVG's text, and the titles of panels without data."""
    board = json.loads((DASHBOARDS / f"{board_name}.json").read_text())
    by_title = {panel["title"]: panel for panel in board["panels"] if panel["type"] != "row"}
    end = time.time()
    begin, step = end - 60 * minutes, max(1, minutes * 60 // 150)
    rows = math.ceil(len(titles) / COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
           f'aria-label="{escape(board["title"])}: {escape(", ".join(titles))}">', f"<style>{STYLE}</style>",
           f'<rect width="{width}" height="{height}" fill="#f6f5f2"/>']
    shown_series = [series_of(by_title[title], url, begin, end, step, interval) for title in titles]
    empty = [title for title, series in zip(titles, shown_series) if not series]
    colors = colors_of([[owner for _, owner, _ in series] for series in shown_series])
    for index, (title, series) in enumerate(zip(titles, shown_series)):
        at_x, at_y = GAP + (WIDTH + GAP) * (index % COLUMNS), GAP + (HEIGHT + GAP) * (index // COLUMNS)
        out += [f'<g transform="translate({at_x},{at_y})">', draw(by_title[title], series, colors[index], begin, end), "</g>"]
    return "\n".join(out + ["</svg>"]) + "\n", empty


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("dashboard")
    parser.add_argument("titles", nargs="+")
    parser.add_argument("--minutes", type=int, default=5)
    given = parser.parse_args()
    text, without = picture(given.url, given.dashboard, given.titles, given.minutes)
    given.out.write_text(text)
    if without:
        print("no data:", ", ".join(without))
