"""Kills or stops one process of a program at each of its system calls, one after the other.

    python tests/apps/step_through.py worker.kill --every 1
    python tests/apps/step_through.py worker3.kill=20 zygote.stop=10 --seed 1
    UNIRUN_WITHOUT=cells python tests/apps/step_through.py manager.pause --every 7

The victim is "worker" (the first; "worker3": the third that is started), "spawned" or "forked" (a
worker that comes to life like that), "zygote" or "manager".
What happens to it at its k-th stop, which is before or after a system call: "kill" (SIGKILL),
"stop" (SIGSTOP, for ever), "pause" (SIGSTOP, and SIGCONT half a second later).  What is stopped
before its exec is left out: the program's thread stands still with it, as the system has it for
posix_spawn.
The program is `steps.py`; it stays the same one, and goes through a round for each moment.

First the stops of a life are counted, without harm.  Then each round has one moment: every n-th
(`--every`), or so many by chance (`=20`), or one (`--at`).  For each that goes wrong there is a
line.  Exit status: 0, or 1 if any went wrong, or 77 where the system does not allow tracing.
"""

import argparse
import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import tracing  # noqa: E402  # it lies beside this file, whoever runs it

SKIPPED = 77
ROUND_PATIENCE = 60.0  # seconds for a round; it takes a third of one
PAUSE = 0.5
NEVER = 1 << 60


class Hung(Exception):
    """A round did not come to its end."""


class Program:
    """`steps.py`, in a process of its own."""

    def __init__(self, directory: str) -> None:
        self.said = Path(directory) / "stderr"
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = os.environ | {"STEPPED_THROUGH_BY": str(os.getpid()), "PYTHONPATH": path}
        with self.said.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "import steps; steps.main()", directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )
        self._read = b""

    def tell(self, **what: Any) -> None:
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), json.dumps(what).encode() + b"\n")

    def hear(self, patience: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        fd, end = self.process.stdout.fileno(), time.monotonic() + patience
        while b"\n" not in self._read:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Hung
            data = os.read(fd, 1 << 16)
            if not data:
                raise tracing.Ended("the program ended by itself")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def words(self) -> str:
        """What it and its processes have written to stderr since this was last asked."""
        text = self.said.read_text(errors="replace")
        self.said.write_bytes(b"")
        return text

    def end(self) -> None:
        """It is asked where it is, if it hangs, and then it is over."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGUSR1)
                time.sleep(0.2)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


class Driver:
    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._stops: dict[tuple[str, int, bool], int] = {}
        self.program = Program(directory)
        self.slowest = 0.0
        self.seen: Counter[str] = Counter()  # what the moments were about
        self.late: Counter[str] = Counter()

    def stops_of(self, wish: "Wish") -> int:
        """How many stops a life of the victim has; counted once, in a round without harm."""
        life = wish.victim, wish.nth, wish.how == "kill"  # the others are not counted before exec
        if life not in self._stops:
            wrong, self._stops[life], _ = self.round(wish, NEVER)
            if wrong:
                raise SystemExit(f"{wish.word} without harm: {'; '.join(wrong)}")
        return self._stops[life]

    def round(self, wish: "Wish", moment: int) -> tuple[list[str], int, str]:
        """What went wrong when it died at that moment, its stops until then, and what it was."""
        signal.setitimer(signal.ITIMER_REAL, ROUND_PATIENCE)
        tracer = tracing.Tracer(self.program.process.pid)
        wrong: list[str] = []
        try:
            self.program.tell(victim=wish.victim, how=wish.how)
            tracer.follow(self.program.hear(ROUND_PATIENCE)["leader"])
            self.program.tell(go=True)
            number = signal.SIGKILL if wish.how == "kill" else signal.SIGSTOP
            tracer.until(moment, number, wish.nth)
            self.program.tell(pid=tracer.victim if tracer.moment else 0)
            if wish.how == "pause" and tracer.moment:
                time.sleep(PAUSE)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(tracer.victim, signal.SIGCONT)
            report = self.program.hear(ROUND_PATIENCE)
            wrong += report["wrong"]
            self._note(report, tracer.moment)
        except (Hung, tracing.Ended) as exc:
            wrong.append(f"{type(exc).__name__} {exc}")
            self.program.end()
            end_all_marked()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if words := self.program.words().strip():
            wrong.append(f"on stderr:\n{words}")
        if self.program.process.returncode is not None:
            self.program = Program(self._directory)
        return wrong, tracer.stops, tracer.moment

    def _note(self, report: dict[str, Any], moment: str) -> None:
        self.slowest = max(self.slowest, report["seconds"])
        if moment:
            self.seen[moment.partition(" ")[2]] += 1
            for what in [*report["late"], *(f"crashed {name}" for name in report["crashed"])]:
                self.late[what.partition(" took")[0]] += 1


def end_all_marked() -> None:
    """What a program that hung has started."""
    mark = f"STEPPED_THROUGH_BY={os.getpid()}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


class Wish:
    """What is to be done: parsed from a word as "worker3.kill=20"."""

    def __init__(self, word: str) -> None:
        match = re.fullmatch(
            r"(worker|spawned|forked|zygote|manager)(\d*)\.(kill|stop|pause)(?:=(\d+))?", word
        )
        if match is None:
            raise argparse.ArgumentTypeError(f"{word!r} is not like worker3.kill=20")
        self.word = word.partition("=")[0]
        self.victim, nth, self.how, count = match.groups()
        self.nth = int(nth or 1)
        self.count = int(count or 0)

    def moments(self, options: argparse.Namespace, stops: int) -> list[int]:
        if options.at:
            return [int(options.at)]
        if not self.count:
            return list(range(options.first, stops + 1, options.every))
        chance = random.Random(options.seed)  # half of them when it has come up, about
        early = chance.sample(range(1, stops + 1), self.count // 2)
        later = range(stops * 2 // 3, stops + 1)
        return early + chance.sample(later, self.count - len(early))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("wishes", type=Wish, nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at", type=int)
    parser.add_argument("--seconds", type=float, default=1e9, help="then one moment for each wish")
    options = parser.parse_args()
    if why := tracing.refused():
        say(why)
        return SKIPPED
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_terminate)
    until = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(directory)
        try:
            driver.round(options.wishes[0], NEVER)  # the first is about imports, too
            return max([try_all(driver, wish, options, until) for wish in options.wishes])
        finally:
            driver.program.end()
            end_all_marked()


def try_all(driver: Driver, wish: Wish, options: argparse.Namespace, until: float) -> int:
    began, violations, tried = time.monotonic(), 0, 0
    stops = driver.stops_of(wish)
    driver.slowest = 0.0
    driver.late.clear()
    driver.seen.clear()
    for moment in wish.moments(options, stops):
        if tried and time.monotonic() > until:
            break
        wrong, _, about = driver.round(wish, moment)
        tried += bool(about)
        violations += bool(wrong)
        for what in wrong:
            say(f"{wish.word} at {moment} ({about or 'never reached'}): {what}")
    say(f"{wish.word} late: {dict(driver.late)}; at {dict(driver.seen.most_common(12))}")
    say(
        f"{wish.word}: {tried} of {stops} moments, {violations} violations, "
        f"slowest round {driver.slowest:.2f} s, "
        f"{time.monotonic() - began:.1f} s in all"
    )
    return int(violations > 0)


def on_terminate(*_: object) -> None:
    sys.exit(1)


def on_alarm(*_: object) -> None:
    raise Hung


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
