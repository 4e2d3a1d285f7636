"""What a trace file holds, from events made by hand: slices, arrows, lanes, marks and limits."""

import json
from typing import Any

import pytest
from traces import PID, Story, breaches

from unirun import _trace_picture


def slices(story: Story, kind: str = "call") -> list[dict[str, Any]]:
    return [each for each in story.events() if each["ph"] == "X" and each["cat"] == kind]


def names(story: Story) -> dict[tuple[int, int], str]:
    found = [each for each in story.events() if each["name"] == "thread_name"]
    return {(each["pid"], each["tid"]): each["args"]["name"] for each in found}


@pytest.mark.parametrize("ns", [0, 1, 999, 1000, 1001, 12_345_678, 10**18 + 7])
def test_times_are_written_exactly_with_three_digits_after_the_point(ns):
    whole, part = _trace_picture.us(ns).split(".")
    assert int(whole) * 1000 + int(part) == ns
    assert len(part) == 3


def test_a_call_is_a_slice_on_the_lane_of_its_worker():
    story = Story()
    story.call(1.0, 1.5, task="resize", queued=0.25, bytes_in=80, bytes_out=9, cpu=0.4, peak=5000)
    (call,) = slices(story)
    assert (call["name"], call["pid"], call["tid"]) == ("resize", 201, 201)
    assert (call["ts"], call["dur"]) == (1e6, 5e5)
    sizes = {"bytes_in": 80, "bytes_out": 9, "memory": 5000}
    words = {"state": "finished", "kind": "cpu", "backend": "process"}
    times = {"wait": 750000.0, "cpu": 400000.0, "transfer": 0.0}
    assert call["args"] == {"call": 1, **times, **sizes, **words}
    assert breaches(story.events()) == []


def test_an_arrow_leads_from_the_submit_to_the_call():
    story = Story()
    story.call(1.0, 1.5, queued=0.5, packing=0.125)
    (submit,) = slices(story, "submit")
    assert (submit["pid"], submit["tid"], submit["dur"]) == (PID, PID, 125000)
    start, end = (each for each in story.events() if each["ph"] in "sf")
    assert (start["tid"], end["tid"], end["bp"]) == (PID, 201, "e")
    assert start["id"] == end["id"]
    assert breaches(story.events()) == []


def test_an_arrow_leads_from_the_slice_of_the_parent_to_a_nested_call():
    story = Story()
    parent = {"call": 50, "task": "outer", "backend": "process"}
    story.tell("submitted", 0.5, **parent)
    story.call(2.0, 3.0, worker=202, queued=1.5, parent=50, task="inner")
    story.tell("finished", 4.0, pid=201, started=1.0, finished=4.0, **parent)
    arrows = [each for each in story.events() if each["ph"] in "sf"]
    assert sorted((each["ph"], each["tid"]) for each in arrows) == [
        *(("f", 201), ("f", 202), ("s", PID), ("s", 201))
    ]
    inner = next(each for each in slices(story) if each["name"] == "inner")
    assert inner["args"]["parent"] == 50
    assert breaches(story.events()) == []


def test_what_pickling_takes_is_a_slice_of_its_own_in_the_worker():
    story = Story()
    story.call(1.0, 2.0, unpacking=0.25, repacking=0.125)
    parts = [(each["name"], each["ts"], each["dur"]) for each in slices(story, "pickling")]
    assert parts == [("unpickle arguments", 1e6, 250000), ("pickle result", 1875000, 125000)]
    assert breaches(story.events()) == []


def test_a_call_inside_a_call_shares_its_lane_and_one_that_would_cut_it_does_not():
    story = Story()
    story.call(2.0, 3.0, task="inside")
    story.call(1.0, 4.0, task="around")
    story.call(3.5, 5.0, task="across")
    lanes = {each["name"]: each["tid"] for each in slices(story)}
    assert lanes["inside"] == lanes["around"] == 201
    assert lanes["across"] != 201
    assert names(story)[201, lanes["across"]] == "pid 201 (2)"
    assert breaches(story.events()) == []


def test_coroutines_that_run_at_once_have_a_lane_each_and_lanes_are_used_again():
    story = Story()
    for start, end in [(2.0, 3.0), (1.0, 4.0), (4.5, 4.6), (5.0, 6.0), (5.5, 6.5)]:
        story.call(start, end, backend="coroutine", worker=77)
    assert len({each["tid"] for each in slices(story)}) == 2
    assert set(names(story).values()) >= {"coroutines 1", "coroutines 2"}
    assert breaches(story.events()) == []


