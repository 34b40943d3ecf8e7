"""bench/cpu/run: measures rows, writes what came out. See bench/README.md."""

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import re
import statistics
import subprocess
import sys
import time

import bench.cpu.rows
from bench.cpu.harness import machine, report
from bench.cpu.harness.context import Context
from bench.cpu.harness.machine import flags
from bench.cpu.harness.row import best

MOST_OTHERS = 0.06  # of the machine, by processes that are not part of a round
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))


def all_rows():
    rows = []
    for module in sorted(pkgutil.iter_modules(bench.cpu.rows.__path__), key=lambda found: found.name):
        rows += importlib.import_module(f"bench.cpu.rows.{module.name}").ROWS
    names = [row.name for row in rows]
    assert len(set(names)) == len(names), f"two rows of one name: {sorted(names)}"
    return rows


def arguments():
    parser = argparse.ArgumentParser(prog="bench/cpu/run", description=__doc__)
    parser.add_argument("--rows", default=".*", help="regular expression over row names; each result goes to a file of its own")
    parser.add_argument("--rounds", type=int, help="default: what the row says, 5 or more")
    parser.add_argument("--quick", action="store_true", help="one round, results are printed and not written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="the rows, and end")
    parser.add_argument("--prepare", action="store_true", help="build, download and make files for the rows, and end")
    parser.add_argument("--report", action="store_true", help="only write tables and charts again from the results that are there")
    parser.add_argument("--probe", action="store_true", help="try all variants of the peers again")
    parser.add_argument("--results", default=f"{ROOT}/bench/results")
    return parser.parse_args()


def numbers(measured):
    return measured if isinstance(measured, dict) else {"value": float(measured)}


def undisturbed(context, contestant, variant):
    """One round, taken again (once) when other processes took more than MOST_OTHERS of the machine meanwhile."""
    for _ in range(2):
        begin, busy, own = time.monotonic(), machine.busy_seconds(), machine.own_seconds()
        got = numbers(contestant.measure(context, **variant) if variant else contestant.measure(context))
        others = (machine.busy_seconds() - busy) - (machine.own_seconds() - own)
        got["others"] = round(max(0.0, others / (time.monotonic() - begin) / context.machine["cores"]), 4)
        if got["others"] <= MOST_OTHERS:
            return got
        context.say(f"  {contestant.name}: {got['value']:.4g}, but others took {100 * got['others']:.0f} % of the machine")
    return got


def choose_variants(row, context, probe):
    """For each contestant the variant that does best; what an earlier run of this row on this machine found is kept."""
    path = f"{context.cache}/variants.json"
    known = json.load(open(path)) if os.path.exists(path) else {}
    chosen = {}
    for contestant in row.contestants:
        if not contestant.variants:
            chosen[contestant.name] = None
            continue
        key = f"{context.machine['kind']} {row.name} {contestant.name}"
        kept = known.get(key)
        if kept in contestant.variants and not probe:
            chosen[contestant.name] = kept
            continue
        scores = []
        for variant in contestant.variants:
            value = numbers(contestant.measure(context, **variant))["value"]
            context.say(f"  {contestant.name} with {variant}: {value:.4g} {row.unit}")
            scores.append(value if row.higher_is_better else -value)
        known[key] = chosen[contestant.name] = contestant.variants[scores.index(max(scores))]
        with open(path, "w") as out:
            json.dump(known, out, indent=1)
    return chosen


def measure(row, context, rounds, probe):
    variants = choose_variants(row, context, probe)
    samples = {contestant.name: [] for contestant in row.contestants}
    for number in range(rounds):
        # Every other round goes backwards, so that nobody always follows the same neighbour.
        order = row.contestants if number % 2 == 0 else row.contestants[::-1]
        for contestant in order:
            variant = variants[contestant.name]
            got = undisturbed(context, contestant, variant)
            samples[contestant.name].append(got)
            context.say(f"  round {number + 1}: {contestant.name}: {got['value']:.4g} {row.unit}")
    return samples, variants


def summarise(row, context, samples, variants):
    contestants, medians = {}, {}
    for contestant in row.contestants:
        values = [sample["value"] for sample in samples[contestant.name]]
        medians[contestant.name] = statistics.median(values)
        contestants[contestant.name] = {
            "median": medians[contestant.name], "smallest": min(values), "largest": max(values), "values": values,
            "variant": variants[contestant.name],
            "others": max(sample["others"] for sample in samples[contestant.name]),
            "details": {k: v for k, v in samples[contestant.name][-1].items() if k not in ("value", "others")}}
    ours = row.contestants[0].name
    bars = []
    for bar in row.bars:
        if bar.roof is not None:
            reached, against = bar.roof(context, medians[ours]), "roof"
        else:
            present = {name: medians[name] for name in bar.against if name in medians}
            against = (max if row.higher_is_better else min)(present, key=present.get)
            reached = medians[ours] / present[against] if row.higher_is_better else present[against] / medians[ours]
        bars.append({"asked": bar.ratio, "reached": reached, "met": reached >= bar.ratio, "against": against, "text": bar.text})
    return {"name": row.name, "title": row.title, "unit": row.unit, "higher_is_better": row.higher_is_better, "note": row.note,
            "ours": ours, "best_peer": best(row, medians), "contestants": contestants, "bars": bars}


def commit():
    run = lambda *command: subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True).stdout.strip()
    return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "--", "kernels", "worker", "common") else "")


def print_row(result):
    print(f"\n{result['title']} ({result['unit']})")
    for name, got in result["contestants"].items():
        variant = f"  {got['variant']}" if got["variant"] else ""
        print(f"  {name:28} {got['median']:10.4g}   {got['smallest']:.4g} to {got['largest']:.4g}{variant}")
    for bar in result["bars"]:
        print(f"  bar {bar['asked']:g} against {bar['against']}: {bar['reached']:.3g} {'met' if bar['met'] else 'MISSED'} {bar['text']}")


def main():
    options = arguments()
    rows = [row for row in all_rows() if re.fullmatch(options.rows, row.name)]
    if options.list:
        for row in rows:
            print(f"{row.name:36} {row.title}")
        return 0
    context = Context(ROOT, options.quick, options.threads)
    folder = f"{options.results}/{context.machine['kind']}"
    if options.report:
        report.write(folder)
        return 0
    if not rows:
        print(f"bench: no row is named like {options.rows}; --list shows all", file=sys.stderr)
        return 2
    for row in rows:
        lacking = [need for need in row.needs if need not in flags()]
        if lacking:
            context.say(f"{row.name}: left out, this machine has no {', '.join(lacking)}")
            continue
        if row.prepare is not None:
            row.prepare(context)
        if options.prepare:
            continue
        path = f"{folder}/{row.name}.json"
        context.say(f"{row.name}: roofs")
        roofs = context.measure_roofs()
        context.say(f"{row.name}: {row.title}")
        rounds = 1 if options.quick else options.rounds or row.rounds
        samples, variants = measure(row, context, rounds, options.probe)
        result = summarise(row, context, samples, variants)
        result.update({"machine": context.machine, "roofs": roofs, "threads": options.threads, "commit": commit(),
                       "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")})
        print_row(result)
        worst = max(statistics.median(sample["others"] for sample in got) for got in samples.values())
        if worst > 2 * MOST_OTHERS:
            context.say(f"{row.name}: NOT written: other processes took {100 * worst:.0f} % of the machine")
        elif not options.quick:
            os.makedirs(folder, exist_ok=True)
            with open(path, "w") as out:
                json.dump(result, out, indent=1)
                out.write("\n")
            report.write(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
