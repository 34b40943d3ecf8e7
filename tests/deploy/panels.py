"""The expressions of the committed dashboards, as Prometheus would get them from Grafana."""
import json
import re

import tools

# Functions and keywords of PromQL that look like metrics in the expressions used here.
WORDS = {"sum", "by", "rate", "increase", "histogram_quantile", "max", "min", "avg", "count", "vector", "or", "and", "le", "on", "absent", "unless", "last_over_time"}


def boards():
    return {path.stem: json.loads(path.read_text()) for path in sorted(tools.DASHBOARDS.glob("*.json"))}


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def filled(expression, interval="1m"):
    """With every variable at "All"."""
    return expression.replace("$__rate_interval", interval).replace("$namespace", ".*").replace("$model_name", ".*").replace("$tenant", ".*").replace("$node", ".*")


def metrics_of(expression):
    """Names of metrics in an expression: what is left without strings, label lists, functions and words of the language."""
    bare = re.sub(r'"[^"]*"|\'[^\']*\'', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\btime\(\)", "", bare)
    return {name for name in re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", bare) if name not in WORDS}
