"""What a client saw of one request, and the model that it is held against: it ends exactly once, its tokens are those of the
undisturbed run, none comes after a cancel, and none is another request's.
"""
import dataclasses
import typing

CANCEL_S = 5.0  # within which the cluster lets go of what was cancelled, when nothing is broken


@dataclasses.dataclass
class History:
    client: int
    request: typing.Any
    request_id: str
    started: float
    events: list = dataclasses.field(default_factory=list)
    times: list = dataclasses.field(default_factory=list)  # of the events
    end: str = ""        # whole, cancelled, failed
    error: str = ""
    ended: float = 0.0
    ended_unix: float = 0.0
    reconnects: int = 0

    @property
    def tokens(self):
        return sum(self.request.tokens_in(event) for event in self.events)

    def gaps(self):
        """(from, until) between events that follow each other."""
        return list(zip(self.times, self.times[1:]))


def violations_of(history, expected):
    """`expected`: what `gathered` gave for the undisturbed run. In words, each with the request."""
    request = history.request
    choices, usage = request.gathered(history.events)
    wrong = []
    if history.end == "failed":
        wrong.append(f"failed: {history.error}")
    strangers = {request.id_of(event) for event in history.events} - {history.request_id}
    if strangers:
        wrong.append(f"events of another request came: {strangers}")
    for index, got in choices.items():
        should = expected[0].get(index)
        if should is None:
            wrong.append(f"choice {index} was not asked for")
            continue
        for part in ("tokens", "text", "logprobs"):
            if got[part] != should[part][:len(got[part])]:
                wrong.append(f"choice {index}: other {part}: {got[part]!r} instead of {should[part]!r}")
        if got["ends"] and got["ends"] != should["ends"]:
            wrong.append(f"choice {index} ended as {got['ends']} instead of {should['ends']}")
        if got["ends"] and got["tokens"] != should["tokens"]:
            wrong.append(f"choice {index} ended after {len(got['tokens'])} of {len(should['tokens'])} tokens")
    if history.end == "whole":
        unended = [index for index in expected[0] if not choices.get(index, {}).get("ends")]
        if unended:
            wrong.append(f"the stream ended without an end of choices {unended}")
        if usage != expected[1]:
            wrong.append(f"usage is {usage} instead of {expected[1]}")
    return [f"client {history.client}, {history.request_id} ({request.name}): {what}" for what in wrong]


def cancel_violations(histories, received_or_finished, broken):
    """What the coordinators still did for cancelled requests. `received_or_finished`: (time, who, log line) of both events;
    `broken`: (from, until) in which faults may delay the word of a cancel; all times in seconds since 1970."""
    by_id = {}
    for at, who, entry in received_or_finished:
        by_id.setdefault(entry.get("request_id"), []).append((at, who, entry["event"]))
    wrong = []
    for history in histories:
        if history.end != "cancelled":
            continue
        until = history.ended_unix + CANCEL_S
        for begin, end in sorted(broken):
            if begin < until and end + CANCEL_S > until:
                until = end + CANCEL_S
        late = [(at, who, event) for at, who, event in by_id.get(history.request_id, []) if at > until]
        if late:
            at, who, event = late[0]
            wrong.append(f"client {history.client}, {history.request_id} ({history.request.name}): {event} at {who} "
                         f"{at - history.ended_unix:.1f} s after it was cancelled")
    return wrong
