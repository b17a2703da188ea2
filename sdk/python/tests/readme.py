"""The Python in a README, as a reader would copy it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
SDK_README = REPOSITORY / "sdk/python/README.md"
ROOT_README = REPOSITORY / "README.md"
CONTEXT_GUIDE = REPOSITORY / "docs/python-context.md"
# Whose examples need the keys and packages of other providers than the demo's.
NOT_ON_THE_DEMO = "Wrap a client"
FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`line` is where the code begins in the file."""

    file: Path
    heading: str
    line: int
    code: str


def python_blocks(file: Path) -> Iterator[Block]:
    heading, language, code = "", None, list[str]()
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        fence = FENCE.match(line)
        if language is None and line.startswith("#"):
            heading = line.lstrip("# ")
        elif language is None and fence is not None:
            language, code = fence[1], []
        elif language is not None and fence is not None:
            if language == "python":
                yield Block(
                    file=file,
                    heading=heading,
                    line=number - len(code),
                    code="\n".join(code) + "\n",
                )
            language = None
        else:
            code.append(line)


def quick_start() -> str:
    """The first thing a reader runs."""
    return next(block.code for block in python_blocks(SDK_README) if block.heading == "Quick start")


def runs_on_the_demo() -> list[Block]:
    """The quick start, and what says that it continues it."""
    blocks = [block for file in (SDK_README, CONTEXT_GUIDE) for block in python_blocks(file)]
    return [block for block in blocks if block.heading != NOT_ON_THE_DEMO]