def test_a_thread_has_its_lane_also_where_another_thread_tells_of_it():
    story = Story()
    story.call(1.0, 2.0, backend="thread", worker=301)
    about = {"call": 9, "task": "late", "backend": "thread", "pid": PID, "worker": "w 301"}
    story.tell("timed_out", 4.0, thread=PID, started=3.0, **about)
    about = {"call": 10, "task": "later", "backend": "thread", "pid": PID, "worker": "w 302"}
    story.tell("timed_out", 5.0, thread=PID, started=3.0, **about)
    lanes = {each["name"]: each["tid"] for each in slices(story)}
    assert lanes["late"] == lanes["work"] == 301
    assert names(story)[PID, lanes["later"]] == "w 302"
    assert breaches(story.events()) == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("killed", "killed work"),
        ("crashed", "crashed work"),
        ("timed_out", "timed out work"),
    ],
)
def test_a_violent_end_is_marked_on_the_lane_where_it_happened(what, said):
    story = Story()
    story.call(1.0, 2.0, what=what, error="Sad")
    (mark,) = (each for each in story.events() if each["ph"] == "i")
    assert (mark["name"], mark["cat"], mark["tid"], mark["ts"]) == (said, what, 201, 2e6)
    assert mark["args"] == {"call": 1, "detail": "Sad"}
    assert slices(story)[0]["args"]["state"] == what


def test_retries_and_the_lives_of_workers_are_marked():
    story = Story()
    where = {"pid": 201, "worker": "pid 201", "backend": "process"}
    story.tell("worker_started", 0.5, **where)
    story.tell("retried", 1.0, call=1, task="work", attempt=1, error="ValueError", **where)
    story.tell("worker_died", 2.0, exitcode=-9, **where)
    story.tell("worker_ended", 3.0, exitcode=83, **where)
    marks = [each for each in story.events() if each["ph"] == "i"]
    assert [(each["name"], each["args"].get("detail")) for each in marks] == [
        ("worker started", None),
        ("retry of work", "ValueError"),
        ("worker died", "signal 9"),
        ("worker ended", None),  # its exit code is our own business
    ]


def test_a_call_that_never_ran_is_a_mark_and_no_slice():
    story = Story()
    about = {"call": 1, "task": "work", "backend": "process"}
    story.tell("submitted", 1.0, **about)
    story.tell("cancelled", 2.0, **about)
    assert slices(story) == []
    (mark,) = (each for each in story.events() if each["ph"] == "i")
    assert (mark["name"], mark["tid"]) == ("cancelled work", PID)


def test_after_the_limit_only_calls_that_tell_something_are_drawn_and_all_are_counted():
    story = Story(limit=5)
    for n in range(20):
        story.call(n, n + 0.01)
    story.call(30, 31)
    story.call(40, 40.01, what="failed", error="ValueError")
    drawn = slices(story)
    assert [call["args"]["call"] for call in drawn] == [1, 2, 3, 4, 5, 21, 22]
    end = next(each for each in story.events() if each["name"] == "unirun_end")
    (row,) = end["args"]["summed"]
    assert (row["name"], row["calls"], row["failed"]) == ("work", 15, 0)
    assert row["seconds"] == pytest.approx(0.15)


def test_even_calls_that_tell_something_are_limited():
    story = Story(limit=5)
    for n in range(50):
        story.call(n, n + 0.5, what="failed", error="ValueError")
    assert len(slices(story)) == 10


def test_what_is_remembered_of_open_calls_is_bounded(monkeypatch):
    monkeypatch.setattr(_trace_picture, "OPEN", 10)
    story = Story()
    for n in range(30):
        story.tell("submitted", n, call=n, task="work", backend="process")
    assert story.picture.forgotten == 20


@pytest.mark.parametrize(
    "name",
    ['a "quoted" one', "line\nbreak", "</script>", "\u2028", "\x00\x1f", "\ud800", "ü" * 3000, ""],
)
def test_any_name_of_a_task_gives_one_line_of_valid_json(name):
    story = Story()
    story.call(1.0, 2.0, task=name, what="killed", error="E")
    for line in story.data().decode().split("\n")[1:-2]:
        json.loads(line.removesuffix(","))
    assert breaches(story.events()) == []


def test_a_picture_of_many_calls_in_any_order_keeps_the_rules():
    import random

    story, rand = Story(), random.Random(7)
    ends = {201: 0.0, 202: 0.0, 203: 0.0}
    for _ in range(300):
        worker = rand.choice(list(ends))
        start = ends[worker] + rand.random() * 0.01
        ends[worker] = start + rand.choice([0.0, 1e-7, 1e-4, 0.05])
        what = rand.choice(["finished", "failed", "killed"])
        queued = min(start, max(0.001, start - rand.random()))
        story.call(start, ends[worker], worker=worker, queued=queued, what=what, unpacking=1e-5)
    assert breaches(story.events()) == []
