"""Markdown and SVG out of the results that lie in a folder: one JSON file per row."""

import html
import json
import os

PALETTE = {"ours": "#1f6f54", "peer": "#9aa5b1"}


def load(folder):
    results = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            results.append(json.load(open(f"{folder}/{name}")))
    return results


def spread(got):
    middle = got["median"] or 1
    return f"{100 * (got['largest'] - got['smallest']) / abs(middle):.0f} %"


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def chart(result):
    """Bars, longest first where more is better; the line shows smallest to largest."""
    items = sorted(result["contestants"].items(), key=lambda item: item[1]["median"], reverse=result["higher_is_better"])
    top = max(got["largest"] for _, got in items) or 1
    width, left, bar, gap = 760, 230, 20, 8
    height = 46 + len(items) * (bar + gap)
    scale = (width - left - 90) / top
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="8" y="18" font-size="14" fill="#1b1f24">{html.escape(result["title"])} ({html.escape(result["unit"])})</text>']
    for i, (name, got) in enumerate(items):
        y = 34 + i * (bar + gap)
        colour = PALETTE["ours" if name == result["ours"] else "peer"]
        middle = y + bar / 2
        out.append(f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end" fill="#1b1f24">{html.escape(name)}</text>')
        out.append(f'<rect x="{left}" y="{y}" width="{got["median"] * scale:.1f}" height="{bar}" fill="{colour}"/>')
        out.append(f'<line x1="{left + got["smallest"] * scale:.1f}" x2="{left + got["largest"] * scale:.1f}" y1="{middle}" '
                   f'y2="{middle}" stroke="#1b1f24"/>')
        out.append(f'<text x="{left + got["largest"] * scale + 6:.1f}" y="{middle + 4}" fill="#1b1f24">{number(got["median"])}</text>')
    out.append("</svg>\n")
    return "\n".join(out)


def bar_text(bar):
    against = "of the roof" if bar["against"] == "roof" else f"x {bar['against']}"
    if bar["against"] == "roof":
        return f"{100 * bar['reached']:.0f} % {bar['text'] or against}, asked {100 * bar['asked']:.0f} %: {verdict(bar)}"
    return f"{bar['reached']:.2f} {against}, asked {bar['asked']:g}: {verdict(bar)}"


def verdict(bar):
    return "met" if bar["met"] else "**missed**"


def table(results):
    lines = ["| work | Pagoda | best peer | against the bars of issue 4 |", "|---|---|---|---|"]
    for result in results:
        ours = result["contestants"][result["ours"]]
        peer = result["best_peer"]
        peer_text = f"{peer} {number(result['contestants'][peer]['median'])}" if peer else ""
        bars = "; ".join(bar_text(bar) for bar in result["bars"])
        lines.append(f"| {result['title']} | {number(ours['median'])} {result['unit']} | {peer_text} | {bars} |")
    return "\n".join(lines) + "\n"


def section(result):
    lines = [f"## {result['title']}", "", f"![{result['title']}]({result['name']}.svg)", ""]
    if result["note"]:
        lines += [result["note"], ""]
    lines += [f"| contestant | median, {result['unit']} | smallest to largest | spread | ours is | run as |", "|---|---|---|---|---|---|"]
    ours = result["contestants"][result["ours"]]["median"]
    for name, got in result["contestants"].items():
        ratio = ours / got["median"] if result["higher_is_better"] else got["median"] / ours
        variant = ", ".join(f"{k}={v}" for k, v in (got["variant"] or {}).items())
        lines.append(f"| {name} | {number(got['median'])} | {number(got['smallest'])} to {number(got['largest'])} | {spread(got)} | "
                     f"{ratio:.2f} times | {variant} |")
    roofs = result["roofs"]
    lines += ["", f"{len(next(iter(result['contestants'].values()))['values'])} rounds, {result['measured']}, commit {result['commit']}, "
              f"{result['threads']} threads. Roofs minutes before: {roofs['vnni_ops_per_s'] / 1e9:.0f} GOP/s of VNNI, "
              f"{roofs['read_bytes_per_s'] / 1e9:.1f} GB/s reading {roofs['read_bytes'] / 1e6:.0f} MB round and round, "
              f"{roofs['f32_flop_per_s'] / 1e9:.0f} GFLOP/s in f32.", ""]
    lines += [f"- {bar_text(bar)}" for bar in result["bars"]] + [""]
    return "\n".join(lines)


def write(folder):
    results = load(folder)
    if not results:
        return
    machine = results[-1]["machine"]
    for result in results:
        with open(f"{folder}/{result['name']}.svg", "w") as out:
            out.write(chart(result))
    with open(f"{folder}/README.md", "w") as out:
        out.write(f"# {machine['kind']}\n\n{machine['model']}, {machine['cores']} cores, {machine['memory_gib']} GiB. "
                  "Written by `bench/cpu/run`; do not edit. Medians; peers at the best of their flags; speculation off.\n\n")
        out.write(table(results) + "\n")
        out.write("\n".join(section(result) for result in results))
