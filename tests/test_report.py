"""`unirun report`: figures from traces, what is no trace, and the command line around it."""

import gzip
import json
import sys

import pytest
from traces import PID, Story, run_of

from unirun.cli import main
from unirun.report.figures import figures, percentile
from unirun.report.reading import NotATrace, read
from unirun.report.words import bytes_, count, seconds, share


def figures_of(story):
    return figures(run_of(story))


def usual(**more):
    story = Story(**more)
    story.call(1.0, 2.0, task="a", queued=0.5, bytes_in=1000, packing=0.1)
    story.call(2.0, 5.0, task="a", what="failed", error="ValueError", queued=1.0)
    story.call(1.0, 4.0, task="b", worker=202, cpu=1.5, unpacking=0.5, repacking=0.25)
    return story


# -- figures --------------------------------------------------------------------------------------


def test_tasks_are_counted_summed_and_ranked():
    b, a = sorted(figures_of(usual()).tasks, key=lambda row: row.calls)
    assert (a.name, a.calls, a.failed, a.total, a.mean) == ("a", 2, 1, 4.0, 2.0)
    assert (a.p50, a.p95, a.longest, a.wait, a.bytes_in) == (1.0, 3.0, 3.0, 1.5, 1000)
    assert (b.cpu, b.pickling, b.work) == (0.5, 0.75, 2.25)


def test_the_time_is_split_into_running_waiting_and_pickling():
    lost = figures_of(usual()).lost
    assert (lost.running, lost.waiting) == pytest.approx((6.25, 1.5))
    assert (lost.encode, lost.decode, lost.answer) == pytest.approx((0.1, 0.5, 0.25))


def test_a_worker_is_busy_while_it_has_a_call_however_they_nest():
    story = Story()
    story.call(1.5, 2.0, task="inner")
    story.call(1.0, 3.0, task="outer")
    story.call(1.0, 5.0, worker=202)
    one, two = figures_of(story).workers
    found = (one.calls, one.busy, one.present, one.share, two.share)
    assert found == pytest.approx((2, 2.0, 4.0, 0.5, 1.0), rel=1e-5)


def test_a_worker_counts_from_its_birth_to_its_death():
    story = Story()
    story.call(1.0, 9.0, worker=202)
    story.tell("worker_started", 4.0, pid=201, worker="pid 201")
    story.call(5.0, 6.0)
    story.tell("worker_died", 6.0, pid=201, worker="pid 201")
    assert figures_of(story).workers[0].present == 2.0


def test_the_straggler_is_the_call_that_ran_alone_at_the_end():
    story = Story()
    story.call(1.0, 2.0)
    story.call(1.0, 5.0, worker=202, task="slow")
    tail = figures_of(story).tail
    assert tail.call.name == "slow"
    assert (tail.seconds, tail.share) == pytest.approx((3.0, 0.75), rel=1e-5)


def test_load_over_time_has_who_waits_and_who_runs():
    story = Story()
    story.call(1.0, 3.0)
    story.call(3.0, 4.0, queued=2.0)
    steps = [(step.at, step.waiting, step.running) for step in figures_of(story).steps]
    assert steps == [(1.0, 0, 1), (2.0, 1, 1), (3.0, 0, 1), (4.0, 0, 0)]


def test_cores_that_were_busy_are_summed_over_processes():
    story = usual()
    story.count("CPU", PID, {0.4: 0.5, 2.75: 0.5, 5.0: 0.5}, "cpu")
    story.count("CPU", 201, {0.4: 1.0, 5.0: 1.0}, "cpu")
    assert figures_of(story).cpu == pytest.approx(1.5)


def test_calls_that_were_only_counted_are_in_the_table():
    story = Story(limit=1)
    for n in range(1, 5):
        story.call(n, n + 0.01)
    found = figures_of(story)
    (row,) = found.tasks
    assert (row.calls, row.drawn, found.calls) == (4, 1, 4)
    assert row.total == pytest.approx(0.04)


def test_a_run_without_calls_has_figures_too():
    found = figures_of(Story())
    assert (found.calls, found.seconds, found.tail, found.tasks) == (0, 0.0, None, [])


@pytest.mark.parametrize(
    ("ordered", "at", "value"),
    [([], 0.5, 0.0), ([3], 0.95, 3), ([1, 2, 3, 4], 0.5, 2), (list(range(1, 101)), 0.95, 95)],
)
def test_percentiles_are_values_that_were_measured(ordered, at, value):
    assert percentile(ordered, at) == value


@pytest.mark.parametrize(
    ("said", "text"),
    [
        *((seconds(0), "0 s"), (seconds(2e-5), "20 us"), (seconds(0.0123), "12.3 ms")),
        *((seconds(61.5), "61.5 s"), (seconds(150), "2 min 30 s"), (seconds(3e-9), "3 ns")),
        *((bytes_(80e6), "80 MB"), (bytes_(12), "12 bytes"), (bytes_(999.9), "1 kB")),
        *((share(0.624), "62 %"), (share(0.001), "< 1 %"), (share(0), "0 %")),
        *((count(1, "call"), "1 call"), (count(12000, "call"), "12,000 calls")),
    ],
)
def test_amounts_have_three_figures_and_a_unit(said, text):
    assert said == text


# -- reading --------------------------------------------------------------------------------------


