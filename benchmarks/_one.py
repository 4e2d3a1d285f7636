"""Measures one contender at one workload, once: `python -m benchmarks._one FILE` for the runner.

FILE holds what is wanted as JSON, and afterwards what was found. A process for each measurement:
none inherits the warm caches, the grown heap or the threads of another.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(file: Path) -> None:
    from benchmarks import _adapters, _all  # not by workers that run this module for its names
    from benchmarks._peers import Absent

    wanted = json.loads(file.read_text())
    workload = _all.BY_NAME[wanted["workload"]]
    found: dict[str, Any]
    try:
        found = {"figures": workload.measure(wanted["contender"], wanted["sizes"])}
    except Absent as exc:
        found = {"absent": str(exc)}
    file.write_text(json.dumps(found))
    if _adapters.abandoned:
        os._exit(0)  # a pool that a crash has broken may never end


if __name__ == "__main__":
    main(Path(sys.argv[1]))
