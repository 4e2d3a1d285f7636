"""The options that say where and how calls run; the same for every command that has calls."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unirun._errors import UnirunError
from unirun._settings import KEYS, parse
from unirun.cli.status import WrongUse

__all__ = ["add_arguments", "call_options", "misuse", "plain", "setting"]

_CALL_KEYS = ("kind", "backend", "timeout", "retries")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = "auto, cpu, io, native, async or isolated"
    parser.add_argument("--kind", help=f"what the function spends its time on: {kinds}")
    parser.add_argument(
        "--backend", metavar="NAME", help="where calls run, whatever their kind; see 'unirun info'"
    )
    parser.add_argument(
        "--timeout", metavar="TIME", help="how long a call may run, such as 30, 500ms or 2m"
    )
    parser.add_argument("--retries", metavar="N", help="how often a call that failed is run again")


def call_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, checked."""
    return {key: setting(key, options) for key in _CALL_KEYS if getattr(options, key) is not None}


def setting(key: str, options: argparse.Namespace, flag: str | None = None) -> Any:
    """The value of one option in the normal form of the setting `key`; `flag` if it differs."""
    name = flag or key
    with misuse():
        return parse(KEYS[key], getattr(options, name), f"--{name}")


def plain(value: Any) -> Any:
    """For settings that JSON has no form for: a set as a sorted list, a Retry as it is written."""
    return sorted(value) if isinstance(value, frozenset) else repr(value)


@contextmanager
def misuse() -> Iterator[None]:
    """What unirun refuses in here is wrong use of the command line."""
    try:
        yield
    except UnirunError as exc:
        raise WrongUse(str(exc)) from exc
