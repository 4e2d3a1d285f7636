"""`map(progress=...)`: what is seen on a real terminal, by each kind of bar, in each end."""

import functools
import io
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from terminal import Screen, Terminal

from unirun import BackendUnavailable, Executor, Progress, current_task
from unirun import _progress as progress_module
from unirun._line import Line, told
from unirun._progress import bar, make_progress
from unirun._terminal import clean, cut, filled, width

BARS = ("plain", "tqdm", "rich")
PATIENCE = 20.0


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with Executor(2, backend="thread") as executor:
        start_workers(executor)
        yield executor


def start_workers(executor: Executor) -> None:
    """All of them: what a test finds there it does not leave behind."""
    barrier = threading.Barrier(2)
    for future in [executor.submit(barrier.wait) for _ in range(2)]:
        future.result(PATIENCE)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Standard error is a terminal, of a kind that can do what most can."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with Terminal(90) as made:
        yield made


Test = TypeVar("Test", bound=Callable[..., None])


def on_terminal(test: Test) -> Test:
    """Have its `terminal` as standard error while it runs; pytest puts its own there before."""

    @functools.wraps(test)
    def run(*args: Any, terminal: Terminal, **kwargs: Any) -> None:
        before = sys.stderr
        with terminal.stream() as sys.stderr:
            try:
                test(*args, terminal=terminal, **kwargs)
            finally:
                sys.stderr = before

    return run  # type: ignore[return-value]


