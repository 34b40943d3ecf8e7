"""Kinds of faults, a schedule of them from a seed, and how each is done and undone."""
import dataclasses
import os
import random
import re
import signal

from testbed import COORDINATORS, HOSTS, ROUTERS


@dataclasses.dataclass(frozen=True)
class Kind:
    role: str        # whom it meets: worker, spare, leader, follower, router, etcd, any; operator: nobody, it is an order
    action: str
    seconds: tuple   # how long it lasts, at least and at most
    short: bool = False  # belongs to the short run

    @property
    def name(self):
        return f"{self.role} {self.action}"

    @property
    def redundancy(self):
        """Of which there is one more than needed: faults of two of these may come together. Empty: it comes alone."""
        return {"worker": "worker", "spare": "worker", "leader": "coordinator", "follower": "coordinator", "router": "router",
                "operator": "operator"}.get(self.role, "")


BRIEF = (2.0, 3.5)       # around the workers' lease of 3 s: some are borne, some cost the place
BEYOND_LEASE = (3.5, 4.5)
RESTART = (0.1, 2.0)     # until what was killed is started again
KINDS = [
    Kind("worker", "kill -9", RESTART, short=True),
    Kind("worker", "SIGSTOP", BEYOND_LEASE, short=True),
    Kind("worker", "link down", BRIEF, short=True),
    Kind("worker", "packets dropped", BRIEF, short=True),
    Kind("worker", "deaf", BRIEF),
    Kind("worker", "rate", BRIEF, short=True),
    Kind("worker", "delay", BRIEF, short=True),
    Kind("spare", "kill -9", RESTART),
    Kind("leader", "kill -9", RESTART, short=True),
    Kind("leader", "SIGSTOP", BEYOND_LEASE),
    Kind("leader", "link down", BRIEF),
    Kind("leader", "packets dropped", BRIEF),
    Kind("leader", "deaf", BRIEF),
    Kind("leader", "rate", BRIEF),
    Kind("leader", "delay", BRIEF),
    Kind("follower", "kill -9", RESTART),
    Kind("router", "kill -9", RESTART, short=True),
    Kind("router", "SIGSTOP", BRIEF),
    Kind("router", "link down", BRIEF),
    Kind("router", "packets dropped", BRIEF),
    Kind("router", "rate", BRIEF),
    Kind("router", "delay", BRIEF),
    Kind("etcd", "kill -9", BRIEF, short=True),
    Kind("etcd", "SIGSTOP", BRIEF),
    Kind("etcd", "link down", BRIEF),
    Kind("etcd", "full disk", BRIEF),
    Kind("any", "full disk", BRIEF, short=True),
    Kind("worker", "start on a full disk", BRIEF),
    # What operators do.
    Kind("worker", "SIGTERM", RESTART),
    Kind("leader", "SIGTERM", RESTART),
    Kind("router", "SIGTERM", RESTART),
    Kind("operator", "apply", RESTART),
]


@dataclasses.dataclass
class Fault:
    number: int
    due_s: float
    kind: Kind
    seconds: float
    pick: float  # which of those that it may meet
    seed: int    # of what it draws itself
    begins_s: float = 0                   # after it is due
    companion: "Fault | None" = None      # comes with it; of another redundancy
    paired: bool = False
    # What became of it. Monotonic, and in seconds since 1970.
    target: str = ""
    place: tuple = ()  # (pipeline, stage) of a worker that has one
    begun: float = 0
    begun_unix: float = 0
    healed: float = 0
    healed_unix: float = 0
    whole: float = 0
    whole_unix: float = 0
    notes: list = dataclasses.field(default_factory=list)


PAIR_EVERY = 4  # of those that have redundancy of their own, one in so many comes with another


def schedule(seed, seconds, interval, short=False):
    """Every kind once in each round, the rounds in an order of the seed's."""
    draw = random.Random(f"schedule {seed}")
    kinds = [kind for kind in KINDS if kind.short or not short]
    faults, bag = [], []
    while (len(faults) + 1) * interval <= seconds:
        if not bag:
            bag = draw.sample(kinds, len(kinds))
        kind = bag.pop()
        due_s = (len(faults) + 1) * interval
        fault = one(draw, len(faults) + 1, due_s, kind)
        others = [other for other in kinds if other.redundancy not in ("", kind.redundancy)]
        if kind.redundancy and not short and draw.randrange(PAIR_EVERY) == 0:
            fault.companion = one(draw, fault.number, due_s, draw.choice(others), begins_s=draw.uniform(0, 1.5), paired=True)
            fault.paired = True
        faults.append(fault)
    return faults


