#!/usr/bin/env python3
"""Pins the frameworks that the tests of `wrap` run with, in sdk/python/tests/frameworks/*.lock. Needs uv.

Each lock holds what its layer needs and what the layers under it do not have in the same version, so that a package is
installed once. The lowest layer is requirements-dev.lock.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "sdk/python/tests/frameworks"
LAYERS = ("current", "openai-2", "crewai")
COMPILE = "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header"

Pins = dict[str, str]


def main() -> None:
    below = pins(REPOSITORY / "requirements-dev.lock")
    for layer in LAYERS:
        wanted = FOLDER / f"{layer}.in"
        left_out = set(re.findall(r"[\w.-]+", " ".join(re.findall("# without: (.*)", wanted.read_text()))))
        own = {
            name: pin
            for name, pin in resolved(wanted, below).items()
            if name not in left_out and below.get(name) != pin
        }
        (FOLDER / f"{layer}.lock").write_text("".join(own.values()))
        below |= own


def resolved(wanted: Path, below: Pins) -> Pins:
    """All that a layer needs, in the versions of the layers under it where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "resolved.txt"
        output.write_text("".join(below.values()))
        subprocess.run([*COMPILE.split(), "--no-annotate", str(wanted), "-o", str(output)], check=True)
        return pins(output)


def pins(lock: Path) -> Pins:
    """The lines of each package in a lock, by its name."""
    found: Pins = {}
    for pin in re.findall(r"^\S+==.*\n(?: .*\n)*", lock.read_text(), re.MULTILINE):
        name = re.split(r"[\[=]", pin)[0]
        # A package with other versions for other Pythons has several pins.
        found[name] = found.get(name, "") + pin
    return found


if __name__ == "__main__":
    main()
