"""The table of reasons is the server's, and that of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from tokvigil import reasons

from policies.reasons import ALL_CODES, CLASSES, ReasonClass

OPENAPI = Path(__file__).resolve().parents[3] / "openapi.yaml"


def test_each_reason_of_the_server_has_the_class_that_the_server_gives_it() -> None:
    theirs = {str(code): str(CLASSES.get(code, ReasonClass.EXHAUSTED)) for code in ALL_CODES}
    assert theirs == reasons.CLASSES


def test_the_literals_are_those_of_the_contract() -> None:
    properties = yaml.safe_load(OPENAPI.read_text())["components"]["schemas"]["EvaluateAnswer"]["properties"]
    assert set(properties["reason_code"]["enum"]) == set(get_args(reasons.ReasonCode))
    assert set(properties["reason_class"]["enum"]) == set(get_args(reasons.ReasonClass))


@pytest.mark.parametrize("code", ["A_CODE_OF_TOMORROW", ""])
def test_a_reason_of_a_newer_server_is_no_reason_to_wait(code: str) -> None:
    assert reasons.class_of(code) == "forbidden"
    assert "forbidden" not in reasons.PASSING_CLASSES
