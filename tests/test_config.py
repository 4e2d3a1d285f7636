"""Which layer wins, in this thread and in others, in asyncio tasks and in worker processes."""

import asyncio
import contextvars
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from settings_files import pyproject, why, write

from unirun import _config, _context
from unirun._config import carried, config, configure, load, reset, snapshot, stamp
from unirun._errors import ConfigError, SerializationError
from unirun._settings import KEYS, POOL_KEYS

TIMEOUT = 30.0

pytestmark = pytest.mark.usefixtures("here")


# -- which layer wins --------------------------------------------------------------------------

LAYERS = (  # highest first; what each is called when it wins
    ("options", "options()"),
    ("executor", "Executor()"),
    ("config", "with config()"),
    ("rule", 'unirun.toml [task."app:*"]'),
    ("decorator", "@task"),
    ("configure", "configure()"),
    ("environment", "UNIRUN_TIMEOUT"),
    ("profile", "unirun.toml [profile.p]"),
    ("file", "unirun.toml"),
)
NAMES = [name for name, _ in LAYERS]
KIND_WORDS = ("cpu", "io", "native", "isolated")


def resolve_with(said: dict[str, dict[str, Any]]) -> _config.Resolution:
    """The settings for the task "app:run" when the layers named say what they are given."""
    lines = []
    for name, header in (("file", None), ("rule", 'task."app:*"'), ("profile", "profile.p")):
        lines += [f"[{header}]"] if header else []
        lines += [f"{key} = {toml(value)}" for key, value in said.get(name, {}).items()]
    variables = {
        f"UNIRUN_{key.upper()}": text(value) for key, value in said.get("environment", {}).items()
    }
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        file = write(Path(directory) / "unirun.toml", *lines)
        variables |= {"UNIRUN_CONFIG": str(file), "UNIRUN_PROFILE": "p"}
        stack.enter_context(patch.dict(os.environ, variables))
        reset()
        configure(**said.get("configure", {}))
        stack.enter_context(config(**said.get("config", {})))
        return load().resolve(
            call=said.get("options", {}),
            executor=said.get("executor", {}),
            decorator=said.get("decorator", {}),
            task="app:run",
        )


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return str(value)


@given(st.sets(st.sampled_from(NAMES)))
@settings(max_examples=60, deadline=None)
def test_the_winner_is_the_highest_layer_that_set_the_key(setters: set[str]) -> None:
    resolved = resolve_with({name: {"timeout": 1.0 + NAMES.index(name)} for name in setters})
    winners = [(1.0 + n, label) for n, (name, label) in enumerate(LAYERS) if name in setters]
    value, label = winners[0] if winners else (None, "default")
    assert resolved["timeout"] == value
    assert resolved.source("timeout").startswith(label)


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(KIND_WORDS), min_size=1)))
@settings(max_examples=60, deadline=None)
def test_routes_are_merged_and_each_comes_from_the_highest_layer_that_has_it(
    said: dict[str, set[str]],
) -> None:
    resolved = resolve_with(
        {name: {"routes": dict.fromkeys(sorted(kinds), name)} for name, kinds in said.items()}
    )
    for kind in KIND_WORDS:
        setters = [name for name in NAMES if kind in said.get(name, ())]
        default = KEYS["routes"].default[kind]
        assert resolved["routes"][kind] == (setters[0] if setters else default)
        label = dict(LAYERS)[setters[0]] if setters else "default"
        assert resolved.source(f"routes.{kind}").startswith(label.replace("TIMEOUT", "ROUTES"))


@given(st.sets(st.sampled_from(NAMES)))
@settings(max_examples=40, deadline=None)
def test_unirun_backend_wins_over_every_other_layer(setters: set[str]) -> None:
    said = {name: {"backend": f"b-{name}"} for name in setters - {"environment"}}
    assert resolve_with(said)["backend"] == next((f"b-{n}" for n in NAMES if n in said), None)
    forced = resolve_with(said | {"environment": {"backend": "inline"}})
    assert forced["backend"] == "inline"
    assert forced.source("backend") == "UNIRUN_BACKEND"


def test_forced_says_what_unirun_backend_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(backend="thread")
    assert load().forced is None
    monkeypatch.setenv("UNIRUN_BACKEND", "inline")
    assert load().forced == "inline"


