"""Writes what docs/ has from the code: the table of what each backend can do.

    python .ci/write_docs.py            writes it
    python .ci/write_docs.py --check    only looks whether it is there

A backend whose engine is not installed here keeps the row it has.
"""

import sys
from pathlib import Path

from unirun import BackendUnavailable, _registry
from unirun._hints import DEFAULT_ROUTES
from unirun.backend import Capability

PAGE = Path(__file__).parent.parent / "docs" / "backends.md"
BEGIN, END = "<!-- from the code: .ci/write_docs.py -->\n", "<!-- end -->\n"


def table(page: str) -> str:
    """The rows of all backends that come with unirun."""
    head = ["backend", *Capability, "kinds that go there by default"]
    rows = [head, ["---", *[":-:"] * len(Capability), "---"]]
    rows += [row(name) or kept(name, page) for name in sorted(_registry.BUILTIN)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def row(name: str) -> list[str] | None:
    try:
        can = _registry.load(name).capabilities
    except BackendUnavailable:
        return None
    kinds = sorted(kind for kind, backend in DEFAULT_ROUTES.items() if backend == name)
    marks = ["yes" if capability in can else "" for capability in Capability]
    return [f"`{name}`", *marks, ", ".join(f"`{kind}`" for kind in kinds)]


def kept(name: str, page: str) -> list[str]:
    for line in page.splitlines():
        if line.startswith(f"| `{name}` |"):
            return [cell.strip() for cell in line.strip("|").split("|")]
    raise SystemExit(f"the row of {name!r} is missing, and cannot be made: install its engine")


def written(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(page)}\n{END}{after}"


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        PAGE.write_text(written(page), encoding="utf-8")
    elif written(page) != page:
        sys.exit(f"{PAGE.name} does not say what the code does; run: python .ci/write_docs.py")