def one(draw, number, due_s, kind, **more):
    return Fault(number, due_s, kind, draw.uniform(*kind.seconds), draw.random(), draw.randrange(1 << 30), **more)


def choose(fault, leader, state):
    """Whom it meets, of those that there are now. Sets target and place."""
    placed = {(worker.pipeline, worker.stage): worker.name for worker in state.workers if worker.state == "ready"}
    role = fault.kind.role
    if role == "worker":
        places = sorted(placed)
        fault.place = places[int(fault.pick * len(places))]
        fault.target = placed[fault.place]
        return
    candidates = {"spare": sorted(worker.name for worker in state.workers if worker.state == "idle"),
                  "leader": [leader],
                  "follower": [name for name in COORDINATORS if name != leader],
                  "router": ROUTERS,
                  "etcd": ["etcd"],
                  "operator": ["the deployment"],
                  "any": sorted(HOSTS)}[role]
    fault.target = candidates[int(fault.pick * len(candidates))]


def begin(fault, bed, network):
    """Does it; what undoes it comes back."""
    name, draw = fault.target, random.Random(fault.seed)
    action = fault.kind.action
    if action == "kill -9":
        bed.down.add(name)
        os.kill(bed.pid(name), signal.SIGKILL)
        return lambda: bed.down.discard(name)
    if action == "SIGTERM":
        child = bed.children[name]
        bed.down.add(name)
        child.terminate()

        def back():
            child.wait(40)
            bed.down.discard(name)
        return back
    if action == "apply":
        fault.notes.append(f"max_num_batched_tokens {bed.apply_another()}")
        return lambda: None
    if action == "SIGSTOP":
        pid = bed.pid(name)
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)
    if action == "link down":
        network.unplug(name)
        return lambda: network.plug(name)
    if action == "rate":
        kbit = draw.choice([500, 2000, 8000])
        fault.notes.append(f"{kbit} kbit/s")
        network.throttle(name, kbit)
        return lambda: network.unthrottle(name)
    if action in ("full disk", "start on a full disk"):
        network.fill_disk(name)
        if action != "full disk":
            os.kill(bed.pid(name), signal.SIGKILL)
        return lambda: network.empty_disk(name)
    how = {"packets dropped": {"drop": round(draw.uniform(0.05, 0.3), 2)},
           "deaf": {"deaf": 1},
           "delay": {"delay_ms": draw.choice([20, 60, 150]), "jitter_ms": 20}}[action]
    fault.notes.append(", ".join(f"{key} {value}" for key, value in how.items()))
    network.disturb(name, seed=fault.seed, **how)
    return lambda: fault.notes.append(network.mend(name))


# What the cluster says that bears on a fault.
TOLD = ("fault_found", "epoch_ended", "pipeline_ready", "worker_gone", "worker_closed", "worker_joined", "worker_fault", "leads",
        "leads_no_more", "store_unreachable", "store_reachable_again", "epoch_not_stored", "store_not_read", "circuit_opened")


def may_end(fault, name):
    """Whether this fault, or its companion, may end that process."""
    if fault.companion and may_end(fault.companion, name):
        return True
    ends = fault.kind.action in ("kill -9", "SIGTERM", "start on a full disk") or (fault.kind.action == "full disk" and name == "etcd")
    return name == fault.target and ends


def naming(fault, events):
    """(seconds until a stopped worker was named or None, the words or what they lack)."""
    for at, _, entry in events:
        if entry["event"] != "fault_found" or entry.get("worker") != fault.target or not fault.begun_unix <= at <= fault.whole_unix:
            continue
        stage = re.escape(f"stage {fault.place[1]} rank 0 ({fault.target})")
        named = entry["kind"] == "wedge" and re.search(stage, entry["what"]) and re.search(
            r"in '[^']+', (step \d+|before a step)|between steps, after step \d+|before its first step", entry["what"])
        if named:
            return at - fault.begun_unix, entry["what"]
        return None, f"said instead: {entry['kind']}: {entry['what']}"
    return None, "nobody named it"