def test_the_kind_of_an_executor_is_for_functions_without_a_hint() -> None:
    configure(kind="native")
    layers = load()
    assert layers.resolve(executor={"kind": "cpu"})["kind"] == "cpu"
    assert layers.resolve(executor={"kind": "cpu"}, decorator={"kind": "io"})["kind"] == "io"


def test_none_is_a_value_that_hides_the_layers_below() -> None:
    configure(timeout=5)
    resolved = load().resolve(call={"timeout": None})
    assert resolved["timeout"] is None
    assert resolved.source("timeout") == "options()"


def test_configure_adds_to_what_was_configured_before() -> None:
    configure(max_workers=3, routes={"cpu": "inline"}, backend={"process": {"grace": 1}})
    configure(grace=2, routes={"io": "inline"}, backend={"process": {"window": 5}})
    resolved = load().resolve()
    assert (resolved["max_workers"], resolved["grace"]) == (3, 2.0)
    assert (resolved["routes"]["cpu"], resolved["routes"]["io"]) == ("inline", "inline")
    assert resolved.backend_options("process")["grace"] == 1.0
    assert resolved.backend_options("process")["window"] == 5


def test_a_bad_configure_changes_nothing() -> None:
    before = stamp()
    why(ConfigError, configure, max_workers=3, kind="cpuu")
    assert stamp() == before
    assert load().resolve()["max_workers"] is None


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads that take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless_threads")
def test_configure_from_many_threads_loses_nothing() -> None:
    start = threading.Barrier(8)

    def add(n: int) -> None:
        start.wait(TIMEOUT)
        for m in range(20):
            configure(backend={f"b{n}": {f"o{m}": m}})

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(add, n) for n in range(8)]:
            done.result(TIMEOUT)
    resolved = load().resolve()
    own = {f"o{m}": m for m in range(20)}
    assert all(own.items() <= resolved.backend_options(f"b{n}").items() for n in range(8))


# -- options of one backend --------------------------------------------------------------------


def test_options_of_a_backend_win_over_the_general_ones_of_their_layer(here: Path) -> None:
    path = pyproject(
        here,
        "grace = 1",
        "max_workers = 2",
        "[tool.unirun.backend.process]",
        'max_workers = "all"',
        'grace = "500ms"',
        "window = 7",
    )
    resolved = load().resolve()
    assert resolved.backend_options("thread")["max_workers"] == 2
    process = resolved.backend_options("process")
    assert (process["max_workers"], process["grace"], process["window"]) == ("all", 0.5, 7)
    assert set(process) == {*POOL_KEYS, "window"}
    line_6 = f"pyproject.toml [tool.unirun.backend.process] (line 6 of {path})"
    assert resolved.source("backend.process.grace") == line_6
    assert ("backend.process.grace", 0.5, line_6) in resolved.explain()


def test_a_higher_layer_wins_over_the_options_of_a_backend_below(here: Path) -> None:
    pyproject(here, "backend.process.max_workers = 2")
    assert load().resolve().backend_options("process")["max_workers"] == 2
    resolved = load().resolve(executor={"max_workers": 4})
    assert resolved.backend_options("process")["max_workers"] == 4
    assert resolved.source("backend.process.max_workers") == "Executor()"


