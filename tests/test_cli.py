"""`unirun map`, `info` and `explain`, each test with a process of its own."""

import json
import os
import select
import sys
from pathlib import Path

import pytest
from commands import PATIENCE, WORK, Done, running, unirun

BACKENDS = ("inline", "thread", "process")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


@pytest.fixture
def fifo(home: Path) -> Path:
    os.mkfifo(home / "fifo")
    return home / "fifo"


# -- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_json_lines_in_the_order_of_the_inputs(home: Path, backend: str) -> None:
    inputs = [str(n) for n in range(50)]
    done = unirun("map", "work:number", *inputs, "--backend", backend, cwd=home)
    assert done == Done(0, "".join(f"{n}\n" for n in inputs), "")


def test_options_may_stand_between_inputs(home: Path) -> None:
    done = unirun("map", "work:double", "a", "--workers", "1", "b", "--", "--c", cwd=home)
    assert done.lines == ["aa", "bb", "--c--c"]


def test_an_input_is_a_string(home: Path) -> None:
    done = unirun("map", "work:double", "7", "-7", "", "é\n", cwd=home)
    assert done.lines == ["77", "-7-7", "", "é\né\n"]


def test_a_dash_stands_for_the_lines_of_stdin(home: Path) -> None:
    stdin = "one\n\ntwo\r\nthree"
    done = unirun("map", "work:double", "a", "-", "z", cwd=home, stdin=stdin)
    assert done.lines == ["aa", "oneone", "", "twotwo", "threethree", "zz"]


def test_a_line_of_stdin_may_be_longer_than_a_pipe(home: Path) -> None:
    done = unirun("map", "builtins:len", "-", cwd=home, stdin="x" * 3_000_000 + "\ny\n")
    assert done.lines == [3_000_000, 1]


def test_any_bytes_of_stdin_reach_the_function_and_the_report_is_utf_8(home: Path) -> None:
    stdin = b"caf\xe9\n" + "café\n".encode()
    done = unirun("map", "os:fsencode", "-", "--repr", cwd=home, stdin=stdin)
    assert done.lines == [repr(b"caf\xe9"), repr("café".encode())]
    done = unirun("map", "work:double", "-", "--errors=report", cwd=home, stdin=stdin)
    assert [line["input"] for line in done.lines] == ["caf\udce9", "café"]
    assert '"input": "café"' in done.out


def test_with_jsonl_inputs_are_arguments_keywords_or_one_value(home: Path) -> None:
    stdin = '[1, 2]\n\n{"b": 4, "a": 3}\n5\n'
    done = unirun("map", "--jsonl", "work:add", "[6]", "-", cwd=home, stdin=stdin)
    assert done.lines == [16, 3, 7, 15]


@pytest.mark.parametrize("bad", ["{", "", "NaN", "[1, Infinity]", "[" * 100_000])
def test_an_input_that_is_not_json_fails_alone(home: Path, bad: str) -> None:
    done = unirun("map", "--jsonl", "work:add", "1", bad, "2", "--errors=report", cwd=home)
    first, failed, last = done.lines
    assert (done.status, first["result"], last["result"]) == (1, 11, 12)
    assert failed["input"] == bad
    assert "cannot read the input as JSON" in failed["error"]["message"]


@pytest.mark.parametrize("arguments", [(), ("--unordered",)])
def test_a_result_is_written_while_stdin_is_quiet(home: Path, arguments: tuple[str, ...]) -> None:
    with running("map", "work:double", "-", *arguments, cwd=home) as command:
        for text in ("a", "b"):
            command.tell(f"{text}\n")
            assert json.loads(command.out_line()) == text * 2
        assert command.wait() == Done(0, "", "")


def test_unordered_writes_a_result_at_once(home: Path, fifo: Path) -> None:
    inputs = (str(fifo), "/dev/null")
    with running("map", "--unordered", "work:wait_for", *inputs, cwd=home) as command:
        assert json.loads(command.out_line()) == ""
        fifo.write_text("opened")
        assert json.loads(command.out_line()) == "opened"
        assert command.wait().status == 0


def test_ordered_keeps_a_result_until_those_before_it_are_there(home: Path, fifo: Path) -> None:
    inputs = (str(fifo), "/dev/null", "missing")
    with running("map", "work:wait_for", *inputs, "--errors=report", cwd=home) as command:
        fifo.write_text("opened")
        lines = command.wait().lines
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line.get("result") for line in lines] == ["opened", "", None]


