"""The pure machines with one bug each: one place of their source is changed."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from unirun.backends.process import state as state_module
from unirun.coordinator import Coordinator
from unirun.testing._coordinator_world import KINDS

COORDINATOR = ("coordinator", "_hosted_barriers", "_hosted_locks", "_hosted_queues")


def pool_with(old: str, new: str) -> Callable[[int], Any]:
    """The pool's machine with a bug: `old`, which must be there once, is `new`."""
    folder = Path(state_module.__file__).parent
    sources = {name: (folder / f"{name}.py").read_text() for name in ("waiting", "state")}
    assert sum(text.count(old) for text in sources.values()) == 1, "it does not fit the source"
    module = ModuleType("")
    for name, text in sources.items():
        module = ModuleType(f"{state_module.__package__}.mutated_{name}")
        module.__package__ = state_module.__package__
        sys.modules[module.__name__] = module  # where the other one finds it
        source = text.replace(old, new).replace("from .waiting", "from .mutated_waiting")
        exec(compile(source, module.__name__, "exec"), module.__dict__)
    for name in sources:
        del sys.modules[f"{state_module.__package__}.mutated_{name}"]
    make: Callable[[int], Any] = module.__dict__["PoolState"]
    return make


def coordinator_with(old: str, new: str) -> Callable[..., Coordinator]:
    """The same for the coordinator and its objects; it is made as the class is, kinds aside."""
    make, kinds, places = Coordinator, dict(KINDS), 0
    for name in COORDINATOR:
        text = Path(importlib.import_module(f"unirun.{name}").__file__ or "").read_text()
        places += text.count(old)
        if old in text:
            module = ModuleType(f"mutated.{name}")
            exec(compile(text.replace(old, new), module.__name__, "exec"), module.__dict__)
            made = module.__dict__
            make = made.get("Coordinator") or make if name == "coordinator" else make
            for each in ("BARRIERS", "LOCKS", "QUEUES"):
                if name != "coordinator" and each in made:
                    kinds.update(made[each])
    assert places == 1, "it does not fit the source"
    return lambda _, first_id=1: make(kinds, first_id)