def test_a_trace_without_its_end_is_read_and_said_to_have_none():
    data = usual().data(whole=False)
    run = read(data, "x")
    assert (len(run.calls), run.is_whole, run.unread) == (3, False, 0)
    last = data.rindex(b'"cat":"call"')
    cut = read(data[:last], "x")
    assert (len(cut.calls), cut.is_whole, cut.unread) == (2, False, 1)


def test_a_compressed_one_is_read_also_without_its_end():
    data = gzip.compress(usual().data())
    assert len(read(data, "x").calls) == 3
    assert len(read(data[:-20], "x").calls) >= 2


def test_a_trace_that_another_tool_has_formatted_is_read_too():
    events = usual().events()
    one = {"traceEvents": events}
    for text in (json.dumps(events), json.dumps(events, indent=1), json.dumps(one)):
        run = read(text.encode(), "x")
        assert (len(run.calls), run.is_whole) == (3, True)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "x is empty"),
        (b" \n", "x is empty"),
        (b"hello", "x is no trace: it is not JSON"),
        (b"\x00\xff\x80", "x is no trace: it is not JSON"),
        (b"[1, 2", "x is no trace: it is not JSON"),
        (b"[" * 100_000, "x is no trace: it is not JSON"),
        (b"{}", "x is JSON but no trace"),
        (b"[]", "x is no trace of unirun's"),
        (b'[{"ph":"X","ts":1,"name":"a"}]', "x is no trace of unirun's"),
        (b"\x1f\x8bnonsense", "x is damaged"),
        (
            b'[{"ph":"M","name":"unirun_trace","args":{"format":99}}]',
            "x has format 99, and this is unirun for format 1; read it with a newer unirun",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_the_reason(data, why):
    with pytest.raises(NotATrace) as caught:
        read(data, "x")
    assert why in str(caught.value)


ODD = ["NaN", "1e999", "-5", '"text"', "null", "[]", "{}", "true", "9" * 400]


@pytest.mark.parametrize("odd", ODD)
def test_values_that_make_no_sense_make_no_mischief(odd):
    story = usual()
    lines = story.data().decode()
    for key in ("ts", "dur", "pid", "tid", "cat", "name", "args", "ph"):
        line = f',\n{{"ph":"X","cat":"call","ts":1,"{key}":{odd}}}\n]\n'
        figures(read(lines.replace("\n]\n", line).encode(), "x"))
    for key in ("call", "wait", "cpu", "state", "bytes_in", "memory", "pieces", "attempt"):
        line = f',\n{{"ph":"X","cat":"call","ts":1,"args":{{"{key}":{odd}}}}}\n]\n'
        figures(read(lines.replace("\n]\n", line).encode(), "x"))


# -- the command line -----------------------------------------------------------------------------


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(usual().data())
    return path


def test_it_says_what_matters_as_text(trace_file, capsys):
    assert main(["report", str(trace_file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("story.py: 3 calls in 4.6 s, 1 failed, 2 workers, ")
    assert "slowest calls:" in out
    assert "ValueError" in out


def test_json_has_the_figures_and_the_advice(trace_file, capsys):
    assert main(["report", str(trace_file), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["calls"], data["failed"], data["whole"]) == (3, 1, True)
    assert [row["name"] for row in data["tasks"]] == ["a", "b"]
    assert {each["rule"] for each in data["advice"]} <= {"straggler", "wasted_attempts"}


def test_the_page_is_written_whole_and_nothing_is_left_beside_it(trace_file, tmp_path):
    target = tmp_path / "run.html"
    target.write_text("old")
    assert main(["report", str(trace_file), "-o", str(target), "--title", "A <run>"]) == 0
    text = target.read_text()
    assert "<title>A &lt;run&gt;</title>" in text
    assert text.endswith("</body></html>\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json"]


def test_the_page_goes_to_stdout_too(trace_file, capfdbinary):
    assert main(["report", str(trace_file), "-o", "-"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"<!doctype html>")


def test_the_trace_comes_from_stdin_too(trace_file, capsys, monkeypatch):
    with trace_file.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["report", "-"]) == 0
    assert "3 calls" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no.json"], "cannot read no.json: No such file or directory"),
        (["."], "cannot read .: Is a directory"),
        (["{trace}", "-o", "no/x.html"], "cannot write no/x.html: No such file or directory"),
        (["{trace}", "-o", "x.html", "--json"], "exclude one another"),
        (["{other}"], "is no trace: it is not JSON"),
    ],
)
def test_what_does_not_work_is_said_in_a_line(arguments, why, trace_file, tmp_path, capsys):
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    names = {"trace": trace_file, "other": other}
    assert main(["report", *(each.format(**names) for each in arguments)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("unirun: error: ")
    assert why in said.err
    assert said.err.count("\n") == 1


def test_names_cannot_command_the_terminal(tmp_path, capsys):
    story = Story()
    story.call(1.0, 2.0, task="\x1b[2Jgone\x07")
    path = tmp_path / "run.json"
    path.write_bytes(story.data())
    assert main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "gone" in out


def test_a_run_without_calls_has_a_report(tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_bytes(Story().data())
    assert main(["report", str(path)]) == 0
    assert main(["report", str(path), "-o", str(tmp_path / "x.html")]) == 0
    assert "No call ran" in (tmp_path / "x.html").read_text()
    assert "0 calls" in capsys.readouterr().out
