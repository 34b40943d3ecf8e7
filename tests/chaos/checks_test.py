#!/usr/bin/env python3
"""The checks of the chaos run find what they are there to find, and a seed gives one schedule."""
import copy
import pathlib
import sys

sys.dont_write_bytecode = True
import clients  # noqa: E402
import faults  # noqa: E402
import history  # noqa: E402
import report  # noqa: E402

REQUEST = clients.HttpRequest("greedy", "/v1/completions", {}, 0)
IDS = [11, 12, 13, 14]


def events(request_id="me"):
    made = [{"id": f"cmpl-{request_id}", "created": 1, "model": "m", "choices": [
        {"index": 0, "text": f"<{token}>", "token_ids": [token], "finish_reason": "length" if token == IDS[-1] else None}]} for token in IDS]
    made.append({"id": f"cmpl-{request_id}", "created": 1, "model": "m", "choices": [],
                 "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0}}})
    return made


def found(change=lambda made: made, end="whole", error=""):
    expected = REQUEST.gathered(events())
    one = history.History(client=0, request=REQUEST, request_id="me", started=0.0, events=change(copy.deepcopy(events())), end=end, error=error)
    return history.violations_of(one, expected)


def without(index):
    return lambda made: made[:index] + made[index + 1:]


def test_an_undisturbed_history_is_right():
    assert found() == []
    assert found(lambda made: made[:2], end="cancelled") == []


def test_a_lost_a_doubled_and_another_token_are_found():
    assert found(without(1)) and found(lambda made: made[:2] + made[1:])

    def other(made):
        made[1]["choices"][0]["token_ids"] = [99]
        return made
    assert "other tokens" in found(other)[0]
    assert found(other, end="cancelled")


def test_ends_are_counted():
    assert "without an end" in found(lambda made: made[:2])[0]

    def twice(made):
        made.insert(4, {**made[3], "choices": [{**made[3]["choices"][0], "text": "", "token_ids": []}]})
        return made
    assert "ended as" in found(twice)[0]

    def early(made):
        made[2]["choices"][0]["finish_reason"] = "length"
        return made[:3] + made[4:]
    assert any("ended after 3 of 4" in what for what in found(early))
    assert "failed: boom" in found(lambda made: made[:2], end="failed", error="boom")[0]


def test_events_of_another_request_are_found():
    def foreign(made):
        made[1]["id"] = "cmpl-somebody"
        return made
    assert "another request" in found(foreign)[0]


def test_work_for_the_cancelled_is_found():
    one = history.History(client=0, request=REQUEST, request_id="me", started=0.0, end="cancelled", ended_unix=100.0)
    line = {"event": "request_received", "request_id": "me"}
    late = 100 + history.CANCEL_S + 1
    assert history.cancel_violations([one], [(101.0, "c0", line)], []) == []
    assert "after it was cancelled" in history.cancel_violations([one], [(late, "c0", line)], [])[0]
    # A fault delays the word of it, but not for ever.
    assert history.cancel_violations([one], [(late, "c0", line)], [(99.0, late)]) == []
    assert history.cancel_violations([one], [(late + 60, "c0", line)], [(99.0, late)])
    one.end = "whole"
    assert history.cancel_violations([one], [(late, "c0", line)], []) == []


def test_a_seed_gives_one_schedule():
    def shape(seed):
        return [(f.due_s, f.kind.name, f.seconds, f.pick, f.seed, f.companion) for f in faults.schedule(seed, 600, 5)]
    assert shape(3) == shape(3) != shape(4)
    assert len(shape(3)) == 120
    counts = [sum(name == kind.name for _, name, *_ in shape(3)) for kind in faults.KINDS]
    assert min(counts) >= 120 // len(faults.KINDS), counts
    pairs = [(f.kind.redundancy, f.companion.kind.redundancy) for f in faults.schedule(3, 600, 5) if f.companion]
    assert len(pairs) > 10 and all(a and b and a != b for a, b in pairs), pairs


def test_a_stopped_worker_must_be_named_in_full():
    fault = faults.Fault(1, 0, next(kind for kind in faults.KINDS if kind.name == "worker SIGSTOP"), 4, 0, 0, target="w1", place=(3, 1),
                         begun_unix=10, whole_unix=15)

    def named(what, kind="wedge"):
        return faults.naming(fault, [(11.5, "c0", {"event": "fault_found", "worker": "w1", "kind": kind, "what": what})])[0]
    assert named("stage 1 rank 0 (w1) is wedged: ... last heard in 'run the layers', step 7") == 1.5
    assert named("stage 1 rank 0 (w1) is wedged: ... last heard between steps, after step 7") == 1.5
    assert named("stage 0 rank 0 (w1) is wedged: ... last heard in 'run the layers', step 7") is None
    assert named("stage 1 rank 0 (w1) is wedged") is None
    assert named("stage 1 rank 0 (w1) is dead, last heard in 'run the layers', step 7", "death") is None
    assert faults.naming(fault, [])[0] is None


def test_gaps_are_those_of_streams_that_ran():
    one = history.History(client=0, request=REQUEST, request_id="me", started=0.0, times=[1.0, 2.0, 5.0, 5.5], ended=5.5)
    assert report.gaps_in([one], 1.5, 4.0) == [3.0]
    assert report.gaps_in([one], 2.5, 4.0) == [2.5]  # what it had waited before has another reason
    assert report.gaps_in([one], 0.5, 4.0) == []   # it had not begun
    assert report.gaps_in([one], 6.0, 7.0) == []   # it was over


def test_who_was_finished_before_a_fault_does_not_count_for_it():
    one = history.History(client=0, request=REQUEST, request_id="me", started=0.0, times=[1.0, 5.0], ended=5.0)
    fault = faults.Fault(1, 0, faults.KINDS[0], 4, 0, 0, begun_unix=100.0)

    def line(at):
        return [(at, "c0", {"event": "request_finished", "request_id": "me"})]
    assert report.still_served([one], fault, []) == [one]
    assert report.still_served([one], fault, line(101.0)) == [one]
    assert report.still_served([one], fault, line(99.0)) == []
    assert report.still_served([one], fault, line(99.0) + line(101.0)) == [one], "a part of it was not"


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok     ", name)
    print(f"{pathlib.Path(__file__).name}: all hold")
