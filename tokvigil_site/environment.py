"""Reads settings from environment variables; `NAME_FILE` names a file that holds the value of `NAME`."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

# As long as the columns that hold it.
KEY_ID_LENGTH_MAX = 16


def read(name: str, default: str = "") -> str:
    """The value of `name`, or what the file named by `name_FILE` holds, or `default`."""
    if name in os.environ:
        return os.environ[name]
    path = os.environ.get(f"{name}_FILE")
    if path is None:
        return default
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(
            f"{name}_FILE names {path}, which cannot be read: {error.strerror}."
        ) from error


def whole(name: str, *, default: int, least: int) -> int:
    """A whole number. Raises ImproperlyConfigured for anything else, and for less than `least`."""
    text = read(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ImproperlyConfigured(f"{name} is {text!r}; it must be a whole number of at least {least}.")
    return int(text)


def secret(name: str, *, home: Path, debug: bool) -> str:
    """A secret: from the environment, else the one `manage.py up` made in the home, else only with DEBUG a dummy."""
    value = read(name)
    if value:
        return value
    made_by_up = home / "secrets" / name.lower()
    if made_by_up.is_file():
        return made_by_up.read_text().strip()
    if debug:
        return f"insecure-{name.lower()}-for-debug-only"
    raise ImproperlyConfigured(
        f"{name} is not set. Set {name} or {name}_FILE (a long random string), or start with `manage.py up`, "
        "which makes one; DEBUG=true uses a dummy."
    )


def keyed_secrets(name: str, text: str) -> dict[str, str]:
    """`2:new,1:old` by id, the first one being the current; a value without an id has the id 1.

    Raises ImproperlyConfigured, naming the variable but no secret, for an id that is missing, too long or used twice,
    and for a missing value.
    """
    pairs: dict[str, str] = {}
    for pair in text.split(","):
        before, colon, after = pair.partition(":")
        key, value = (before, after) if colon else ("1", before)
        if not (value and 1 <= len(key) <= KEY_ID_LENGTH_MAX and key not in pairs):
            raise ImproperlyConfigured(
                f"{name} must be `id:value` pairs separated by commas, the current one first: each with a value and "
                f"an id of its own of at most {KEY_ID_LENGTH_MAX} characters."
            )
        pairs[key] = value
    return pairs