def test_backend_names_tells_who_is_named_and_where(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pyproject(here, "backend.dask.address = 'auto'")
    monkeypatch.setenv("UNIRUN_ROUTES", "cpu=ray")
    assert load().backend_names() == {
        "ray": "UNIRUN_ROUTES",
        "dask": f"pyproject.toml [tool.unirun] (line 2 of {path})",
    }


def test_explain_has_every_key_with_its_value_and_source() -> None:
    configure(grace="1s")
    rows = load().resolve(decorator={"kind": "io"}).explain()
    assert ("grace", 1.0, "configure()") in rows
    assert ("kind", "io", "@task") in rows
    assert ("routes.isolated", "process", "default") in rows
    assert {key.partition(".")[0] for key, _, _ in rows} == set(KEYS)


def test_a_resolution_is_a_mapping_of_every_key() -> None:
    resolved = load().resolve(call={"timeout": 1.0})
    assert set(resolved) == set(KEYS)
    assert len(resolved) == len(KEYS)
    assert repr(resolved) == "<unirun settings {'timeout': 1.0}>"
    assert "did you mean 'timeout'?" in why(KeyError, resolved.source, "timout")


# -- with config(): whose is it? -----------------------------------------------------------------


def timeout_now() -> float | None:
    timeout: float | None = load().resolve()["timeout"]
    return timeout


def test_blocks_nest_and_the_innermost_wins() -> None:
    with config(timeout=1, grace=1):
        with config(timeout=2):
            assert timeout_now() == 2
            assert load().resolve()["grace"] == 1
        assert timeout_now() == 1
    assert timeout_now() is None


def test_a_block_left_by_an_exception_is_left() -> None:
    with pytest.raises(ZeroDivisionError), config(timeout=1):
        raise ZeroDivisionError
    assert timeout_now() is None


def test_one_config_can_be_entered_again_and_again() -> None:
    one = config(timeout=1)
    with one:
        with one:
            assert timeout_now() == 1
        assert timeout_now() == 1
    assert timeout_now() is None


def test_a_bad_value_is_refused_where_the_config_is_made() -> None:
    assert why(ConfigError, config, kind="cpuu").startswith("with config(): unknown kind 'cpuu'")


def test_threads_do_not_see_the_blocks_of_one_another() -> None:
    both_inside = threading.Barrier(2)

    def inside(seconds: float) -> float | None:
        with config(timeout=seconds):
            both_inside.wait(TIMEOUT)
            return timeout_now()

    with ThreadPoolExecutor(3) as pool, config(timeout=9):
        first, second = pool.submit(inside, 1), pool.submit(inside, 2)
        assert (first.result(TIMEOUT), second.result(TIMEOUT)) == (1, 2)
        assert pool.submit(timeout_now).result(TIMEOUT) is None
        copied = contextvars.copy_context()
        assert pool.submit(copied.run, timeout_now).result(TIMEOUT) == 9


def test_an_asyncio_task_sees_the_blocks_it_was_made_in_and_its_own() -> None:
    async def inside(seconds: float, entered: asyncio.Barrier) -> tuple[Any, Any]:
        before = timeout_now()
        with config(timeout=seconds):
            await entered.wait()
            return before, timeout_now()

    async def main() -> None:
        entered = asyncio.Barrier(2)
        with config(timeout=9):
            tasks = [asyncio.create_task(inside(n, entered)) for n in (1, 2)]
        assert timeout_now() is None
        found = await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)
        assert found == [(9, 1), (9, 2)]

    asyncio.run(main())


def test_generators_may_leave_their_blocks_in_any_order() -> None:
    def block(seconds: float) -> Iterator[None]:
        with config(timeout=seconds):
            yield

    first, second = block(1), block(2)
    next(first)
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert timeout_now() == 2
    second.close()  # type: ignore[attr-defined]
    assert timeout_now() is None


def test_a_block_left_in_another_context_says_so() -> None:
    block = config(timeout=1)
    contextvars.copy_context().run(block.__enter__)
    assert "in another thread or context" in why(RuntimeError, block.__exit__)


def test_what_was_loaded_still_sees_configure_and_config() -> None:
    layers = load()
    configure(timeout=1)
    assert layers.resolve()["timeout"] == 1
    with config(timeout=2):
        assert layers.resolve()["timeout"] == 2


def test_what_was_loaded_keeps_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = load()
    monkeypatch.setenv("UNIRUN_TIMEOUT", "5")
    assert layers.resolve()["timeout"] is None
    assert load().resolve()["timeout"] == 5


def test_the_stamp_changes_with_configure_and_config_and_with_nothing_else() -> None:
    first = stamp()
    load().resolve(call={"timeout": 1.0})
    assert stamp() == first
    with config(timeout=1):
        inside = stamp()
        assert inside != first
        assert inside == stamp()
    assert stamp() == first
    configure(timeout=1)
    assert stamp() not in (first, inside)


def test_a_stamp_of_another_thread_is_equal_only_if_it_says_the_same() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(stamp).result(TIMEOUT) == stamp()
        with config(timeout=1):
            assert pool.submit(stamp).result(TIMEOUT) != stamp()


# -- worker processes --------------------------------------------------------------------------

