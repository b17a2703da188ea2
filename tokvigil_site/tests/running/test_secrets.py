"""What `manage.py` does without one of its secrets, with one from a file, and with one that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from tokvigil_site import environment
from tokvigil_site.tests.running.commands import Command

SECRETS = {"SECRET_KEY": "s" * 50, "API_KEY_PEPPER": "1:pepper", "AUDIT_KEY": "1:key"}


def checked(home: Path, **variables: str) -> Command:
    command = Command(home, "check", **variables)
    command.finish()
    return command


@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_stops_the_start(new_home: Callable[[], Path], missing: str) -> None:
    command = checked(new_home(), **{name: value for name, value in SECRETS.items() if name != missing})
    assert command.process.returncode == 1
    assert f"{missing} is not set. Set {missing} or {missing}_FILE" in command.output


def test_secrets_come_from_files_too(new_home: Callable[[], Path], tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("2:new,1:old\n")
    given = SECRETS | {"AUDIT_KEY_FILE": str(file)}
    del given["AUDIT_KEY"]
    command = checked(new_home(), **given)
    assert command.process.returncode == 0, command.output


def test_with_debug_a_dummy_will_do(new_home: Callable[[], Path]) -> None:
    command = checked(new_home(), DEBUG="true")
    assert command.process.returncode == 0, command.output


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("alone", {"1": "alone"}),
        ("1:one", {"1": "one"}),
        ("2:new,1:old", {"2": "new", "1": "old"}),
        ("k:with:colons", {"k": "with:colons"}),
    ],
)
def test_keys_are_pairs_with_the_current_one_first(text: str, keys: dict[str, str]) -> None:
    found = environment.keyed_secrets("AUDIT_KEY", text)
    assert list(found.items()) == list(keys.items())


@pytest.mark.parametrize(
    "text", ["", "1:", "2:new,", ":value", "1:one,1:two", "one,two", f"{'k' * 17}:value"]
)
def test_keys_that_are_no_pairs_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="AUDIT_KEY must be `id:value` pairs") as error:
        environment.keyed_secrets("AUDIT_KEY", text)
    assert "two" not in str(error.value)
