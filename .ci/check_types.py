"""Checks what `pyright --verifytypes` says of the names that are public: each type is known.

    pyright --verifytypes unirun --ignoreexternal --outputjson | python .ci/check_types.py

Names of modules that begin with `_`, and what only backends and tests use, are for mypy.
"""

import json
import sys

import unirun
import unirun.backend

PUBLIC = {"unirun": set(unirun.__all__), "unirun.backend": set(unirun.backend.__all__)}


def is_public(name: str) -> bool:
    home, _, rest = name.partition(".backend.")
    module, rest = ("unirun.backend", rest) if rest else ("unirun", home.partition(".")[2])
    return rest.split(".")[0] in PUBLIC[module]


def main() -> int:
    symbols = json.load(sys.stdin)["typeCompleteness"]["symbols"]
    public = [each for each in symbols if each["isExported"] and is_public(each["name"])]
    unknown = [each for each in public if not each["isTypeKnown"] or each["isTypeAmbiguous"]]
    for each in unknown:
        why = [found["message"].splitlines()[0] for found in each["diagnostics"]]
        print(f"{each['name']}: {', '.join(why) or 'a part of it is not known'}")
    print(f"{len(public) - len(unknown)} of {len(public)} public names have types that are known")
    return 1 if unknown or not public else 0


if __name__ == "__main__":
    sys.exit(main())
