#!/usr/bin/env python3
"""A bad cable between two network devices: passes frames from one to the other and drops or delays some, from a seed.

    wire.py NEAR FAR [--drop 0.1] [--delay-ms 50 --jitter-ms 20] [--deaf 1]

This kernel has no netem, which would do the same. `--deaf 1` loses all that comes from FAR: half of a partition.
"""
import argparse
import heapq
import random
import select
import signal
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3


def device(name):
    """Frames as the kernel has them, with the header that tells of checksums and segments left to do."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    opened.bind((name, ETH_P_ALL))
    opened.setblocking(False)
    return opened


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("--drop", type=float, default=0)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--jitter-ms", type=float, default=0)
    parser.add_argument("--deaf", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    near, far = device(options.near), device(options.far)
    other = {near: far, far: near}
    counts = {"passed": 0, "dropped": 0}
    ends = []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    print("up", flush=True)
    waiting, number, last_due = [], 0, {near: 0.0, far: 0.0}

    def send(to, frame):
        try:
            to.send(frame)
            counts["passed"] += 1
        except OSError:  # a full queue, or the device went
            counts["dropped"] += 1

    while not ends:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(waiting)
            send(to, frame)
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.2
        try:
            readable = select.select([near, far], [], [], min(timeout, 0.2))[0]
        except OSError:
            continue
        for source in readable:
            for _ in range(64):
                try:
                    frame = source.recv(1 << 17)
                except OSError:
                    break
                if draw.random() < options.drop or (options.deaf and source is far):
                    counts["dropped"] += 1
                    continue
                to = other[source]
                if options.delay_ms == 0:
                    send(to, frame)
                    continue
                # Late, but in the order in which they came, as on a long cable.
                due = time.monotonic() + (options.delay_ms + draw.random() * options.jitter_ms) / 1000
                last_due[to] = due = max(due, last_due[to])
                heapq.heappush(waiting, (due, number, to, frame))
                number += 1
    print(f"passed {counts['passed']}, dropped {counts['dropped']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
