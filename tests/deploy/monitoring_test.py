#!/usr/bin/env python3
"""Rules and dashboards: promtool's checks and unit tests, metrics that exist, panels that can be read, runbooks for every alert.

tests/deploy/scrape/*.prom are scrapes of a real cluster under load (a router, a coordinator, a worker of stage 0), written by
`panels_test.py --update-metrics`, and a stand-in of dcgm-exporter (dcgm.prom: no GPU was there); panels_test asks a live one.
"""
import pathlib
import re
import sys
import tempfile

import panels
import tools

yaml = tools.need("yaml", "pyyaml")
PROMTOOL = tools.promtool()
RULES = yaml.safe_load(tools.RULES.read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
README = (tools.ROOT / "deploy/README.md").read_text()
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
UNITS = {"s", "cps", "reqps", "percentunit", "short", "bytes", "Bps", "celsius", "watt"}


def exposed():
    """Series name -> label names, of the recorded scrapes."""
    series = {}
    for path in sorted((tools.HERE / "scrape").glob("*.prom")):
        for line in path.read_text().splitlines():
            if match := re.match(r"([A-Za-z_:][\w:]*)(\{(.*)\})? ", line):
                series.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[3] or ""))
    return series


SERIES = exposed()


def test_rules_are_right_for_promtool():
    done = tools.run(PROMTOOL, "check", "rules", tools.RULES)
    assert f"{len(ALL_RULES)} rules found" in done.stdout, done.stdout


def test_the_docs_example_of_a_prometheus_is_right():
    text = re.search(r"^```yaml\n(.*?)^```$", (tools.ROOT / "docs/observe.md").read_text(), re.M | re.S)[1]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pagoda-ca.crt", "pagoda-metrics-key"):
            pathlib.Path(folder, name).touch()
        (pathlib.Path(folder) / "pagoda-rules.yaml").write_text(tools.RULES.read_text())
        (pathlib.Path(folder) / "prometheus.yml").write_text(text.replace("/etc/prometheus", folder))
        done = tools.run(PROMTOOL, "check", "config", f"{folder}/prometheus.yml")
    assert f"{len(ALL_RULES)} rules found" in done.stdout, done.stdout


def test_rules_do_what_they_say():
    done = tools.run(PROMTOOL, "test", "rules", tools.HERE / "rules_test.yaml")
    assert "SUCCESS" in done.stdout, done.stdout


def test_every_alert_is_tested_firing_and_quiet():
    cases = yaml.safe_load((tools.HERE / "rules_test.yaml").read_text())["tests"]
    fires, quiet = set(), set()
    for case in cases:
        for check in case.get("alert_rule_test", []):
            (fires if check.get("exp_alerts") else quiet).add(check["alertname"])
    assert fires == set(ALERTS), fires ^ set(ALERTS)
    assert quiet == set(ALERTS), quiet ^ set(ALERTS)


HEADINGS = set(re.findall(r"^## (\w+)$", (tools.ROOT / "docs/runbooks.md").read_text(), re.M))


def test_every_alert_has_a_severity_a_text_and_a_runbook():
    assert HEADINGS == set(ALERTS), HEADINGS ^ set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}", name


def test_docs_call_dashboards_what_they_are_called():
    called = {board["title"].removeprefix("Pagoda / "): [panel["title"] for panel in panels.panels(board)] for board in panels.boards().values()}
    named = [(path.name, *found) for path in sorted((tools.ROOT / "docs").glob("*.md"))
             for found in re.findall(r"dashboard\s+\*?([A-Z][A-Za-z ]+[A-Za-z])\*?(?:,\s+panel\s+\*([^*]+)\*)?", path.read_text())]
    assert len(named) >= 4, named
    wrong = [(page, board, panel) for page, board, panel in named if board not in called or panel and panel not in called[board]]
    assert not wrong, f"there are no such dashboards or panels: {wrong}"


