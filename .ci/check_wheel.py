"""Check what the wheel in dist/ holds: every source file, in its place, and nothing else."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def expected() -> set[str]:
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "unirun").rglob("*.py")}
    sources |= {
        f"unirun/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "backends").rglob("*.py")
    }
    page = {f"unirun/report/page.{kind}" for kind in ("css", "js")}
    return sources | page | {"unirun/py.typed"}


def check(wheel: Path) -> list[str]:
    """What is wrong with `wheel`, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = [archive.read(n).decode() for n in names if n.endswith("/entry_points.txt")]
    metadata = {n for n in names if n.split("/")[0].endswith(".dist-info")}
    held = names - metadata
    wrong = [f"missing: {name}" for name in sorted(expected() - held)]
    wrong += [f"does not belong there: {name}" for name in sorted(held - expected())]
    if not any(name.endswith("/LICENSE") for name in metadata):
        wrong.append("missing: LICENSE")
    for entry_point in ("unirun = unirun.cli:main", "unirun = unirun.testing.plugin"):
        if not any(entry_point in text.splitlines() for text in entry_points):
            wrong.append(f"missing: the entry point {entry_point}")
    return wrong


if __name__ == "__main__":
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    wrong = check(wheels[0]) if len(wheels) == 1 else [f"one wheel expected in dist/: {wheels}"]
    print(
        *(wrong or [f"{wheels[0].name}: holds {len(expected())} files, each in its place"]),
        sep="\n",
    )
    sys.exit(bool(wrong))
