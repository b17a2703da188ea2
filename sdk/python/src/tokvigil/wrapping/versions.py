"""The versions of other SDKs that `wrap` is tested with, and what of them it stands on: names that are private."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from typing import Any

from tokvigil.errors import ConfigurationError

logger = logging.getLogger("tokvigil")

# Major versions, by package.
WRAPPED_MAJORS: Mapping[str, tuple[int, ...]] = {
    "openai": (2, 3),
    "anthropic": (2,),
    "google-genai": (3,),
    "groq": (0,),
    "langchain-openai": (1,),
    "langchain-anthropic": (1,),
    "langchain-google-genai": (4,),
    "langchain-groq": (1,),
    "langchain-mistralai": (1,),
    "crewai": (1,),
}
# Versions that were named in the log.
_said: set[tuple[str, str]] = set()


def check(client: Any, package: str, names: Iterable[str]) -> None:
    """Whether the client has all that its wrapper uses. Names may have dots.

    Raises `ConfigurationError` if it has not: its calls would go out unseen. A major version that is newer than the
    tested ones is named in the log, once in a process.
    """
    version = str(getattr(sys.modules.get(package.replace("-", ".")), "__version__", "of an unknown version"))
    tested = WRAPPED_MAJORS[package]
    shown = " and ".join(map(str, tested))
    lacking = [name for name in names if not _has(client, name)]
    if lacking:
        raise ConfigurationError(
            f"{package} {version} lacks {', '.join(lacking)}, without which it cannot be guarded: install major version"
            f" {shown} of it, or update tokvigil, or put tv.guard(...) around its calls"
        )
    if _is_newer(version, tested) and (package, version) not in _said:
        _said.add((package, version))
        logger.warning(
            "wrap is tested with %s %s, and this is %s: test that a block stops its calls, or update tokvigil",
            package,
            shown,
            version,
        )


def _has(client: Any, name: str) -> bool:
    try:
        attrgetter(name)(client)
    except AttributeError:
        return False
    return True


def _is_newer(version: str, tested: Collection[int]) -> bool:
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) > max(tested)
