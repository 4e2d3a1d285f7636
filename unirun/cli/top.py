"""`unirun top [PID]`: a live view of a running program."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from typing import Any

from unirun._terminal import clean, cut, size_of
from unirun.cli.programs import Ended, Processes, Silent, ask, is_stopped, the_one
from unirun.cli.status import FINE, SOME_FAILED, STATUSES, WrongUse
from unirun.cli.top_view import SORTS, Row, View, memory, pids_of, rows_of, text_of

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Watch a running program: its executors and workers, what each of them runs, since when,
how far it is, what it waits for, CPU and memory; and kill a call. The program must allow
it: start it with UNIRUN_MONITOR=1, or with the setting monitor = true, or have it call
unirun.enable_monitor(). Only the user of the program can watch it.

Without PID the only program there is; if there are several, they are listed.

  q       quit                      up, down   select a call
  k       kill the selected call    s          sort by {", ".join(SORTS)}
  p       pause                     d          stacks, as 'unirun dump' shows them
  ?       help

{STATUSES}"""

HELP = [line.strip() for line in DESCRIPTION.split("\n\n")[2].splitlines()]
AT_LEAST = 0.1
FIRST_LOOK = 0.2
"""Seconds between the two looks at processes that one figure of their CPU time needs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=int, nargs="?", metavar="PID", help="of the program")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between looks (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="look once, and print what there is")
    parser.add_argument("--json", action="store_true", help="with --once: as JSON, for programs")
    parser.add_argument("--sort", choices=SORTS, default=SORTS[0], help="what stands first")


def run(options: argparse.Namespace) -> int:
    if sys.platform != "linux":
        raise WrongUse("a running program can be watched on Linux only")
    if options.json and not options.once:
        raise WrongUse("--json is for one look; use it with --once")
    if not options.interval >= AT_LEAST:
        raise WrongUse(f"--interval: {options.interval:g} is too short; {AT_LEAST} is the least")
    pid = the_one(options.pid)
    return _once(pid, options) if options.once else _Top(pid, options).run()


def _once(pid: int, options: argparse.Namespace) -> int:
    processes = Processes()
    try:
        snapshot = ask(pid, "snapshot")
    except Silent:
        raise WrongUse(_silence(pid)) from None
    except Ended:
        raise WrongUse(f"process {pid} has ended") from None
    processes.look(pids_of(snapshot))
    time.sleep(FIRST_LOOK)
    figures = processes.look(pids_of(snapshot))
    if options.json:
        told = {str(n): {"cpu_percent": cpu, "rss": rss} for n, (cpu, rss) in figures.items()}
        print(json.dumps({**snapshot, "processes": told}, indent=2))
        return FINE
    columns = size_of(sys.stdout)[0] if sys.stdout.isatty() else 1 << 10
    print(cut(_title(snapshot, figures), columns))
    print(text_of(Row(("WORKER", "CPU %", "MEMORY", "AGE", "PROGRESS", "TASK")), columns))
    for row in rows_of(snapshot, figures, options.sort):
        print(text_of(row, columns).rstrip())
    return FINE


def _silence(pid: int) -> str:
    why = "it is stopped" if is_stopped(pid) else "it is very busy, or C code holds the GIL"
    return f"process {pid} does not answer; {why}"


def _title(snapshot: dict[str, Any], figures: dict[int, tuple[float, int]]) -> str:
    cpu, rss = figures.get(snapshot["pid"], (0.0, 0))
    whole = sum(size for _, size in figures.values())
    return clean(
        f"process {snapshot['pid']}: {cpu:.0f} % CPU, {memory(rss)} ({memory(whole)} with its "
        f"workers), Python {snapshot['python']}: {snapshot['program']}"
    )


class _Top:
    """What is shown at the moment, and what the keys do to it."""

    def __init__(self, pid: int, options: argparse.Namespace) -> None:
        self._pid = pid
        self._interval: float = options.interval
        self._view = View()
        self._view.sort = options.sort
        self._processes = Processes()
        self._snapshot: dict[str, Any] | None = None
        self._figures: dict[int, tuple[float, int]] = {}
        self._rows: list[Row] = []
        self._is_paused = self._has_ended = False
        self._note = ""  # about the program, until it is not true any more
        self._said = ""  # about what a key has done, until the next one
        self._asked: Row | None = None  # whether to kill that
        self._page: list[str] | None = None  # instead of the rows, from _at on
        self._at = 0

    def run(self) -> int:
        from unirun.cli.top_screen import Screen

        with Screen() as screen:
            due = 0.0
            while True:
                if time.monotonic() >= due:
                    due = time.monotonic() + self._interval
                    if not (self._is_paused or self._has_ended):
                        self._look()
                screen.draw(self._lines(*screen.size()))
                try:
                    key = screen.key(due - time.monotonic())
                except EOFError:  # the terminal is gone
                    return SOME_FAILED
                if key is not None and not self._do(key, screen.size()[1]):
                    return FINE

    def _look(self) -> None:
        try:
            self._snapshot = ask(self._pid, "snapshot")
            self._note = ""
        except Silent:
            self._note = _silence(self._pid)
        except Ended:
            self._has_ended, self._note = True, f"process {self._pid} has ended; q quits"
        except WrongUse as exc:
            self._note = str(exc)
        if self._snapshot is not None and not self._has_ended:
            self._figures = self._processes.look(pids_of(self._snapshot))
            self._sort()

    def _sort(self) -> None:
        if self._snapshot is not None:
            self._rows = list(rows_of(self._snapshot, self._figures, self._view.sort))

    # -- what is to be seen -----------------------------------------------------------------------

    def _lines(self, columns: int, height: int) -> list[tuple[str, str]]:
        title = f"process {self._pid}"
        if self._snapshot is not None:
            title = _title(self._snapshot, self._figures)
        lines = [(cut(title, columns), "bold")]
        foot = [cut(self._foot(), columns)]
        if columns >= 40:
            foot = textwrap.wrap(self._foot(), columns, max_lines=3)
        room = max(0, height - 1 - len(foot))
        if self._page is not None:
            self._at = max(0, min(self._at, len(self._page) - room))
            page = self._page[self._at : self._at + room]
            lines += [(cut(clean(line), columns), "") for line in page]
        else:
            lines += list(self._view.lines(self._rows, columns, room))[:room]
        lines += [("", "")] * (height - len(foot) - len(lines))
        return [*lines[: max(0, height - len(foot))], *((line, "reverse") for line in foot)]

    def _foot(self) -> str:
        if self._asked is not None:
            return clean(f"kill {self._asked.cells[-1]}? y/n")
        if self._note or self._said:
            return clean("; ".join(filter(None, (self._note, self._said))))
        paused = "paused, p goes on; " if self._is_paused else ""
        if self._page is not None:
            return "q goes back"
        keys = "q quit, arrows, k kill, s sort, p pause, d dump, ? help"
        return f"{paused}sorted by {self._view.sort}; {keys}"

    # -- keys -------------------------------------------------------------------------------------

    def _do(self, key: str, height: int) -> bool:
        """False: that was the last."""
        if self._asked is not None:
            row, self._asked = self._asked, None
            self._said = self._kill(row) if key in "yY" else "nothing was killed"
            return True
        self._said = ""
        if self._page is not None:
            return self._turn(key, height)
        steps = {"up": -1, "down": 1, "page up": 2 - height, "page down": height - 2}
        steps |= {"home": -(1 << 30), "end": 1 << 30}
        if key in steps:
            self._view.choose(self._rows, steps[key])
        elif key == "s":
            self._view.sort = SORTS[(SORTS.index(self._view.sort) + 1) % len(SORTS)]
            self._sort()
        elif key == "p":
            self._is_paused = not self._is_paused
        elif key == "k":
            self._ask_to_kill()
        elif key == "d":
            self._page, self._at = self._dump(), 0
        elif key == "?":
            self._page, self._at = HELP, 0
        return key not in ("q", "Q")

    def _turn(self, key: str, height: int) -> bool:
        steps = {"up": -1, "down": 1, "page up": 2 - height, "page down": height - 2}
        if key in steps:
            self._at += steps[key]
        elif key in ("home", "end"):
            self._at = 0 if key == "home" else 1 << 30
        elif key in ("q", "Q", "escape", "?", "d"):
            self._page = None
        return True

    def _ask_to_kill(self) -> None:
        row = self._view.chosen(self._rows)
        if row is None or row.call is None:
            self._said = "no call is selected; select one with the arrows"
        else:
            self._asked = row

    def _kill(self, row: Row) -> str:
        try:
            return f"{row.cells[-1]}: {ask(self._pid, 'kill', call=row.call)['text']}"
        except (Silent, Ended, WrongUse) as exc:
            return str(exc) or _silence(self._pid)

    def _dump(self) -> list[str]:
        try:
            return str(ask(self._pid, "dump")["text"]).splitlines()
        except (Silent, Ended, WrongUse) as exc:
            return [str(exc) or _silence(self._pid)]
