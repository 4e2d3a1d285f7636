"""Each setting broken once in each place: one error, with place, value and what is allowed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from settings_files import pyproject, why, write

import unirun
from unirun import ConfigError, Executor, UnirunError, UnknownBackend, config, configure, task
from unirun._forms import BARS, START_METHODS
from unirun._settings import KEYS, KINDS, OWN_OPTIONS, POOL_KEYS, REQUIREMENTS, misplaced

TIMEOUT = 60.0

pytestmark = pytest.mark.usefixtures("here")

# For each key: what is wrong in code, and as text; what the answer must contain.
NUMBER_OF_SECONDS = "a number of seconds, 0 or more, such as 30, '500ms', '2m' or '1h'"
NUMBER_OF_BYTES = "a number of bytes, 1 or more, such as 1e6, '512MB' or '2GiB'"
WHOLE = "a whole number"
TRUTH = "true or false"
WRONG: dict[str, tuple[Any, str, str]] = {
    "max_workers": (0, "many", "greater than 0: a whole number, 'all' or 'half'"),
    "blas_threads": (0, "many", ">= 1"),
    "start_method": ("forkserver", "forkserver", ", ".join(START_METHODS)),
    "grace": (-1, "3 parsecs", NUMBER_OF_SECONDS),
    "idle_timeout": ("soon", "-1", NUMBER_OF_SECONDS),
    "preload": (
        ["no module"],
        "no module",
        "names of modules, such as ['numpy', 'package.module']",
    ),
    "ship": (["no module"], "no module", "names of modules, such as ['numpy', 'package.module']"),
    "max_tasks_per_child": (0, "1.5", ">= 1: a whole number"),
    "max_worker_rss": (0, "2G", NUMBER_OF_BYTES),
    "thread_name_prefix": (3, "", "a string"),
    "max_pending": (0, "1, 2, 3", "a number of calls, of bytes with their unit, or both"),
    "when_full": ("rais", "rais", "did you mean 'raise'? choices: block, raise"),
    "exit_grace": ("nan", "nan", NUMBER_OF_SECONDS),
    "dump": (2, "maybe", TRUTH),
    "trace": (True, "", "a string that is not empty, or none"),
    "monitor": (2, "maybe", TRUTH),
    "progress": ("bar", "bar", f"bars: {', '.join(BARS)}"),
    "hang_warning": ([], "5 s s", NUMBER_OF_SECONDS),
    "call_sites": ("allways", "allways", "did you mean 'always'? choices: auto, always, never"),
    "output": ("realy", "realy", "did you mean 'relay'? choices: relay, direct"),
    "logs": ("perhaps", "perhaps", TRUTH),
    "manager": ("thred", "thred", "did you mean 'thread'? places: thread, process"),
    "backend": (3, "", "the name of a backend, such as 'thread' or 'process'"),
    "kind": ("cpuu", "cpuu", f"did you mean 'cpu'? kinds: {', '.join(KINDS)}"),
    "routes": ({"cpu": 3}, "cpu", "kinds and backends, such as {cpu = 'process'} or 'cpu=process"),
    "auto": ("learns", "learns", "did you mean 'learn'? choices: learn, frozen, off"),
    "require": ("killabel", "killabel", f"requirements: {', '.join(REQUIREMENTS)}"),
    "timeout": ("5 parsecs", "5 parsecs", NUMBER_OF_SECONDS),
    "queue_timeout": (True, "yes", NUMBER_OF_SECONDS),
    "deadline": ("tomorrow", "", "a moment on the clock of time.monotonic()"),
    "retries": (-1, "twice", "a whole number, 0 or more, or in code a Retry"),
    "priority": (1.5, "high", WHOLE),
    "memory": ("2G", "2G", NUMBER_OF_BYTES),
    "resources": ({"gpu": "some"}, "gpu", "names and amounts, such as {gpu = 1} or 'gpu=1,cpu=2'"),
    "name": (5, "", "a string that is not empty"),
    "capture": ("perhaps", "perhaps", TRUTH),
    "killable": ("perhaps", "perhaps", TRUTH),
    "seed": (-1, "lucky", "a whole number, 0 or more, or none"),
    "seed_libraries": ("perhaps", "perhaps", TRUTH),
    "context": ("perhaps", "perhaps", TRUTH),
}
AS_TEXT = [name for name, (_, text, _) in WRONG.items() if text]
OF_A_POOL = [name for name in POOL_KEYS if name in WRONG]


def test_every_key_is_broken() -> None:
    assert set(WRONG) == set(KEYS)


def is_complete(text: str, place: str, name: str, value: Any) -> None:
    """One line with the place first, the value, the name where the place has none, what may be."""
    assert text.startswith(f"{place}: ")
    told = text.removeprefix(f"{place}: ")
    shown = [repr(value), *([repr(part) for part in value] if isinstance(value, list) else [])]
    assert any(each in told for each in shown)
    words = name.replace("_", " ")
    assert words in told.replace("_", " ") or (name == "require" and "requirement" in told)
    assert WRONG[name][2] in told
    assert "\n" not in text
    assert len(text) < 400


# -- in code --------------------------------------------------------------------------------------


def in_options(**keys: Any) -> None:
    with Executor(backend="inline") as executor:
        executor.options(**keys)


def in_decorator(**keys: Any) -> None:
    task(**keys)(os.getpid)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    ("say", "place"), [(configure, "configure()"), (config, "with config()")], ids=["all", "block"]
)
def test_a_wrong_value_for_the_program_or_a_block(
    say: Callable[..., Any], place: str, name: str
) -> None:
    value = WRONG[name][0]
    is_complete(why(ConfigError, say, **{name: value}), place, name, value)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    ("say", "place"), [(in_options, "options()"), (in_decorator, "@task")], ids=["call", "task"]
)
def test_a_wrong_value_for_a_call_or_a_task(say: Callable[..., Any], place: str, name: str) -> None:
    value = WRONG[name][0]
    text = why(ConfigError, say, **{name: value})
    if name in POOL_KEYS:
        assert text == f"{place}: {misplaced(KEYS[name])}"
    else:
        is_complete(text, place, name, value)


PARAMETERS = set(signature(Executor).parameters) & set(KEYS)


@pytest.mark.parametrize("name", sorted(PARAMETERS - {"name"}))  # that one names the executor
def test_a_wrong_value_for_an_executor(name: str) -> None:
    value = WRONG[name][0]
    is_complete(why(ConfigError, Executor, **{name: value}), "Executor()", name, value)


@pytest.mark.parametrize("say", [configure, config, in_options, in_decorator, Executor])
def test_a_wrong_keyword_is_a_type_error_with_the_right_one(say: Callable[..., Any]) -> None:
    text = why(TypeError, say, kindd="cpu")
    assert "unknown option 'kindd'; did you mean 'kind'?" in text


# -- in the environment ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", AS_TEXT)
def test_a_wrong_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, text = f"UNIRUN_{name.upper()}", WRONG[name][1]
    monkeypatch.setenv(variable, text)
    is_complete(why(ConfigError, Executor), variable, name, text)


# -- in a file ------------------------------------------------------------------------------------

HEADERS = ["", "profile.ci", 'task."app:*"', 'profile.ci.task."app:*"']


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", AS_TEXT)
def test_a_wrong_line(name: str, header: str, here: Path) -> None:
    text = WRONG[name][1]
    title = f"tool.unirun.{header}".rstrip(".")
    lines = ["# ours", f"[{title}]", f"{name} = {json.dumps(text)}"]
    path = write(here / "pyproject.toml", *lines)
    place = f"pyproject.toml [{title}] (line 3 of {path})"
    found = why(ConfigError, Executor)
    if name in POOL_KEYS and "task" in header:
        assert found == f"{place}: {misplaced(KEYS[name])}"
    else:
        is_complete(found, place, name, text)


@pytest.mark.parametrize("name", [name for name in OF_A_POOL if WRONG[name][1]])
@pytest.mark.parametrize("backend", ["process", "of_others"])
def test_a_wrong_line_of_the_table_of_a_backend(name: str, backend: str, here: Path) -> None:
    text = WRONG[name][1]
    path = write(here / "unirun.toml", f"[backend.{backend}]", f"{name} = {json.dumps(text)}")
    place = f"unirun.toml [backend.{backend}] (line 2 of {path})"
    is_complete(why(ConfigError, Executor), place, name, text)


@pytest.mark.parametrize(
    "value",
    ["1979-05-27", "00:30:00", "[1]", "{ a = 1 }", "true", "nan", "inf", "-1", "1e400", "[[]]"],
)
def test_a_value_of_a_type_that_only_toml_has(value: str, here: Path) -> None:
    path = pyproject(here, f"grace = {value}")
    text = why(ConfigError, Executor)
    assert text.startswith(f"pyproject.toml [tool.unirun] (line 2 of {path}): cannot use ")
    assert text.endswith(f" as grace; grace must be {NUMBER_OF_SECONDS}")


# -- backends -------------------------------------------------------------------------------------

WRONG_OPTIONS = {
    ("inline", "copy"): ("perhaps", TRUTH),
    ("process", "window"): (0, ">= 1: a whole number"),
    ("process", "arrays"): ("views", "did you mean 'view'? choices: view, copy"),
    ("process", "arena_limit"): ("2G", "a number of bytes, 0 or more"),
}


def test_the_own_options_of_backends_are_known_before_one_is_loaded() -> None:
    for name, options in OWN_OPTIONS.items():
        if unirun._registry.available(name) is not None:
            continue  # an engine that is not installed
        assert set(options) == set(unirun._registry.load(name).option_names), name
    assert set(OWN_OPTIONS) == set(unirun._registry.BUILTIN)


@pytest.mark.parametrize(("backend", "option"), WRONG_OPTIONS)
def test_a_wrong_option_of_a_backend(backend: str, option: str, here: Path) -> None:
    value, allowed = WRONG_OPTIONS[backend, option]
    path = write(here / "unirun.toml", f"backend.{backend}.{option} = {json.dumps(value)}")
    text = why(ConfigError, Executor)
    assert text.startswith(f"unirun.toml (line 1 of {path}): ")
    assert repr(value) in text
    assert allowed in text
    in_code = why(ConfigError, configure, backend={backend: {option: value}})
    assert in_code == text.replace(f"unirun.toml (line 1 of {path})", "configure()")


def test_an_option_that_a_backend_does_not_have(here: Path) -> None:
    path = write(here / "unirun.toml", "[backend.process]", "max_wrokers = 3")
    says = "unknown option of the 'process' backend 'max_wrokers'; did you mean 'max_workers'?"
    assert why(ConfigError, Executor) == f"unirun.toml [backend.process] (line 2 of {path}): {says}"


@pytest.mark.parametrize(
    ("lines", "title"),
    [
        (["backend = 'proces'"], ""),
        (["routes = { io = 'proces' }"], ""),
        (["backend.proces.grace = 1"], ""),
        (["[task.'a:*']", "backend = 'proces'"], " [task.'a:*']"),
        (["[profile.ci.routes]", "io = 'proces'"], " [profile.ci.routes]"),
    ],
)
def test_a_misspelt_backend_in_a_file(
    lines: list[str], title: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(here / "unirun.toml", *lines, "[profile.ci]" if "profile" not in title else "")
    monkeypatch.setenv("UNIRUN_PROFILE", "ci")
    found = next(n for n, line in enumerate(lines, 1) if "proces" in line)
    says = "unknown backend 'proces'; did you mean 'process'?"
    text = why(UnknownBackend, Executor)
    assert text == f"unirun.toml{title} (line {found} of {path}): {says}"


@pytest.mark.parametrize(
    ("variable", "value"), [("UNIRUN_BACKEND", "proces"), ("UNIRUN_ROUTES", "io=proces")]
)
def test_a_misspelt_backend_in_a_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    text = why(ConfigError, Executor)
    assert text == f"{variable}: unknown backend 'proces'; did you mean 'process'?"


def test_a_backend_that_is_nowhere_is_refused_where_it_is_used(here: Path) -> None:
    path = write(here / "unirun.toml", "routes.io = 'slurm'")
    with Executor() as executor:  # one file serves many machines
        assert executor.submit(pow, 2, 3).result(TIMEOUT) == 8
        text = why(UnknownBackend, executor.options(kind="io").submit, pow, 2, 3)
    assert text.startswith(f"unirun.toml (line 1 of {path}): unknown backend 'slurm'; backends: ")


# -- values that are hard to show -----------------------------------------------------------------


class Unspeakable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Unspeakable(), "this Unspeakable"),
        (10**5000, "this int"),
        ("x" * 10**6, f"{'x' * 149}... (1000002 characters)"),
        ("a\nb", r"'a\nb'"),
        ("\udcff", r"'\udcff'"),
    ],
    ids=["repr", "digits", "long", "lines", "surrogate"],
)
def test_whatever_the_value_the_answer_is_one_short_line(value: Any, shown: str) -> None:
    text = why(ConfigError, configure, grace=value)
    assert shown in text
    assert "\n" not in text
    assert len(text) < 500


# -- as a user sees it ----------------------------------------------------------------------------

SCRIPT = """
import unirun
def double(x):
    return 2 * x