def test_the_chart_makes_links_of_runbooks():
    """With the address at which an organisation shows docs/runbooks.md; without one there is no annotation that only looks like a link."""
    import chart
    for address in ("https://git.example/pagoda/docs/runbooks.md", ""):
        text = chart.template("--set", f"monitoring.rules.enabled=true,monitoring.rules.runbookUrl={address}").stdout
        spec = next(item for item in yaml.safe_load_all(text) if item and item["kind"] == "PrometheusRule")["spec"]
        alerts = [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
        assert len(alerts) == len(ALERTS)
        for rule in alerts:
            annotations, anchor = rule["annotations"], rule["alert"].lower()
            if address:
                assert annotations["runbook_url"] == f"{address}#{anchor}" and "runbook" not in annotations, annotations
            else:
                assert annotations["runbook"] == f"docs/runbooks.md#{anchor}" and "runbook_url" not in annotations, annotations
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(spec, file)
            file.flush()
            assert f"{len(ALL_RULES)} rules found" in tools.run(PROMTOOL, "check", "rules", file.name).stdout


def test_metrics_of_rules_dashboards_and_scalers_exist():
    texts = {f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in ALL_RULES}
    for name, board in panels.boards().items():
        for panel in panels.panels(board):
            for target in panel["targets"]:
                texts[f"{name}: {panel['title']}: {target['refId']}"] = panels.filled(target["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                texts[f"{name}: ${variable['name']}"] = variable["query"].removeprefix("label_values(").split(",")[0]
    for golden in ("autoscaled-keda", "autoscaled-hpa"):
        text = (tools.HERE / f"golden/{golden}.yaml").read_text()
        for metric in re.findall(r"\bpagoda_[a-z_]+", re.sub(r"(?m)^.*(image|serviceAccount).*$", "", text)):
            # What an adapter renames for a HorizontalPodAutoscaler stands in deploy/README.md, with the rule that it comes from.
            renamed = re.search(rf"seriesQuery: '{{__name__=\"([a-z0-9_:]+)\"}}'[^\n]*\n[^\n]*\n *name: {{as: {metric}}}", README)
            texts[f"{golden}: {metric}"] = renamed[1] if renamed else metric
    known = set(SERIES) | RECORDED
    missing = [f"{where}: {sorted(panels.metrics_of(text) - known)}" for where, text in texts.items() if panels.metrics_of(text) - known]
    assert not missing, "\n".join(missing)
    assert len(texts) > 80, len(texts)


def test_labels_that_panels_sum_by_exist():
    from_prometheus = {"namespace", "pod", "instance"}
    for name, board in panels.boards().items():
        for panel in panels.panels(board):
            for target in panel["targets"]:
                metrics = panels.metrics_of(panels.filled(target["expr"]))
                labels = set().union(*(SERIES.get(metric, {"namespace", "model_name"}) for metric in metrics)) | from_prometheus
                used = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in group.split(",")}
                used |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                used |= {label for group in re.findall(r"\{([^}]*)\}", target["expr"]) for label in re.findall(r"(\w+)(?:=~?|!=|!~)", group)}
                assert used - {""} <= labels, f"{name}: {panel['title']}: {used - labels}"


def test_requests_are_those_of_users():
    """Probes and scrapes are endpoint "other": a model that loads answers them 503, and that is no request that failed."""
    expressions = [rule["expr"] for rule in ALL_RULES]
    expressions += [target["expr"] for board in panels.boards().values() for panel in panels.panels(board) for target in panel["targets"]]
    selectors = [selector for text in expressions for selector in re.findall(r"\bpagoda_router_requests_total\b(\{[^}]*\})?", text)]
    assert len(selectors) > 12, selectors
    wrong = [selector for selector in selectors if 'endpoint!="other"' not in selector]
    assert not wrong, f"these count probes: {wrong}"


def test_boards_with_a_model_to_choose_show_that_one():
    asked = 0
    for name, board in panels.boards().items():
        if "model_name" not in {variable["name"] for variable in board["templating"]["list"]}:
            continue
        for panel in panels.panels(board):
            for target in panel["targets"]:
                for metric, selector in re.findall(r"\b(namespace\w*:\w+(?::\w+)?|pagoda_\w+)\{([^}]*)\}", target["expr"]):
                    asked += 1
                    if "model_name" in SERIES.get(metric, ()):
                        assert 'model_name=~"$model_name"' in selector, f"{name}: {panel['title']}: {metric} is of all models"
                for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]):
                    labels = set(group.split(", "))
                    assert "model_name" in labels or not labels & {"stage", "rank", "pipeline"}, f"{name}: {panel['title']}: models are merged: {group}"
    assert asked > 40, asked


def test_panels_are_readable():
    uids = set()
    for name, board in panels.boards().items():
        uids.add(board["uid"])
        identifiers = [panel["id"] for panel in board["panels"]]
        assert len(identifiers) == len(set(identifiers)) and 0 not in identifiers, name
        titles = [panel["title"] for panel in panels.panels(board)]
        assert len(titles) == len(set(titles)), name
        cells, used = set(), set()
        for panel in panels.panels(board):
            where = f"{name}: {panel['title']}"
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, where
            assert panel["description"].endswith("."), where
            assert panel["datasource"]["uid"] == "${datasource}", f"{where}: a data source is wired in"
            assert all(target["legendFormat"] for target in panel["targets"]), where
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), where
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24, where
            own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            assert not own & cells, f"{where} lies over another panel"
            cells |= own
            for target in panel["targets"]:
                expression = target["expr"]
                timed = [metric for metric in panels.metrics_of(expression) if "_seconds" in metric]
                if timed:  # a quantile, or a sum over its count, is a time; a sum of seconds over another is a share; alone it is nothing
                    shares = all(metric.endswith("_sum") for metric in timed)
                    assert len(timed) > 1 or not shares, f"{where}: a sum of seconds without its count"
                    assert panel["fieldConfig"]["defaults"]["unit"] == ("percentunit" if shares else "s"), where
                for metric in panels.metrics_of(expression):
                    if metric.endswith(("_total", "_bucket", "_sum", "_count")) and metric != "pagoda_epochs_total":
                        assert re.search(rf"(rate|increase)\({metric}\b", expression), f"{where}: {metric} is a counter and not in a rate"
            for target in panel["targets"]:
                used |= set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
        variables = {variable["name"] for variable in board["templating"]["list"]}
        assert used <= variables and variables <= used | {"datasource"}, f"{name}: {used} of {variables}"
    assert len(uids) == len(panels.boards()) >= 7