@pytest.fixture(params=BARS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param != "plain":
        pytest.importorskip(request.param)
    return str(request.param)


def square(n: int) -> int:
    return n * n


def fails_at_3(n: int) -> int:
    if n == 3:
        raise ValueError(n)
    return n


def whole(rows: list[str]) -> list[str]:
    return [row for row in rows if row.strip()]


@on_terminal
def test_a_bar_ends_full_and_alone_on_its_line(
    threads: Executor, terminal: Terminal, kind: str
) -> None:
    assert list(threads.map(square, range(5), progress=kind)) == [0, 1, 4, 9, 16]
    (row,) = whole(terminal.drained())
    assert "square" in row
    assert "5/5" in row
    assert terminal.screen.cursor
    assert terminal.text.endswith("\n") or kind == "rich"


@on_terminal
def test_each_kind_of_input_says_how_long_it_is(
    threads: Executor, terminal: Terminal, kind: str
) -> None:
    list(threads.map(square, iter([1, 2, 3]), progress=kind))
    list(threads.map(divmod, [1, 2], itertools.count(1), progress=kind))
    list(threads.map(square, (n for n in range(4)), progress=kind))
    known, shorter, unknown = whole(terminal.drained())
    assert "3/3" in known
    assert "2/2" in shorter
    assert "4" in unknown
    assert "4/4" not in unknown


@on_terminal
def test_an_error_closes_it(threads: Executor, terminal: Terminal, kind: str) -> None:
    with pytest.raises(ValueError, match="3"):
        list(threads.map(fails_at_3, range(9), progress=kind))
    (row,) = whole(terminal.drained())
    assert "3/9" in row
    assert terminal.screen.cursor


@on_terminal
def test_errors_that_are_returned_count(threads: Executor, terminal: Terminal, kind: str) -> None:
    for errors in ("return", "skip"):
        list(threads.map(fails_at_3, range(6), errors=errors, progress=kind))
    rows = whole(terminal.drained())
    assert [("6/6" in row) for row in rows] == [True, True]


@on_terminal
def test_who_leaves_half_way_closes_it(threads: Executor, terminal: Terminal, kind: str) -> None:
    for result in threads.map(square, range(100), progress=kind, buffersize=4):
        if result == 4:
            break
    del result
    (row,) = whole(terminal.drained())
    assert "3/100" in row
    assert terminal.screen.cursor


@on_terminal
def test_an_interrupt_closes_it(threads: Executor, terminal: Terminal, kind: str) -> None:
    gate = threading.Event()

    def interrupts(n: int) -> int:
        if n == 2:
            raise KeyboardInterrupt
        return n

    try:
        with pytest.raises(KeyboardInterrupt):
            list(threads.map(interrupts, range(4), progress=kind))
    finally:
        gate.set()
    (row,) = whole(terminal.drained())
    assert "2/4" in row
    assert terminal.screen.cursor


@on_terminal
def test_unordered_results_count_as_they_come(
    threads: Executor, terminal: Terminal, kind: str
) -> None:
    assert set(threads.map(square, range(20), ordered=False, progress=kind)) == {
        n * n for n in range(20)
    }
    (row,) = whole(terminal.drained())
    assert "20/20" in row


@on_terminal
def test_a_map_that_nobody_reads_draws_nothing(terminal: Terminal, kind: str) -> None:
    with Executor(1, backend="thread") as executor:
        kept = executor.map(square, range(3), progress=kind)
    assert whole(terminal.drained()) == []
    assert list(kept) == [0, 1, 4]


@on_terminal
def test_a_map_in_a_map_does_not_garble(threads: Executor, terminal: Terminal, kind: str) -> None:
    for _ in threads.map(square, range(3), progress=kind):
        list(threads.map(fails_at_3, range(3), progress=kind))
        terminal.until("square")
    rows = whole(terminal.drained())
    assert len(rows) == 1, rows
    assert "square" in rows[0]
    assert "3/3" in rows[0]


@on_terminal
def test_maps_of_two_threads_do_not_garble(
    threads: Executor, terminal: Terminal, kind: str
) -> None:
    def read(fn: Any) -> None:
        assert len(list(threads.map(fn, range(60), progress=kind, errors="return"))) == 60

    readers = [threading.Thread(target=read, args=(fn,)) for fn in (square, fails_at_3)]
    for each in readers:
        each.start()
    for each in readers:
        each.join(PATIENCE)
    rows = whole(terminal.drained())
    assert 1 <= len(rows) <= 2, rows
    assert all("60/60" in row for row in rows), rows
    assert terminal.screen.cursor


def tells_far(n: int) -> int:
    task = current_task()
    task.report(n, 4, "\x1b[31mred\nnext [bold]line[/bold] \u202e\r")
    task.sleep(0.3)
    return n


@on_terminal
def test_how_far_items_are_is_shown_and_harmless(
    threads: Executor, terminal: Terminal, kind: str
) -> None:
    assert list(threads.map(tells_far, [1, 2], progress=kind)) == [1, 2]
    (row,) = whole(terminal.drained())
    assert "2/2" in row
    assert "50%" in terminal.text
    assert "[31mred next [bold]line[/bold]" in terminal.text
    assert "\x1b[31mred" not in terminal.text
    assert "\u202e" not in terminal.text
    assert "red" not in row


@on_terminal
def test_a_terminal_may_be_narrow_and_may_change(
    threads: Executor, terminal: Terminal, kind: str
) -> None:
    terminal.resize(40, 24)
    for result in threads.map(square, range(8), progress=kind):
        if result == 16:
            terminal.resize(70, 24)
    rows = whole(terminal.drained())
    assert "8/8" in rows[-1]
    assert len(rows) <= 2


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
@on_terminal
def test_no_colours_and_no_cursor_movement_where_they_are_not_wanted(
    threads: Executor,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv(name, "1" if name == "NO_COLOR" else "dumb")
    list(threads.map(square, range(3), progress=True))
    (row,) = whole(terminal.drained())
    assert "3/3" in row
    assert "\x1b[3" not in terminal.text
    if name == "TERM":
        assert "\x1b" not in terminal.text


def test_true_draws_nothing_where_nobody_looks(
    threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert make_progress(True, "") is None
        assert list(threads.map(square, range(3), progress=True)) == [0, 1, 4]
        if stream is not None:
            assert stream.getvalue() == ""


def test_who_names_a_bar_has_it_in_a_log(
    threads: Executor, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    list(threads.map(square, range(3), progress=kind))
    assert "3/3" in stream.getvalue()
    if kind == "plain":
        assert stream.getvalue().count("\n") == 1
        assert "\r" not in stream.getvalue()


@pytest.mark.parametrize("gone", ["tqdm", "rich"])
def test_a_bar_that_is_not_installed_says_what_to_do(
    threads: Executor, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(BackendUnavailable, match=f"pip install {gone}"):
        threads.map(square, [1], progress=gone)


@on_terminal
def test_with_nothing_installed_it_is_a_plain_line(
    threads: Executor, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gone in ("tqdm", "rich"):
        monkeypatch.setitem(sys.modules, gone, None)
    list(threads.map(square, range(3), progress=True))
    (row,) = whole(terminal.drained())
    assert row.startswith("square 3/3 [##############################]")


@pytest.mark.parametrize("wrong", ["bars", "", "True"])
def test_an_unknown_bar_is_refused(threads: Executor, wrong: str) -> None:
    with pytest.raises(ValueError, match="bars: auto, rich, tqdm, plain"):
        threads.map(square, [1], progress=wrong)


@on_terminal
def test_the_setting_says_which(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_PROGRESS", "plain")
    with Executor(1, backend="thread") as executor:
        list(executor.map(square, range(3), progress=True))
    (row,) = whole(terminal.drained())
    assert "[####" in row


def test_a_notebook_has_a_bar_though_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", type("IPython", (), {"get_ipython": lambda: shell}))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delitem(sys.modules, "rich.progress", raising=False)
    monkeypatch.delenv("TERM", raising=False)
    telling = make_progress(True, "squares")
    assert telling is not None
    telling.start(2)
    telling.update(2, ())
    telling.close()
    assert "squares: 100%" in stream.getvalue()
    assert type(telling._bar).__name__ == "TqdmBar"


# -- callables ------------------------------------------------------------------------------------


def test_a_callable_may_ask_how_far_the_items_are(threads: Executor) -> None:
    seen: list[Any] = []

    def told(done: int, total: int | None, *, running: Any) -> None:
        seen.append((done, total, [str(each) for each in running]))

    assert list(threads.map(tells_far, [1, 2], progress=told)) == [1, 2]
    assert seen[-1] == (2, 2, [])
    assert any(running for _, _, running in seen)


def test_a_callable_that_takes_two_gets_two(threads: Executor) -> None:
    seen: list[Any] = []
    list(threads.map(tells_far, [1, 2], progress=lambda *at: seen.append(at)))
    assert seen == [(1, 2), (2, 2)]


def test_what_a_callable_raises_ends_the_map(threads: Executor) -> None:
    def refuses(done: int, total: int | None) -> None:
        raise RuntimeError("enough")

    results = threads.map(square, range(5), progress=refuses)
    with pytest.raises(RuntimeError, match="enough"):
        list(results)
    assert list(results) == []


# -- the plain line -------------------------------------------------------------------------------


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr("unirun._line.time.monotonic", lambda: moment[0])
    stream = io.StringIO()
    line = Line("it", stream)
    line.start(100)
    for n in range(100):
        moment[0] += 0.5
        line.update(n)
    line.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6  # each ten of fifty seconds, and the end
    assert lines[0].startswith("it 19/100 [")


def test_a_stream_that_is_closed_does_not_end_the_work(threads: Executor) -> None:
    stream = io.StringIO()
    line = Line("it", stream, is_seen=True)
    line.start(3)
    stream.close()
    line.update(1)
    line.clear()
    line.close()


def test_what_is_told_of_many_is_short() -> None:
    running = [Progress(n, 10, "x") for n in range(6)]
    assert told(running) == "0% x, 10% x, 20% x +3"


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcdefgh", 7, "abcd..."),
        ("abcdefgh", 4, "abcd"),
        ("中文中文", 7, "中文..."),
        ("中文中文", 8, "中文中文"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
        ("abc", 0, ""),
    ],
)
def test_text_is_cut_by_columns(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown
    assert width(cut(text, columns)) <= columns
    assert width(filled(text, 9)) == 9


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    assert clean("a\x1b[2Jb\r\nc\u202ed\ud800\x07") == "a [2Jb  c d  "


def test_the_screen_of_these_tests_is_one() -> None:
    screen = Screen(10, 5)
    screen.feed("abc\rx\r\n中文def\x1b[1mghijk\x1b[A\r\x1b[2Knew")
    assert screen.shown == ["xbc", "new", "jk"]


def test_bars_import_nothing_before_they_are_used() -> None:
    assert progress_module.bar is bar
    assert "unirun.integrations" not in progress_module.__dict__


def test_lines_that_are_open_share_one() -> None:
    stream = io.StringIO()
    outer, inner = (Line(name, stream, is_seen=True) for name in ("outer", "inner"))
    outer.start(2)
    inner.start(3)
    last = stream.getvalue().rpartition("\r")[2]
    assert "outer 0/2 [" in last
    assert " | inner 0/3 [" in last
    assert len(last) < 80
    inner.close()
    assert "inner" not in stream.getvalue().rpartition("\r")[2]
    outer.close()
    assert stream.getvalue().count("\n") == 1