def nested():
    import os
    os.environ["UNIRUN_GRACE"] = "3 parsecs"
    return unirun.Executor(1, backend="thread")
if __name__ == "__main__":
    import sys
    if sys.argv[1:] == ["worker"]:
        unirun.Executor(1, backend="process").submit(nested).result()
    print(unirun.submit(double, 2).result())
"""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_a_script_ends_with_one_error_and_nothing_after_it(here: Path) -> None:
    write(here / "script.py", SCRIPT)
    path = write(here / "unirun.toml", "kind = 'cpuu'")
    done = python("script.py")
    says = f"unirun.toml (line 1 of {path}): unknown kind 'cpuu'; did you mean 'cpu'?"
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "During handling" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"unirun.ConfigError: {says}")


def test_an_error_in_a_worker_is_the_one_error_of_its_call(here: Path) -> None:
    write(here / "script.py", SCRIPT)
    done = python("script.py", "worker")
    assert done.returncode == 1
    *_, last, note = done.stderr.splitlines()
    assert last.startswith("unirun.ConfigError: UNIRUN_GRACE: cannot use '3 parsecs' as grace; ")
    assert note.startswith("unirun: call ")


@pytest.mark.parametrize(
    "command", [("map", "os.path:basename", "a"), ("explain", "os.path:basename")]
)
def test_the_command_line_says_one_line(command: tuple[str, ...]) -> None:
    done = python("-m", "unirun", *command, UNIRUN_KIND="cpuu")
    says = "UNIRUN_KIND: unknown kind 'cpuu'; did you mean 'cpu'?"
    assert done.returncode == 2
    assert done.stderr.startswith(f"unirun: error: {says}")
    assert done.stderr.count("\n") == 1


def test_importing_is_not_stopped_by_anything(here: Path) -> None:
    write(here / "unirun.toml", "no TOML")
    code = "import unirun; from unirun import *; unirun.task(kind='cpu')(len); print('fine')"
    done = python("-c", code, UNIRUN_KIND="cpuu", UNIRUN_CONFIG="nowhere", UNIRUN_X="1")
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_every_error_of_settings_is_one_of_ours_and_of_the_standard_library() -> None:
    for error in (ConfigError, UnknownBackend, unirun.UnknownOption):
        assert issubclass(error, UnirunError)
        assert issubclass(error, ValueError)
    assert issubclass(unirun.UnknownOption, TypeError)
