"""What a row of the benchmark is. A module of bench/cpu/rows/ names its rows in a list ROWS; nothing else is asked of it.

A row has contestants; each is measured once per round, in turns (A B A B ...), so that what the machine does besides falls on all
alike. A contestant returns one number (or several by name, of which `value` counts) per round.
"""

from dataclasses import dataclass, field
from typing import Callable


@dataclass
class Contestant:
    """`measure(context)` does one round and returns a number, or a dictionary with "value" and whatever else is worth keeping.
    `variants`: ways to run it (llama.cpp's flags ...), each a dictionary that measure gets as a second argument; the first
    round of a run tries them all once, and the best goes on. Empty: measure takes the context alone."""

    name: str  # "pagoda Q4_1", "llama.cpp Q4_0"; unique in the row
    measure: Callable
    variants: list = field(default_factory=list)


@dataclass
class Bar:
    """What issue 4 asks: the first contestant (ours) against the best of `against` (names), at least `ratio` times as good.
    Or against a roof: `roof` is a function (context, median) -> fraction of the roof reached."""

    ratio: float
    against: tuple = ()
    roof: Callable | None = None
    text: str = ""


@dataclass
class Row:
    name: str  # file name of its results: letters, digits, _
    title: str
    unit: str
    contestants: list  # the first is ours
    bars: list = field(default_factory=list)
    higher_is_better: bool = True
    rounds: int = 5
    note: str = ""  # what a reader has to know: contexts, flags, what is and is not counted
    needs: tuple = ()  # instruction sets without which the row is left out: "avx512_vnni", "amx_int8"
    # Called before the first round, outside all timing: builds, downloads, files.
    prepare: Callable | None = None


def best(row, medians):
    """The name of the best peer of the row."""
    peers = {name: value for name, value in medians.items() if name != row.contestants[0].name}
    if not peers:
        return None
    return (max if row.higher_is_better else min)(peers, key=peers.get)
