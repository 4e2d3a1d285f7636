"""Any combination of layers, against rules written down a second time and without the code.

The oracle is a list of places, highest first.  A key has the value of the first place that has it;
a route is a key of its own; what a place says for one backend it says before what it says for all.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unirun._config import Resolution, config, configure, load, reset

pytestmark = pytest.mark.usefixtures("here")

TASK = "shop.etl:Loader.run"
PATTERNS = {  # whether each is a rule for that task
    "*": True,
    "shop.*": True,
    "shop.etl:*": True,
    "*:Loader.run": True,
    "shop.etl:Loader.run": True,
    "shop.etl:Loader.ran": False,
    "etl:*": False,
    "shop.web:*": False,
}
DEFAULTS: dict[str, Any] = {
    "timeout": None,
    "retries": 0,
    "name": None,
    "kind": "auto",
    "backend": None,
    "grace": 3.0,
    "max_workers": None,
    "routes.cpu": "process",
    "routes.io": "thread",
    "process.grace": 3.0,
    "process.max_workers": None,
    "other.grace": 3.0,
    "other.max_workers": None,
    "other.colour": None,
}

# Every value is another one, so that none can be right by chance.
NUMBERS = st.integers(1, 10**6)
NAMES = NUMBERS.map(lambda n: f"b{n}")
KINDS = st.sampled_from(["cpu", "io", "native", "isolated"])
OF_A_CALL: dict[str, Any] = {
    "timeout": NUMBERS,
    "retries": NUMBERS,
    "name": NAMES,
    "kind": KINDS,
    "backend": NAMES,
    "routes": st.dictionaries(st.sampled_from(["cpu", "io"]), NAMES),
}
OF_A_POOL: dict[str, Any] = {"grace": NUMBERS, "max_workers": NUMBERS}
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "process": st.fixed_dictionaries({}, optional=OF_A_POOL),
        "other": st.fixed_dictionaries({}, optional={**OF_A_POOL, "colour": NAMES}),
    },
)


class Place(NamedTuple):
    """What somebody says somewhere; `tables` are for single backends."""

    keys: Mapping[str, Any] = MappingProxyType({})
    tables: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def get(self, key: str) -> Any:
        """What it says for a key of the oracle, or None."""
        table, _, name = key.rpartition(".")
        if table == "routes":
            return self.keys.get("routes", {}).get(name)
        if table:
            return self.tables.get(table, {}).get(name, self.keys.get(name))
        return self.keys.get(name)

    def code(self) -> dict[str, Any]:
        """As keywords: a backend for all and tables cannot be said in one breath."""
        return {**self.keys, **({"backend": self.tables} if self.tables else {})}

    def toml(self, header: str) -> list[str]:
        lines = [f"[{header}]"] if header else []
        lines += [f"{key} = {_toml(value)}" for key, value in self.keys.items()]
        for name, table in self.tables.items():
            lines.append(f"[{f'{header}.' if header else ''}backend.{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
        return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def _of_calls() -> Any:
    return st.fixed_dictionaries({}, optional=OF_A_CALL).map(Place)


def _of_all() -> Any:
    keys = st.fixed_dictionaries({}, optional={**OF_A_CALL, **OF_A_POOL})
    others = keys.map(lambda said: {key: said[key] for key in said if key != "backend"})
    return st.one_of(keys.map(Place), st.builds(Place, others, TABLES))


RULES = st.dictionaries(st.sampled_from(sorted(PATTERNS)), _of_calls(), max_size=4)


class World(NamedTuple):
    """Everything that is said, everywhere."""

    forced: str | None
    call: Place
    executor: Place
    blocks: list[Place]  # outermost first
    decorator: Place
    configured: list[Place]  # in the order of the calls
    environment: Place
    profile: Place
    profile_rules: dict[str, Place]
    file: Place
    file_rules: dict[str, Place]
    with_profile: bool

    def places(self) -> list[Place]:
        """Highest first."""
        executor = {key: value for key, value in self.executor.keys.items() if key != "kind"}
        hint = {key: value for key, value in self.executor.keys.items() if key == "kind"}
        return [
            *([Place({"backend": self.forced})] if self.forced else []),
            self.call,
            Place(executor),
            *self.blocks[::-1],
            *self.rules(),
            self.decorator,
            Place(hint),
            _added_up(self.configured),
            self.environment,
            *([self.profile] if self.with_profile else []),
            self.file,
        ]

    def rules(self) -> list[Place]:
        """The longest pattern first; of two that are the same, that of the profile."""
        found = []
        for pattern in sorted(PATTERNS, key=len, reverse=True):
            if PATTERNS[pattern]:
                found += [self.profile_rules.get(pattern)] if self.with_profile else []
                found.append(self.file_rules.get(pattern))
        return [rule for rule in found if rule is not None]

    def answer(self, key: str) -> Any:
        for place in self.places():
            value = place.get(key)
            if value is not None:
                return value
        return DEFAULTS[key]


def _added_up(calls: list[Place]) -> Place:
    """`configure()` is one place, however often it was called."""
    keys: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for call in calls:
        routes = {**keys.get("routes", {}), **call.keys.get("routes", {})}
        keys |= call.keys
        if routes:
            keys["routes"] = routes
        for name, table in call.tables.items():
            tables[name] = {**tables.get(name, {}), **table}
    return Place(keys, tables)


def resolve(world: World) -> Resolution:
    """What the code makes of it."""
    lines = world.file.toml("")
    for pattern, rule in world.file_rules.items():
        lines += rule.toml(f'task."{pattern}"')
    lines += world.profile.toml("profile.p")
    for pattern, rule in world.profile_rules.items():
        lines += rule.toml(f'profile.p.task."{pattern}"')
    variables = {f"UNIRUN_{key.upper()}": _text(v) for key, v in world.environment.keys.items()}
    variables |= {"UNIRUN_BACKEND": world.forced} if world.forced else {}
    variables |= {"UNIRUN_PROFILE": "p"} if world.with_profile else {}
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "some.toml"
        file.write_text("\n".join(lines))
        stack.enter_context(patch.dict(os.environ, {**variables, "UNIRUN_CONFIG": str(file)}))
        reset()
        for call in world.configured:
            configure(**call.code())
        for block in world.blocks:
            stack.enter_context(config(**block.code()))
        return load().resolve(
            call=world.call.keys,
            executor=world.executor.keys,
            decorator=world.decorator.keys,
            task=TASK,
        )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def found(resolution: Resolution, key: str) -> Any:
    table, _, name = key.rpartition(".")
    if table == "routes":
        return resolution["routes"][name]
    if table:
        return resolution.backend_options(table).get(name)
    return resolution[name]


WORLDS = st.builds(
    World,
    forced=st.none() | NAMES,
    call=_of_calls(),
    executor=st.fixed_dictionaries({}, optional={**OF_A_CALL, **OF_A_POOL}).map(Place),
    blocks=st.lists(_of_all(), max_size=2),
    decorator=_of_calls(),
    configured=st.lists(_of_all(), max_size=2),
    environment=st.fixed_dictionaries(
        {}, optional={k: v for k, v in {**OF_A_CALL, **OF_A_POOL}.items() if k != "backend"}
    ).map(lambda said: Place({key: value for key, value in said.items() if value != {}})),
    profile=_of_all(),
    profile_rules=RULES,
    file=_of_all(),
    file_rules=RULES,
    with_profile=st.booleans(),
)


@given(WORLDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_key_has_the_value_of_the_highest_place_that_has_it(world: World) -> None:
    resolution = resolve(world)
    wanted = {key: world.answer(key) for key in DEFAULTS}
    assert {key: found(resolution, key) for key in DEFAULTS} == wanted


@given(WORLDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_source_of_each_value_is_a_place_that_says_so(world: World) -> None:
    resolution = resolve(world)
    says = {
        "UNIRUN_BACKEND": [Place({"backend": world.forced})],
        "options()": [world.call],
        "Executor()": [world.executor],
        "with config()": world.blocks,
        "@task": [world.decorator],
        "configure()": [_added_up(world.configured)],
        "UNIRUN_": [world.environment],
        "some.toml [profile.p.task.": list(world.profile_rules.values()),
        "some.toml [profile.p": [world.profile],
        "some.toml [task.": list(world.file_rules.values()),
        "some.toml": [world.file],
    }
    for key, value, source in resolution.explain():
        name = key.removeprefix("backend.")
        if name not in DEFAULTS:
            continue
        places = next((says[label] for label in says if source.startswith(label)), None)
        if places is None:
            assert source == "default"
            assert value == DEFAULTS[name]
        else:
            assert value in [place.get(name) for place in places]