def test_an_endless_stdin_is_read_no_faster_than_results_are_taken(home: Path) -> None:
    """Nobody takes what is written, so at some time nothing more may be read."""
    with running("map", "work:double", "-", cwd=home) as command:
        assert command.process.stdin is not None
        feed = command.process.stdin.fileno()
        os.set_blocking(feed, False)
        line, fed = b"x" * 99 + b"\n", 0
        while select.select([], [feed], [], 2.0)[1]:
            fed += os.write(feed, line * 10)
            assert fed < 2_000_000, "it swallows its input"
        assert fed > 50_000
        out = command.process.stdout
        assert out is not None
        taken = sum(len(os.read(out.fileno(), 1 << 20)) for _ in range(20))
        assert taken
        assert select.select([], [feed], [], PATIENCE)[1], "it does not go on"


# -- results that JSON does not have --------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "text", "shown"),
    [
        ("builtins:set", "aa", "{'a'}"),
        ("builtins:float", "nan", "nan"),
        ("builtins:float", "inf", "inf"),
        ("work:Shop", "x", "Shop(x)"),
    ],
)
def test_a_result_that_json_cannot_express_fails_or_is_a_repr(
    home: Path, function: str, text: str, shown: str
) -> None:
    done = unirun("map", function, text, "--errors=report", cwd=home)
    (report,) = done.lines
    assert (done.status, report["ok"], report["error"]["type"]) == (1, False, "TypeError")
    assert "cannot be written as JSON" in report["error"]["message"]
    assert "cli" not in report["error"]["traceback"], "where we notice is of no interest"
    assert unirun("map", function, text, "--repr", cwd=home) == Done(0, f'"{shown}"\n', "")


def test_repr_replaces_only_what_json_cannot_express(home: Path) -> None:
    done = unirun("map", "--jsonl", "builtins:dict", '{"a": [1], "b": null}', "--repr", cwd=home)
    assert done.lines == [{"a": [1], "b": None}]
    (line,) = unirun("map", "--jsonl", "builtins:list", '["ab"]', "--repr", cwd=home).lines
    assert line == ["a", "b"]
    (line,) = unirun("map", "--jsonl", "builtins:divmod", "[7, 2]", "--repr", cwd=home).lines
    assert line == [3, 1]


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_raise_ends_at_the_first_with_its_traceback(home: Path, backend: str) -> None:
    inputs = ("1", "two", "3")
    done = unirun("map", "work:number", *inputs, "--backend", backend, cwd=home)
    assert (done.status, done.lines) == (1, [1])
    assert 'work.py", line' in done.err
    assert "in number" in done.err
    assert "ValueError: invalid literal for int() with base 10: 'two'\n" in done.err
    assert "unirun: error: input 1, 'two', failed with ValueError;" in done.err
    assert "unirun/cli" not in done.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_skip_goes_on_and_counts(home: Path, backend: str) -> None:
    inputs = ("1", "two", "3", "four")
    done = unirun("map", "work:number", *inputs, "--errors=skip", "--backend", backend, cwd=home)
    assert (done.status, done.lines) == (1, [1, 3])
    assert done.err == ("unirun: 2 of 4 inputs failed; to see why, use --errors report\n")


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_report_tells_what_became_of_each_input(home: Path, backend: str) -> None:
    done = unirun(
        "map", "work:number", "1", "two", "--errors=report", "--backend", backend, cwd=home
    )
    good, bad = done.lines
    trace = bad["error"].pop("traceback")
    assert (done.status, done.err) == (1, "")
    assert good == {"index": 0, "input": "1", "ok": True, "result": 1}
    message = "invalid literal for int() with base 10: 'two'"
    assert bad == {
        "index": 1,
        "input": "two",
        "ok": False,
        "error": {"type": "ValueError", "message": message},
    }
    assert trace.startswith("Traceback (most recent call last):\n")
    assert f"\nValueError: {message}\nunirun: call " in trace
    assert "in number" in trace


def test_unordered_reports_say_which_input_they_are_about(home: Path) -> None:
    inputs = [str(n) if n % 3 else "x" for n in range(30)]
    options = ("--unordered", "--errors=report", "--kind=cpu")
    lines = unirun("map", "work:number", *inputs, *options, cwd=home).lines
    assert sorted(line["index"] for line in lines) == list(range(30))
    assert all(line["input"] == inputs[line["index"]] for line in lines)
    assert all(line["ok"] == (line["input"] != "x") for line in lines)


