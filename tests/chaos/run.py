#!/usr/bin/env python3
"""A whole cluster of real processes on hosts of its own (hosts.py, testbed.py), clients that never give up before 120 s (clients.py),
and faults from a seed (faults.py): every client's history is held against the undisturbed run (history.py).

    tests/chaos/run.py [--seed N] [--seconds N] [--clients N] [--interval S] [--short] [--output FOLDER]

Prints what happens, then a table, then PASS, or the violations by name and exit status 1. The same seed gives the same
schedule. Needs root (namespaces) and etcd; without them it is skipped with a word.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # processes are started while clients are in calls

import clients  # noqa: E402
import faults  # noqa: E402
import history  # noqa: E402
import hosts  # noqa: E402
import report  # noqa: E402
import testbed  # noqa: E402

WHOLE_S = 45       # after a fault is healed; longer is a violation
CALM_S = 4         # of load before the first fault


class Run:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.violations, self.done, self.lines = [], [], []
        self.leaks, self.histories = {}, []

    def say(self, *lines):
        for line in lines:
            self.lines.append(line)
            print(line, flush=True)

    def violated(self, what):
        self.violations.append(what)
        self.say(f"VIOLATION  {what}")

    def everything(self):
        options = self.options
        plan = faults.schedule(options.seed, options.seconds, options.interval, options.short)
        self.say(f"seed {options.seed}: {len(plan)} faults of {len({fault.kind for fault in plan})} kinds in {options.seconds:.0f} s, "
                 f"{options.clients} clients; {os.cpu_count()} processors, {os.getloadavg()[0]:.1f} of them wanted before it starts")
        with hosts.Network(self.folder) as self.network, testbed.Testbed(self.network) as self.bed:
            started = time.monotonic()
            self.requests = clients.all_requests(self.bed, **({"prompts": 1} if options.short else {}))
            self.expected = self.undisturbed()
            self.say(f"{len(self.requests)} requests run undisturbed in {time.monotonic() - started:.1f} s")
            load = clients.Clients(self.bed, self.requests, options.clients, options.seed)
            time.sleep(CALM_S)
            with load.lock:
                calm = list(load.histories)
            self.disturb(plan)
            self.finish(load, calm)

    def undisturbed(self):
        expected = {}
        for number, request in enumerate(self.requests):
            whole = clients.play(self.bed, request, client=-1, first_router=number % 2)
            expected[request.name] = request.gathered(whole.events)
            assert whole.end == "whole", f"{request.name} undisturbed: {whole.error}"
            assert not history.violations_of(whole, expected[request.name]), "the undisturbed run does not agree with itself"
        return expected

    def disturb(self, plan):
        zero = time.monotonic()
        self.zero = zero
        for fault in plan:
            time.sleep(max(0.0, zero + fault.due_s - time.monotonic()))
            if time.monotonic() - zero > self.options.seconds + self.options.interval:
                self.say(f"{len(plan) - len(self.done)} faults were not reached: recovery took longer than the interval")
                return
            together = [fault, fault.companion] if fault.companion else [fault]
            # The last fault may have had an afterlife: a lease that ran out while etcd was stopped.
            if missing := self.until_whole():
                self.violated(f"before fault #{fault.number} ({fault.kind.name}) it is not whole for {WHOLE_S} s: {missing}")
                return
            for one in together:
                faults.choose(one, *self.bed.seen)
            self.carry_out(together)
            missing = self.until_whole()
            for one in together:
                one.whole, one.whole_unix = time.monotonic(), time.time()
                for clock in ("begun", "healed", "whole"):
                    setattr(one, clock, getattr(one, clock) - zero)
                self.done.append(one)
                self.say(*report.transcript(one, self.bed.events(*faults.TOLD) if one is fault else []))
            self.unexpected_ends(fault)
            if missing:
                self.violated(f"fault #{fault.number} ({fault.kind.name} of {fault.target}): not whole {WHOLE_S} s after it was healed: {missing}")
                return

    def carry_out(self, together):
        """Each begins and is healed at its own time."""
        zero = time.monotonic()
        steps = sorted([(one.begins_s, 0, i) for i, one in enumerate(together)] +
                       [(one.begins_s + one.seconds, 1, i) for i, one in enumerate(together)])
        undo = {}
        for at, heals, i in steps:
            time.sleep(max(0.0, zero + at - time.monotonic()))
            one = together[i]
            if heals:
                undo[i]()
                one.healed, one.healed_unix = time.monotonic(), time.time()
            else:
                one.begun, one.begun_unix = time.monotonic(), time.time()
                undo[i] = faults.begin(one, self.bed, self.network)
        # What was killed must be seen to be gone before it can be seen to be back.
        time.sleep(2 * testbed.RESTART_AFTER_S)

    def until_whole(self):
        deadline = time.monotonic() + WHOLE_S
        while missing := self.bed.missing():
            if time.monotonic() > deadline:
                return missing
            time.sleep(0.1)
        return ""

    def unexpected_ends(self, fault):
        with self.bed.lock:
            ended, self.bed.ended = self.bed.ended, []
        for _, name, status in ended:
            told = [one for one in (fault, fault.companion) if one and one.kind.action == "SIGTERM" and one.target == name]
            if told and status != 0:
                self.violated(f"{name} was told to stop at fault #{fault.number} and ended with status {status}")
            elif not faults.may_end(fault, name):
                self.violated(f"{name} ended by itself with status {status} at fault #{fault.number} ({fault.kind.name} of {fault.target})")

    def finish(self, load, calm):
        hung = load.finish()
        self.leaks = {"clients": len(hung)}
        for client in hung:
            self.violated(f"client {client} has not ended {clients.GIVE_UP_S + 30} s after the last fault")
        for one in load.histories:
            for what in history.violations_of(one, self.expected[one.request.name]):
                self.violated(what)
        self.after_the_last_request()
        of_cluster = self.bed.events("request_received", "request_finished", "assigned", *faults.TOLD)
        requests = [event for event in of_cluster if event[2]["event"].startswith("request_")]
        for what in history.cancel_violations(load.histories, requests, [(f.begun_unix, f.whole_unix) for f in self.done]):
            self.violated(what)
        self.stop()
        histories = self.histories = [self.shifted(one) for one in load.histories]
        self.say("", f"{os.getloadavg()[2]:.1f} of {os.cpu_count()} processors were wanted on this machine in the last quarter of an hour")
        lines, late = report.table(self.done, histories, calm, of_cluster, self.leaks)
        self.say("", *lines)
        for what in late:
            self.violated(what)

    def shifted(self, one):
        """On the clock of the faults."""
        one.times = [at - self.zero for at in one.times]
        one.started, one.ended = one.started - self.zero, one.ended - self.zero
        return one

    def after_the_last_request(self):
        """Blocks and leases: what is held although nobody asks for anything."""
        leader, busy = "", None
        deadline = time.monotonic() + 10
        while busy != [] and time.monotonic() < deadline:
            if seen := self.bed.state():
                leader, busy = seen[0], [p for p in seen[1].pipelines if p.running or p.waiting or p.blocks_used]
            time.sleep(0.1)
        self.leaks["blocks"] = sum(p.blocks_used for p in busy or [])
        if busy != []:
            return self.violated(f"10 s after the last request the pipelines hold something: {busy}")
        leaked = sum(value for key, value in self.bed.metrics(leader).items() if key.startswith("pagoda_coordinator_leaked_blocks"))
        if leaked:
            self.violated(f"pagoda_coordinator_leaked_blocks is {leaked:.0f}")
        while (leases := self.bed.leases()) != 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        if leases != 1:
            self.violated(f"etcd has {leases} leases, one of them is the leader's")

    def stop(self):
        """In the order in which `pagoda serve` does it."""
        self.bed.closing.set()
        self.bed.keeper.join()
        for names in (testbed.ROUTERS, testbed.WORKERS, testbed.COORDINATORS):
            for name in names:
                self.bed.children[name].send_signal(signal.SIGTERM)
            for name in names:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.bed.children[name].wait(40)
                if self.bed.children[name].poll() != 0:
                    self.violated(f"{name} was told to stop and ended with {self.bed.children[name].poll()}")
        time.sleep(0.2)
        self.leaks["leases"] = self.bed.leases()
        if self.leaks["leases"]:
            self.violated(f"etcd has {self.leaks['leases']} leases although nobody is left")
        self.bed.children["etcd"].terminate()
        self.bed.children["etcd"].wait(20)
        # In this process namespace is nothing but what this run started.
        ours = {os.getpid(), *(keeper.pid for keeper in self.network.keepers.values())}
        left = {int(entry.name): (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() for entry in pathlib.Path("/proc").iterdir()
                if entry.name.isdigit() and int(entry.name) not in ours}
        self.leaks["processes"] = len(left)
        if left:
            self.violated(f"processes are left: {left}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="of schedule and clients; default: drawn, and printed")
    parser.add_argument("--seconds", type=float, default=600, help="of faults")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--interval", type=float, default=5, help="seconds from fault to fault")
    parser.add_argument("--short", action="store_true", help="only kinds that need little, each once")
    parser.add_argument("--output", help="folder for transcript and logs; default: kept in a temporary one when something is violated")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3), "big")
    if options.short:
        options.seconds = min(options.seconds, options.interval * sum(kind.short for kind in faults.KINDS))
    return options


def keep(run, folder, output):
    """Transcript, histories and logs, where they are found afterwards."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "transcript").write_text("\n".join(run.lines) + "\n")
    with open(output / "histories", "w") as out:
        for one in sorted(run.histories, key=lambda history: history.started):
            out.write(json.dumps({"client": one.client, "id": one.request_id, "request": one.request.name, "started": one.started,
                                  "end": one.end, "reconnects": one.reconnects, "times": [round(at, 3) for at in one.times]}) + "\n")
    for log in pathlib.Path(folder).glob("*/log"):
        shutil.copy(log, output / f"{log.parent.name}.log")


