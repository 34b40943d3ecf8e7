"""What a run tells: a transcript of its faults, the table at its end, and the violations by name."""
import faults

# Seconds, on a machine that has time for the cluster.
MOST_GAP_BEYOND_RELOAD_S = 1.0  # a worker killed with a spare
MOST_GAP_COORDINATOR_S = 3.0    # the leader killed, at the default lease
MOST_UNTIL_NAMED_S = 2.0        # a worker stopped


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def until_next(done):
    """Fault -> when the next one began: what it does after all is whole again is still its doing."""
    begun = {}
    for fault in done:
        begun.setdefault(fault.number, fault.begun)
    return {number: begun.get(number + 1, done[-1].whole + 5) for number in begun}


def gaps_in(histories, begin, end):
    """Of each stream that ran at `begin`: its longest time without an event within the two. What a stream had waited before, for another
    fault, is not this one's."""
    found = []
    for history in histories:
        if not history.times or history.times[0] > begin or history.ended < begin:
            continue
        longest = max((until - max(since, begin) for since, until in history.gaps() if until > begin and since < end), default=None)
        if longest is not None:
            found.append(longest)
    return found


def still_served(histories, fault, events):
    """Those that were not finished in the cluster before the fault: what they wait for after that is on its way to them, from before."""
    finished = {}
    for at, _, entry in events:
        if entry["event"] == "request_finished":
            finished[entry["request_id"]] = max(at, finished.get(entry["request_id"], at))
    return [history for history in histories if finished.get(history.request_id, fault.begun_unix) >= fault.begun_unix]


def reload_s(fault, events):
    """How long the shard of the lost place took to load where it went; 0 when nobody loaded."""
    assigned = {}
    for at, who, entry in events:
        if not fault.begun_unix <= at <= fault.whole_unix:
            continue
        if entry["event"] == "assigned" and who != fault.target and entry["stage"] == fault.place[1]:
            assigned.setdefault(entry["epoch"], at)
        if entry["event"] == "pipeline_ready" and entry["epoch"] in assigned and entry["pipeline"] == fault.place[0]:
            return at - assigned[entry["epoch"]]
    return 0.0


def transcript(fault, events):
    """A fault and what the cluster logged of it, as lines."""
    place = f" (pipeline {fault.place[0]}, stage {fault.place[1]})" if fault.place else ""
    notes = "; " + "; ".join(fault.notes) if fault.notes else ""
    late = fault.begun - fault.due_s - fault.begins_s
    lines = [f"{fault.begun:7.2f} s  #{fault.number}{'+' if fault.paired else ''} {fault.kind.name}: {fault.target}{place}{notes}; healed after "
             f"{fault.healed - fault.begun:.2f} s, whole after {fault.whole - fault.begun:.2f} s" + (f"; {late:.1f} s late" if late > 0.5 else "")]
    for at, who, entry in events:
        if entry["event"] not in faults.TOLD or not fault.begun_unix - 0.01 <= at <= fault.whole_unix:
            continue
        said = entry.get("what") or entry.get("why") or entry.get("error") or " ".join(
            f"{key}={value}" for key, value in entry.items() if key not in ("time", "level", "process", "event"))
        kind = f" {entry['kind']}:" if "kind" in entry else ""
        lines.append(f"           {at - fault.begun_unix:+6.2f} {who} {entry['event']}{kind} {said[:170]}")
    return lines


def row(name, times, gaps, whole):
    return (f"{name:30} {times:5} {len(gaps):7} {percentile(gaps, .5):8.2f} {percentile(gaps, .99):6.2f} {max(gaps, default=0):6.2f} "
            f"{percentile(whole, .5):17.2f} {max(whole):6.2f}")