def test_dashboards_are_what_the_script_builds():
    try:
        import grafana_foundation_sdk  # noqa: F401
    except ImportError:
        print("      (not compared: grafana-foundation-sdk is not there)")
        return
    with tempfile.TemporaryDirectory() as folder:
        tools.run(sys.executable, tools.ROOT / "deploy/monitoring/dashboards.py", folder)
        built = {path.name: path.read_text() for path in pathlib.Path(folder).glob("*.json")}
    committed = {path.name: path.read_text() for path in tools.DASHBOARDS.glob("*.json")}
    assert built == committed, "deploy/helm/pagoda/files/dashboards differs from what deploy/monitoring/dashboards.py builds"


def drawn_series(svg):
    """[(panel's title, [(name, color)])] of a picture."""
    cards = svg.split('<g transform="translate(')[1:]
    return [(re.search(r'class="title"[^>]*>([^<]*)<', card)[1],
             [(name.rsplit(": ", 1)[0], color) for color, name in re.findall(r'<rect [^>]*fill="(#\w+)"/>\n<text class="quiet"[^>]*>([^<]*)<', card)])
            for card in cards]


def same_names_have_same_colors(svg, whose=lambda name: name):
    colors = {}
    shown = drawn_series(svg)
    assert shown
    for title, series in shown:
        assert series and len({color for _, color in series}) == len(series), f"{title}: two series of one color: {series}"
        for name, color in series:
            if whose(name):
                colors.setdefault(whose(name), {}).setdefault(color, title)
    return [f"{name} has {len(found)} colors: {found}" for name, found in colors.items() if len(found) > 1]


def test_pictures_give_a_name_one_color():
    """Whoever leads in a panel, and whatever else is shown there. The figures are made up here; the committed pictures' are not."""
    sys.path.insert(0, str(tools.ROOT / "deploy/monitoring"))
    import draw_panels
    leading = {"acme": 5, "trial": 1}

    def ask(_, expression, begin, end, step):
        if "quota_refusals" in expression:
            names = [{"tenant": tenant, "quota": quota} for tenant in leading for quota in ("requests", "tokens")]
        else:
            names = [{"tenant": tenant} for tenant in leading]
        leading.update(acme=leading["trial"], trial=leading["acme"])
        return [{"metric": name, "values": [[begin, leading[name["tenant"]]], [end, leading[name["tenant"]]]]} for name in names]
    real, draw_panels.ask = draw_panels.ask, ask
    try:
        svg, empty = draw_panels.picture("", "tenants", ["Requests by tenant", "Over the quota", "Refused", "Time to first token, p99"])
    finally:
        draw_panels.ask = real
    assert not empty
    wrong = same_names_have_same_colors(svg, lambda name: None if name.endswith(" tokens") else name.removeprefix("p99 ").split()[0])
    assert not wrong, wrong


def test_every_board_has_its_picture_and_every_picture_its_place():
    """Drawn by `panels_test.py --pictures`; of the GPUs there is none, since none was there to be asked."""
    images = tools.ROOT / "docs/images"
    pages = {path: path.read_text() for path in [tools.ROOT / "README.md", *sorted((tools.ROOT / "docs").glob("*.md"))]}
    wanted = {f"panels-{name}" for name in panels.boards()} - {"panels-gpu"}
    assert {path.stem for path in images.glob("panels*.svg")} == wanted
    for path in sorted(images.glob("*")):
        assert any(f"images/{path.name}" in text for text in pages.values()), f"no page shows {path.name}"
    for page, text in pages.items():
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
            assert len(alternative.split()) > 2, f"{page.name}: {target} says nothing to those who do not see it"
    boards = {f"panels-{name}": board for name, board in panels.boards().items()}
    for stem in sorted(wanted):
        svg = (images / f"{stem}.svg").read_text()
        wrong = same_names_have_same_colors(svg)
        assert not wrong, f"{stem}: {wrong}"
        titles = {panel["title"].replace("&", "&amp;") for panel in panels.panels(boards[stem])}
        shown = {title for title, _ in drawn_series(svg)}
        assert shown <= titles and len(shown) >= 6, f"{stem}: {shown - titles}"


def test_scraped_metrics_are_well_formed():
    """promtool's linter, apart from the five documented vllm: aliases of the router, dcgm-exporter's names and prometheus-cpp's own exposer_* series."""
    for path in sorted((tools.HERE / "scrape").glob("*.prom")):
        text = "\n".join(line for line in path.read_text().splitlines() if not re.match(r"(# \w+ )?(vllm:|exposer_|DCGM_)", line)) + "\n"
        done = tools.run(PROMTOOL, "check", "metrics", input=text, check=False)
        assert done.returncode == 0, f"{path.name}: {done.stdout}{done.stderr}"


if __name__ == "__main__":
    tools.main(sys.modules[__name__])