WORKER = """
import json, pickle, sys
from unirun import _config, _context
settings, blocks = pickle.load(sys.stdin.buffer)
late = sys.argv[1] == "late"  # a preloaded module imported _config, and configured, before
if late:
    _config.configure(name="preloaded", priority=7)
_context.inherited_settings = settings
if blocks is not None:
    _context.blocks.set(blocks)
if not late:
    _config.configure(name="own", priority=7)
resolved = _config.load().resolve(task="app:run")
with _config.config(queue_timeout=8):
    inner = _config.load().resolve()
again = [_config.snapshot(), _config.carried() or b""]
_context.blocks.set(())
outside = _config.load().resolve()["timeout"]
_config.reset()
print(json.dumps({
    "values": {k: v for k, v in resolved.items() if k not in ("require", "preload")},
    "sources": {k: resolved.source(k) for k in resolved},
    "inner": [inner["timeout"], inner["queue_timeout"]],
    "again": [len(data) > 0 for data in again],
    "outside": outside,
    "after_reset": _config.load().resolve()["timeout"],
}))
"""


def in_a_worker(
    settings: bytes, directory: Path, mode: str = "early", blocks: bytes | None = None
) -> dict[str, Any]:
    """What a call with these `blocks` resolves in a worker with these `settings`, elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, mode],
        input=pickle.dumps((settings, blocks)),
        capture_output=True,
        cwd=directory,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", ["early", "late"])
def test_a_worker_starts_with_what_its_parent_said(
    mode: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pyproject(here, "retries = 4", "task.'app:*'.memory = '1GiB'")
    elsewhere = pyproject(here / "elsewhere", "retries = 5", "grace = 5").parent
    monkeypatch.setenv("UNIRUN_EXIT_GRACE", "6")
    configure(max_workers="half", name="parent", routes={"cpu": "inline"}, deadline=1e6)
    with config(timeout=3, deadline=1e6, backend={"process": {"window": 5}}):
        blocks = carried()
        settings = snapshot()
    found = in_a_worker(settings, elsewhere, mode, blocks)
    values, sources = found["values"], found["sources"]
    assert (values["max_workers"], values["timeout"]) == ("half", 3.0)
    assert (sources["max_workers"], sources["timeout"]) == ("configure()", "with config()")
    assert (values["routes"]["cpu"], values["routes"]["io"]) == ("inline", "thread")
    # the parent's file, not the one that lies where the worker happens to be
    assert (values["retries"], values["memory"], values["grace"]) == (4, 2**30, 3.0)
    assert sources["retries"] == f"pyproject.toml [tool.unirun] (line 2 of {file})"
    assert (values["exit_grace"], sources["exit_grace"]) == (6.0, "UNIRUN_EXIT_GRACE")
    assert values["deadline"] is None  # travels with each call, and must not outlive it
    # what the worker says comes on top
    assert values["name"] == {"early": "own", "late": "preloaded"}[mode]
    assert values["priority"] == 7
    assert found["inner"] == [3.0, 8.0]
    assert found["again"] == [True, True]
    assert found["outside"] is found["after_reset"] is None  # a block is its call's, no worker's


PROGRAM = """
import sys
from unirun._config import configure, snapshot
class Refused(Exception):
    pass
configure(timeout=3, backend={"elsewhere": {"retry_on": Refused}})
sys.stdout.buffer.write(snapshot())
"""


def test_what_lives_in_the_main_of_a_program_travels_too(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, timeout=TIMEOUT, check=True
    )
    assert in_a_worker(done.stdout, here)["values"]["timeout"] == 3.0


def test_a_setting_no_worker_can_read_is_named() -> None:
    configure(backend={"elsewhere": {"client": threading.Lock()}})
    text = why(SerializationError, snapshot)
    assert text.startswith("a setting of configure() cannot be pickled")
    with config(backend={"elsewhere": {"client": threading.Lock()}}):
        text = why(SerializationError, carried)
    assert text.startswith("a setting of config() cannot be pickled")


def test_a_parent_whose_settings_cannot_be_read_is_a_config_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unirun._context.inherited_settings", b"cnot_there\nThing\n.")
    assert "the settings of the parent process cannot be read" in why(ConfigError, load)


def test_blocks_that_cannot_be_read_where_a_call_runs_are_a_config_error() -> None:
    def resolve() -> None:
        _context.blocks.set(b"cnot_there\nThing\n.")
        load().resolve()

    text = why(ConfigError, contextvars.copy_context().run, resolve)
    assert text.startswith("the config() blocks this call was submitted in cannot be read here")
