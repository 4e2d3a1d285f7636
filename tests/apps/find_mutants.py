"""Which planted bugs the simulator notices by itself, and at which seed.

python tests/apps/find_mutants.py [SEEDS]       # 400 seeds for each bug unless said otherwise
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import coordinator_mutations
from mutants import coordinator_with, pool_with
from process import state_mutations

from unirun.testing import Simulator
from unirun.testing.invariants import Broken


def first_seed(seeds: int, **machine: Callable[..., object]) -> int | None:
    for seed in range(seeds):
        try:
            Simulator(seed, **machine).run()
        except Broken:
            return seed
    return None


def main(seeds: int) -> None:
    begun = time.monotonic()
    pools = {name: how for some in state_mutations.MUTATIONS.values() for name, how in some.items()}
    found = {
        f"pool: {name}": first_seed(seeds, pool=pool_with(*how)) for name, how in pools.items()
    }
    for name, how in coordinator_mutations.MUTATIONS.items():
        found[f"coordinator: {name}"] = first_seed(seeds, coordinator=coordinator_with(*how))
    for name, seed in found.items():
        print(f"{'--' if seed is None else seed:>5} {name}")
    noticed = [seed for seed in found.values() if seed is not None]
    print(
        f"{len(noticed)} of {len(found)} bugs noticed with {seeds} seeds each, "
        f"in {time.monotonic() - begun:.0f} s"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
