"""docs/metrics.md: every metric of the real processes, as they expose it."""
import re

import tools

FILE = tools.ROOT / "docs/metrics.md"
HEAD = """# Metrics

Every metric of every process, as a running cluster exposes it. Made and held by `tests/deploy/panels_test.py` (`--update-metrics` writes
this file). Times are in seconds, sizes in bytes. A histogram has the series `_bucket` (with `le`), `_sum` and `_count`. Labels are bounded:
`model_name` is a deployment's name, `tenant` one of the key file's (the first 64; the others are `_other`), the rest are our own words and
numbers; nothing that a client sent becomes a label.

The `vllm:` names are aliases under which gateways, autoscalers and public dashboards look for these figures.
"""


def families(text):
    """name -> (type, labels, help) of an exposition."""
    kinds, helps, labels = {}, {}, {}
    for line in text.splitlines():
        words = line.split(" ", 3)
        if line.startswith("# HELP "):
            helps[words[2]] = words[3] if len(words) > 3 else ""
        elif line.startswith("# TYPE "):
            kinds[words[2]] = words[3]
        elif line:
            name = re.match(r"[A-Za-z_:][A-Za-z0-9_:]*", line)[0]
            rest = line[len(name):].rpartition("}")[0]
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            family = base if kinds.get(base) == "histogram" else name
            labels.setdefault(family, set()).update(re.findall(r'([a-z_]+)="', rest))
    return {name: (kinds[name], sorted(labels.get(name, set()) - {"le"}), helps.get(name, "")) for name in kinds}


def render(by_process):
    """The file's text; `by_process`: title -> texts of expositions of that kind of process."""
    out = [HEAD]
    for title, texts in by_process.items():
        found = {}
        for text in texts:
            for name, (kind, labels, words) in families(text).items():
                known = found.get(name, (kind, [], words))
                found[name] = (kind, sorted(set(known[1]) | set(labels)), words)
        out += [f"## {title}", "", "| name | type | labels | |", "|---|---|---|---|"]
        out += [f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {words} |".replace("|  |", "| |")
                for name, (kind, labels, words) in sorted(found.items())] + [""]
    return "\n".join(out).rstrip() + "\n"