@pytest.mark.parametrize("size", ["1", "2", "10"])
def test_a_crash_fails_the_input_it_was_at_and_each_runs_once(home: Path, size: str) -> None:
    options = ("--kind=cpu", "--workers=1", "--errors=report", "--chunksize", size)
    done = unirun("map", "work:crash_at_3", *"123456", *options, cwd=home)
    assert [line["input"] for line in done.lines if line["ok"]] == list("12456")
    (crashed,) = [line for line in done.lines if not line["ok"]]
    assert crashed["index"] == 2
    assert crashed["error"]["type"] == "unirun.WorkerCrashed"
    assert "died with exit code 7" in crashed["error"]["message"]
    assert sorted((home / "ran").read_text()) == list("12456")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_timeout_fails_the_call_that_takes_too_long(home: Path, backend: str) -> None:
    options = ("--timeout=200ms", "--errors=report", "--backend", backend)
    done = unirun("map", "work:sleep", "x", *options, cwd=home)
    (report,) = done.lines
    assert (done.status, report["error"]["type"]) == (1, "unirun.TaskTimeout")


@pytest.mark.parametrize("backend", BACKENDS)
def test_retries_run_a_failed_call_again(home: Path, backend: str) -> None:
    done = unirun("map", "work:retried", "x", "--retries=2", "--backend", backend, cwd=home)
    assert done == Done(0, "3\n", "")
    done = unirun("map", "work:retried", "x", "--retries=1", "--backend", backend, cwd=home)
    assert done.status == 1
    assert "ConnectionError: attempt 2" in done.err


# -- chunks ---------------------------------------------------------------------------------------


def test_with_a_chunksize_results_and_errors_stay_single(home: Path) -> None:
    inputs = [str(n) if n != 17 else "x" for n in range(40)]
    options = ("--kind=cpu", "--chunksize=7", "--errors=report")
    lines = unirun("map", "work:number", *inputs, *options, cwd=home).lines
    assert [line["index"] for line in lines] == list(range(40))
    assert [line["ok"] for line in lines] == [n != 17 for n in range(40)]
    assert lines[17]["error"]["type"] == "ValueError"


def test_with_a_chunksize_nothing_waits_for_company(home: Path) -> None:
    with running("map", "work:double", "-", "--kind=cpu", "--chunksize=9", cwd=home) as command:
        command.tell("a\n")
        assert json.loads(command.out_line()) == "aa"
        assert command.wait().status == 0


def test_with_a_chunksize_a_bad_input_and_keywords_work(home: Path) -> None:
    inputs = ("1", "{", '{"a": 1, "b": 2}', "[1, 1]")
    options = ("--jsonl", "--kind=cpu", "--chunksize=4", "--errors=skip")
    assert unirun("map", "work:add", *inputs, *options, cwd=home).lines == [11, 3, 2]


# -- what functions see ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_prints_go_to_stderr_and_no_function_takes_the_inputs(home: Path, backend: str) -> None:
    stdin = "".join(f"{n}\n" for n in range(20))
    options = ("--backend", backend, "--workers=2")
    done = unirun("map", "work:chatty", "-", *options, cwd=home, stdin=stdin)
    assert done.lines == [str(n) for n in range(20)]
    assert done.err.count("printed") == done.err.count("from a program") == 20


def test_what_a_module_prints_when_imported_goes_to_stderr(home: Path) -> None:
    (home / "loud.py").write_text("print('imported')\nf = str\n")
    for command in (("map", "loud:f", "1"), ("explain", "loud:f", "--json")):
        done = unirun(*command, cwd=home)
        assert (done.status, done.err) == (0, "imported\n")
        json.loads(done.out)


@pytest.mark.parametrize(
    ("function", "result"),
    [
        ("work:later", "xx"),
        ("work:Shop.static", "static x"),
        ("work:Shop.tasked", "Shop x"),
        ("os.path:basename", "x"),
        ("builtins:str.upper", "X"),
    ],
)
@pytest.mark.parametrize("backend", [None, "process"])
def test_what_can_be_called_can_be_mapped(
    home: Path, function: str, result: str, backend: str | None
) -> None:
    options = () if backend is None else ("--backend", backend)
    done = unirun("map", function, "x", *options, cwd=home)
    assert (done.status, done.lines) == (0, [result]), done.err


def test_a_task_runs_where_its_decorator_says(home: Path) -> None:
    with running("map", "work:tasked", "a", "b", cwd=home) as command:
        results = command.wait().lines
    assert [x for _, x in results] == ["a", "b"]
    assert command.process.pid not in {pid for pid, _ in results}


def test_the_kind_given_wins_over_the_decorator(home: Path) -> None:
    with running("map", "work:tasked", "a", "--kind=io", cwd=home) as command:
        assert command.wait().lines == [[command.process.pid, "a"]]


def test_workers_says_how_many_there_are(home: Path) -> None:
    inputs = [str(n) for n in range(30)]
    done = unirun("map", "work:pid", *inputs, "--kind=cpu", "--workers=1", cwd=home)
    assert len(set(done.lines)) == 1