def table(done, histories, calm, events, leaks):
    """(lines, violations of the times)."""
    ends = {end: sum(history.end == end for history in histories) for end in ("whole", "cancelled", "failed")}
    lines = [f"requests {len(histories)}: {ends['whole']} to their end, {ends['cancelled']} cancelled, {ends['failed']} failed; "
             f"events {sum(len(h.events) for h in histories)}, tokens {sum(h.tokens for h in histories)}, "
             f"reconnects {sum(max(0, h.reconnects) for h in histories)}",
             f"faults {len(done)}, of them {sum(f.paired for f in done)} in twos and {sum(f.begun - f.due_s - f.begins_s > 0.5 for f in done)} late "
             "because the one before was not over",
             "", f"{'fault':30} {'times':>5} {'streams':>7} {'gap p50':>8} {'p99':>6} {'most':>6} {'whole after, p50':>17} {'most':>6}"]
    violations = []
    calm_gaps = [until - since for history in calm for since, until in history.gaps()]
    lines.append(f"{'(none: single gaps)':30} {'':5} {len(calm):7} {percentile(calm_gaps, .5):8.2f} {percentile(calm_gaps, .99):6.2f} "
                 f"{max(calm_gaps, default=0):6.2f}")
    until = until_next(done)
    for kind in faults.KINDS:
        of_kind = [fault for fault in done if fault.kind == kind and not fault.paired]
        if not of_kind:
            continue
        gaps_of = {fault.number: gaps_in(still_served(histories, fault, events), fault.begun, until[fault.number]) for fault in of_kind}
        gaps = [gap for fault in of_kind for gap in gaps_of[fault.number]]
        whole = [fault.whole - fault.begun for fault in of_kind]
        lines.append(row(kind.name, len(of_kind), gaps, whole))
        if kind.name == "leader kill -9" and percentile(gaps, .99) > MOST_GAP_COORDINATOR_S:
            violations.append(f"leader killed: gap p99 {percentile(gaps, .99):.2f} s, at most {MOST_GAP_COORDINATOR_S} s are promised")
        if kind.name == "worker kill -9":
            reloads = [reload_s(fault, events) for fault in of_kind]
            beyond = [max(0.0, gap - reload) for fault, reload in zip(of_kind, reloads) for gap in gaps_of[fault.number]]
            lines.append(f"{'  beyond reloading the shard':30} {'':5} {len(beyond):7} {percentile(beyond, .5):8.2f} "
                         f"{percentile(beyond, .99):6.2f} {max(beyond, default=0):6.2f}   (reloading: {min(reloads):.2f} to {max(reloads):.2f} s)")
            if percentile(beyond, .99) > MOST_GAP_BEYOND_RELOAD_S:
                violations.append(f"worker killed: gap p99 {percentile(beyond, .99):.2f} s beyond reloading the shard, at most "
                                  f"{MOST_GAP_BEYOND_RELOAD_S} s are promised")
    pairs = [fault for fault in done if fault.companion]
    if pairs:
        gaps = [gap for fault in pairs for gap in gaps_in(histories, fault.begun, until[fault.number])]
        lines.append(row("(two at once)", len(pairs), gaps, [fault.whole - fault.begun for fault in pairs]))
    stopped = [fault for fault in done if fault.kind.name == "worker SIGSTOP" and not fault.paired]
    for fault in stopped:
        seconds, words = faults.naming(fault, events)
        lines.append(f"{'SIGSTOP of ' + fault.target:30} " + (f"named after {seconds:.2f} s: {words}" if seconds is not None else words))
        if seconds is None:
            violations.append(f"fault #{fault.number}: {fault.target} was stopped for {fault.healed - fault.begun:.1f} s: {words}")
        elif seconds > MOST_UNTIL_NAMED_S:
            violations.append(f"fault #{fault.number}: {fault.target} was named after {seconds:.2f} s, at most {MOST_UNTIL_NAMED_S} s are promised")
    longest = sorted(((until - since, since, history) for history in histories for since, until in history.gaps()), key=lambda gap: -gap[0])[:3]
    for seconds, since, history in longest:
        lines.append(f"{'longest gap of all':30} {seconds:.2f} s from {since:.2f} s on: {history.request_id} ({history.request.name}), "
                     f"{history.reconnects} reconnects")
    lines.append("left over: " + ", ".join(f"{count} {what}" for what, count in leaks.items()))
    return lines, violations
