"""What a setting may be, in every spelling; and every wrong one, with what it gets to hear."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from settings_files import pyproject, why, write

from unirun import _settings
from unirun._config import UnknownOption, check_options, config, configure, load
from unirun._errors import ConfigError, UnirunError
from unirun._hints import Kind
from unirun._keywords import Settings
from unirun._settings import KEYS

TIMEOUT = 30.0

pytestmark = pytest.mark.usefixtures("here")


# -- the table ---------------------------------------------------------------------------------


def test_the_keywords_for_type_checkers_are_those_of_the_table() -> None:
    assert set(Settings.__annotations__) == set(KEYS)


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_default_is_a_value_its_own_key_accepts(key: _settings.Key) -> None:
    assert _settings.parse(key, key.default, "here") == key.default
    assert key.doc
    assert key.form.allowed


VALUES = {  # one that is not the default, as text and as it must arrive
    "max_workers": ("7", 7),
    "blas_threads": ("3", 3),
    "start_method": ("spawn", "spawn"),
    "grace": ("500ms", 0.5),
    "idle_timeout": ("none", None),
    "preload": ("json, email.parser", ("json", "email.parser")),
    "ship": ("json, email.parser", ("json", "email.parser")),
    "max_tasks_per_child": ("9", 9),
    "max_worker_rss": ("2GiB", 2 * 2**30),
    "thread_name_prefix": ("crew-", "crew-"),
    "max_pending": ("100, 64MiB", (100, 64 * 2**20)),
    "when_full": ("raise", "raise"),
    "exit_grace": ("1m", 60.0),
    "dump": ("yes", True),
    "trace": ("run.json", "run.json"),
    "monitor": ("yes", True),
    "progress": ("rich", "rich"),
    "hang_warning": ("1m", 60.0),
    "manager": ("process", "process"),
    "call_sites": ("always", "always"),
    "output": ("direct", "direct"),
    "logs": ("no", False),
    "kind": ("native", "native"),
    "auto": ("frozen", "frozen"),
    "require": ("killable,isolation", frozenset({"killable", "isolation"})),
    "timeout": ("30s", 30.0),
    "queue_timeout": ("1h", 3600.0),
    "retries": ("3", 3),
    "priority": ("-2", -2),
    "memory": ("2GiB", 2 * 2**30),
    "resources": ("gpu=1,memory=1MB", {"gpu": 1, "memory": 10**6}),
    "name": ("nightly", "nightly"),
    "capture": ("yes", True),
    "killable": ("yes", True),
    "seed": ("42", 42),
    "seed_libraries": ("yes", True),
    "context": ("off", False),
}


def test_every_key_that_may_come_from_outside_is_tried() -> None:
    assert {*VALUES, "backend", "routes", "deadline"} == set(KEYS)


@pytest.mark.parametrize("name", VALUES)
def test_a_variable_and_a_line_of_a_file_mean_the_same(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = VALUES[name]
    path = pyproject(here, f'{name} = "{text}"')
    resolved = load().resolve()
    assert resolved[name] == value
    assert resolved.source(name) == f"pyproject.toml [tool.unirun] (line 2 of {path})"

    monkeypatch.setenv(f"UNIRUN_{name.upper()}", text)
    resolved = load().resolve()
    assert resolved[name] == value
    assert resolved.source(name) == f"UNIRUN_{name.upper()}"


@pytest.mark.parametrize(
    ("name", "given_value", "value"),
    [
        ("timeout", 3, 3.0),
        ("timeout", "1.5", 1.5),
        ("timeout", " 2 MIN ", 120.0),
        ("timeout", "250us", 0.00025),
        ("timeout", "1d", 86400.0),
        ("timeout", 0, 0.0),
        ("timeout", None, None),
        ("memory", 1024, 1024),
        ("memory", 1e9, 10**9),
        ("memory", "1e6", 10**6),
        ("memory", "512MB", 512 * 10**6),
        ("memory", "0.5 kib", 512),
        ("max_workers", "all", "all"),
        ("max_workers", "Half", "half"),
        ("max_workers", "auto", None),
        ("start_method", "auto", None),
        ("kind", Kind.CPU, "cpu"),
        ("require", "killable", frozenset({"killable"})),
        ("require", ["sharedmem"], frozenset({"sharedmem"})),
        ("routes", {"cpu": "package.module:Class"}, {"cpu": "package.module:Class"}),
        ("preload", [], ()),
        ("resources", {"gpu": 0.5, "cpu": 2}, {"gpu": 0.5, "cpu": 2}),
        ("max_pending", 7, (7, None)),
        ("max_pending", "7", (7, None)),
        ("max_pending", "1kB", (None, 1000)),
        ("max_pending", ["1 kib", 3], (3, 1024)),
        ("max_pending", (3, None), (3, None)),
        ("max_pending", (3, 1024), (3, 1024)),
        ("max_pending", "none", None),
        ("deadline", 12.5, 12.5),
        ("killable", False, False),
    ],
)
def test_values_take_their_normal_form(name: str, given_value: Any, value: Any) -> None:
    found = check_options({name: given_value}, "Executor()")[name]
    assert found == value
    assert type(found) is type(value)


def test_a_retry_object_of_unirun_is_taken_as_it_is() -> None:
    retry = type("Retry", (), {"__module__": "unirun"})()
    assert check_options({"retries": retry}, "options()")["retries"] is retry
    other = type("Retry", (), {"__module__": "elsewhere"})()
    assert "or in code a Retry" in why(ConfigError, check_options, {"retries": other}, "options()")


@pytest.mark.parametrize(
    ("setting", "number"), [(None, None), (3, 3), ("all", 5), ("half", 2), (9, 9)]
)
def test_worker_words_are_shares_of_the_cores(setting: Any, number: int | None) -> None:
    assert _settings.worker_count(setting, 5) == number
    assert _settings.worker_count("half", 1) == 1


# -- bad input: code ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"timout": 3},
            "options(): unknown option 'timout'; did you mean 'timeout'?",
        ),
        (
            {"kind": "cpuu"},
            (
                "options(): unknown kind 'cpuu'; did you mean 'cpu'?"
                " kinds: auto, cpu, io, native, async, isolated"
            ),
        ),
        (
            {"require": {"kilable"}},
            (
                "options(): unknown requirement 'kilable'; did you mean 'killable'?"
                " requirements: killable, isolation, sharedmem"
            ),
        ),
        (
            {"routes": {"oi": "thread"}},
            ("options(): unknown kind 'oi'; kinds: auto, cpu, io, native, async, isolated"),
        ),
        (
            {"timeout": "5 parsecs"},
            (
                "options(): cannot use '5 parsecs' as timeout; timeout must be a number of seconds,"
                " 0 or more, such as 30, '500ms', '2m' or '1h', or none"
            ),
        ),
        (
            {"memory": "2G"},
            (
                "options(): cannot use '2G' as memory; memory must be a number of bytes, 1 or more,"
                " such as 1e6, '512MB' or '2GiB', or none"
            ),
        ),
        (
            {"grace": 3},
            (
                "options(): grace belongs to a whole pool, not to a call; set it in Executor(),"
                " in configure(), as UNIRUN_GRACE or in [tool.unirun]"
            ),
        ),
    ],
)
def test_a_mistake_in_code_is_answered_in_full(options: dict[str, Any], says: str) -> None:
    assert why(ConfigError, check_options, options, "options()") == says


@pytest.mark.parametrize("where", ["options()", "@task"])
def test_an_unknown_option_is_a_type_error_as_for_any_keyword(where: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_options({"wokers": 3}, where)
    assert isinstance(caught.value, UnknownOption)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, UnirunError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (UnknownOption, str(caught.value))


@pytest.mark.parametrize("setter", [configure, config])
def test_configure_and_config_refuse_an_unknown_keyword_at_once(setter: Any) -> None:
    assert "did you mean 'max_workers'?" in why(TypeError, setter, max_wokers=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_workers", 0),
        ("max_workers", -1),
        ("max_workers", 1.5),
        ("max_workers", True),
        ("max_workers", "most"),
        ("start_method", "forkserver"),
        ("grace", None),
        ("grace", -0.1),
        ("grace", float("nan")),
        ("grace", float("inf")),
        ("grace", "3s3s"),
        ("grace", b"3"),
        ("grace", []),
        ("grace", "1e12"),
        ("deadline", float("inf")),
        ("deadline", "10s"),
        ("preload", "not a module"),
        ("preload", 3),
        ("max_tasks_per_child", 0),
        ("thread_name_prefix", 3),
        ("backend", ""),
        ("backend", {"process": {}}),
        ("kind", None),
        ("routes", "cpu"),
        ("routes", {"cpu": 3}),
        ("routes", 3),
        ("require", "anything"),
        ("retries", -1),
        ("retries", True),
        ("priority", 1.5),
        ("memory", 0),
        ("memory", 1.5e-3),
        ("memory", True),
        ("memory", "inf"),
        ("resources", {"gpu": "some"}),
        ("resources", {"gpu": -1}),
        ("name", 5),
        ("killable", "perhaps"),
        ("killable", 2),
    ],
)
def test_a_value_that_cannot_be_used_is_a_value_error_that_names_key_and_value(
    name: str, value: Any
) -> None:
    text = why(ConfigError, check_options, {name: value}, "Executor()")
    assert text.startswith("Executor(): ")
    bad = next(iter(value.values())) if isinstance(value, dict) else value
    assert repr(bad) in text or str(value) in text
    assert name.replace("_", " ") in text.replace("_", " ") or "unknown requirement" in text


@pytest.mark.parametrize(
    ("name", "stdlib"),
    [
        ("max_workers", "max_workers must be greater than 0"),
        ("max_tasks_per_child", "max_tasks_per_child must be >= 1"),
    ],
)
def test_a_pool_of_no_workers_is_refused_in_the_words_of_the_stdlib(name: str, stdlib: str) -> None:
    assert stdlib in why(ValueError, check_options, {name: 0}, "Executor()")


def test_an_option_of_a_backend_that_every_pool_has_is_checked() -> None:
    text = why(ConfigError, configure, backend={"process": {"max_workers": 0}})
    assert text.startswith("configure(): cannot use 0 as max_workers; max_workers must be greater")
    text = why(ConfigError, configure, backend={"process": 3})
    assert text == (
        "configure(): cannot use 3 as backend.process; backend.process must be a table of keys"
    )


# -- cost --------------------------------------------------------------------------------------


def test_importing_reads_nothing_and_imports_nothing_it_may_not_need(here: Path) -> None:
    write(here / "unirun.toml", "this is no TOML")
    code = (
        "import sys; before = set(sys.modules)\n"
        "import unirun._config\n"
        "print(*{'tomllib', 'difflib', 'pathlib', 'cloudpickle'} & (set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"UNIRUN_NONSENSE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout.strip() == ""