# -- where functions are found --------------------------------------------------------------------


def test_the_script_does_what_the_module_does(home: Path) -> None:
    script = Path(sys.executable).parent / "unirun"
    if not script.exists():
        pytest.skip("installed without scripts")
    done = unirun("map", "work:double", "a", cwd=home, program=[str(script)])
    assert done == Done(0, '"aa"\n', "")


def test_the_current_directory_is_not_searched_in_safe_mode(home: Path) -> None:
    program = (sys.executable, "-P", "-m", "unirun")
    done = unirun("map", "work:double", "a", cwd=home, program=program)
    assert done.status == 2
    assert "unknown module 'work'" in done.err


MISUSES = [
    ("", "usage: unirun"),
    ("mapp work:double a", "unknown command 'mapp'; did you mean 'map'?"),
    ("--workers=2 map work:double a", "write it after 'map'"),
    ("map", "the following arguments are required: MODULE:FUNCTION"),
    ("map work:double a --wrong", "unrecognized arguments: --wrong"),
    ("map work:double a --errors=ignore", "invalid choice: 'ignore'"),
    ("map work:double", "there is no input; give some, or '-'"),
    ("map work:double - -", "standard input can be read only once"),
    ("map work a", "cannot use 'work' as a function; write it as MODULE:FUNCTION"),
    ("map work: a", "write it as MODULE:FUNCTION"),
    ("map wrok:double a", "unknown module 'wrok'; did you mean 'work'?"),
    ("map jsn.decoder:x a", "unknown module 'jsn'; did you mean 'json'?"),
    ("map json.decodr:x a", "package 'json': unknown module 'decodr'; did you mean 'decoder'?"),
    ("map work.double:x a", "'work' is no package; a colon goes before the function"),
    ("map work:duoble a", "module 'work': unknown name 'duoble'; did you mean 'double'?"),
    ("map work:Shop.statik a", "work:Shop: unknown name 'statik'; did you mean 'static'?"),
    ("map work:constant a", "'work:constant' is a int, not a function"),
    ("map ./work.py:double a", "'./work.py' is a file; name its module, such as 'work'"),
    ("map .work:double a", "'.work' is no name of a module"),
    ("map broken:f a", "ZeroDivisionError"),
    ("map leaves:f a", "SystemExit: 3"),
    ("map needs:f a", "ModuleNotFoundError: No module named 'no_such_thing'"),
    ("map work:double a --kind=cpuu", "--kind: unknown kind 'cpuu'; did you mean 'cpu'?"),
    ("map work:double a --backend=proces", "unknown backend 'proces'; did you mean 'process'"),
    ("map work:double a --workers=0", "--workers: cannot use '0'"),
    ("map work:double a --timeout=soon", "--timeout: cannot use 'soon'"),
    ("map work:double a --retries=-1", "--retries: cannot use '-1'"),
    ("map work:double a --chunksize=0", "--chunksize: cannot use 0"),
    ("map work:tasked a --chunksize=2 --timeout=1", "--chunksize 2 cannot be combined"),
    ("map work:double a --backend=coroutine", "is not a coroutine function"),
    ("map work:must_be_killable a --backend=thread", "cannot offer killable"),
    ("explain work:duoble", "did you mean 'double'?"),
    ("explain work:double --kind=cpuu", "did you mean 'cpu'?"),
    ("info --wrong", "unrecognized arguments: --wrong"),
]


@pytest.mark.parametrize(("command", "text"), MISUSES)
def test_wrong_use_is_one_clear_error_and_status_2(home: Path, command: str, text: str) -> None:
    (home / "broken.py").write_text("1 / 0\n")
    (home / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (home / "needs.py").write_text("import no_such_thing\n")
    done = unirun(*command.split(), cwd=home)
    assert (done.status, done.out) == (2, "")
    assert text in done.err
    assert "Traceback" not in done.err


def test_a_module_that_cannot_be_imported_shows_where(home: Path) -> None:
    (home / "broken.py").write_text("def helper():\n    1 / 0\n\nhelper()\n")
    err = unirun("map", "broken:f", "a", cwd=home).err
    assert err.startswith("unirun: error: importing 'broken' failed\n")
    assert 'broken.py", line 2, in helper\n' in err
    assert "importlib" not in err


@pytest.mark.parametrize("variable", ["UNIRUN_KIND", "UNIRUN_NONSENSE"])
def test_a_wrong_setting_is_wrong_use(home: Path, variable: str) -> None:
    done = unirun("map", "work:double", "a", cwd=home, **{variable: "cpuu"})
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("unirun: error: ")
    assert variable in done.err
