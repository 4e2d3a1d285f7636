"""Finds the words by which the packages of the standard library can be told apart.

    files ──read (io)──> texts ──count (cpu)───> words of each file ──> report
                          │  │      └─ long words: a shared Queue ──gather (async)──> report
                          │  └─pack (native)───> size and digest of each file ─────> report
                          └─ characters read: a shared Value

Nothing in here says where a call runs, and the report is the same wherever that is:

    UNIRUN_BACKEND=inline python examples/keywords.py
    UNIRUN_ROUTES=cpu=process,native=process python examples/keywords.py json http xml
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import repeat
from math import log
from pathlib import Path
from typing import Any

import unirun

PACKAGES = ("asyncio", "email", "http", "importlib", "json", "logging", "unittest", "xml")
WORD = re.compile(r"[a-z]{4,}")
LONG = 18
"""Letters from which on a word is worth a mention."""


@unirun.task(kind="io")
def read(file: Path, characters: Any) -> str:
    """The text of a file."""
    text = file.read_text(encoding="utf-8")
    characters.update(lambda so_far: so_far + len(text))
    return text


@unirun.task(kind="cpu")
def count(file: Path, text: str, long_words: Any) -> Counter[str]:
    """How often each word is in the text; long ones are told as they are found."""
    words = Counter(WORD.findall(text.lower()))
    long_words.put_many((word, file.name) for word in sorted(words) if len(word) >= LONG)
    return words


@unirun.task(kind="native")
def pack(text: str) -> tuple[int, str]:
    """The size of the text when compressed, in bytes, and its digest."""
    content = text.encode()
    return len(zlib.compress(content, 9)), hashlib.sha256(content).hexdigest()


@unirun.task
async def gather(long_words: Any) -> dict[str, list[str]]:
    """What is in the queue: each word, with the files it was found in."""
    found: dict[str, list[str]] = {}
    while True:
        word, file = await long_words.aget()
        if not word:
            return {word: sorted(files) for word, files in found.items()}
        found.setdefault(word, []).append(file)


def keywords(words: dict[str, Counter[str]], package: str) -> list[str]:
    """The words that are frequent in one package and rare in the others."""
    everything = sum(words[package].values())

    def weight(word: str) -> float:
        known_to = sum(word in others for others in words.values())
        return words[package][word] / everything * log(len(words) / known_to)

    return sorted(words[package], key=lambda word: (-weight(word), word))[:6]


def main(packages: Sequence[str] = PACKAGES) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    found = [file for package in packages for file in sorted(library.glob(f"{package}/**/*.py"))]
    files = [file for file in found if "test" not in file.parts]
    words: dict[str, Counter[str]] = {package: Counter() for package in packages}
    packed = dict.fromkeys(packages, 0)
    seal = hashlib.sha256()

    with unirun.Executor():
        long_words, characters = unirun.Queue(), unirun.Value(0)
        texts = list(read.map(files, repeat(characters)))
        counted = count.map(files, texts, repeat(long_words))
        for file, of_file, (size, digest) in zip(files, counted, pack.map(texts), strict=True):
            package = file.relative_to(library).parts[0]
            words[package] += of_file
            packed[package] += size
            seal.update(digest.encode())
        long_words.put(("", ""))  # the last one
        long, total = gather.submit(long_words).result(), characters.value

    for package in packages:
        print(f"{package:10} {packed[package]:8,} bytes  {' '.join(keywords(words, package))}")
    print(f"{len(files)} files, {total:,} characters, {len(long)} long words, such as")
    for word in sorted(long, key=lambda word: (-len(word), word))[:3]:
        print(f"  {word} in {', '.join(long[word])}")
    print(f"seal {seal.hexdigest()[:16]}")


if __name__ == "__main__":
    main(sys.argv[1:] or PACKAGES)