def main():
    options = parse()
    if not hosts.namespaces_can_be_made() and not os.environ.get(hosts.INSIDE):
        print("skipped: making namespaces needs root")
        sys.exit(testbed.cluster.SKIPPED)
    if shutil.which("etcd") is None:
        print("skipped: no etcd on the PATH; apt-get install etcd-server")
        sys.exit(testbed.cluster.SKIPPED)
    testbed.cluster.model_path()  # or skipped
    if not (testbed.cluster.binary_folder() / "pagoda-worker").exists():
        sys.exit(f"nothing is built in {testbed.cluster.binary_folder()}; PAGODA_BIN names another folder")
    folder = hosts.enter_namespaces()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run = Run(options, folder)
    try:
        run.everything()
    except Exception:  # noqa: BLE001 (the run itself failed: that is told like a violation)
        traceback.print_exc()
        run.violated("the run broke off: " + traceback.format_exc().splitlines()[-1])
    if run.violations or options.output:
        output = pathlib.Path(options.output or f"{tempfile.gettempdir()}/pagoda-chaos-seed-{options.seed}")
        keep(run, folder, output)
        print(f"transcript and logs are in {output}")
    if run.violations:
        print(f"FAIL (seed {options.seed}): {len(run.violations)} violations", *run.violations[:40], sep="\n  ")
        sys.exit(1)
    print(f"PASS (seed {options.seed})")


if __name__ == "__main__":
    main()
