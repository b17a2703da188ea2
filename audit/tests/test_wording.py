"""Entries in English."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from audit import wording
from audit.log import register_action
from audit.models import Entry
from audit.telling import Told, when


def entry(
    action: str = "user.renamed", *, actor: str = "admin:mia", name: str = "alice", **data: Any
) -> Entry:
    return Entry(actor=actor, action=action, target_type="auth.user", target_name=name, data=data)


def said(*args: Any, **kwargs: Any) -> str:
    return str(wording.sentence(entry(*args, **kwargs)))


def test_without_a_sentence_of_its_own_an_action_is_said_by_its_verb_and_its_noun() -> None:
    register_action("api_key.issued", "API key issued")
    assert said() == "mia renamed the user alice"
    assert said("api_key.issued", name="backend") == "mia issued the API key backend"
    assert said("long.gone_by") == "mia gone by the long alice", "the log outlives the code that wrote it"


def test_a_sentence_of_its_own_takes_data_of_the_entry() -> None:
    register_action("policy.published", "Policy published", "published {name} as version {version}")
    changes = {"requests a day": {"before": "50", "after": "60"}}
    assert (
        said("policy.published", name="Free plan", version=7, changes=changes)
        == "mia published Free plan as version 7: requests a day 50 → 60"
    )
    assert said("policy.published", name="{version} {x.y}", version="{name}", environment="prod") == (
        "mia published {version} {x.y} as version {name} in prod"
    ), "names are not templates"
    assert said("policy.published", name="Free") == "mia published Free as version"


def told(asked: Entry) -> Told:
    return Told("renamed", asked.target_name, f"to {asked.data['to']}", ("at last",))


def test_an_action_may_be_told_by_a_function_and_an_entry_of_another_shape_is_said_all_the_same() -> None:
    register_action("user.called", "User called", told)
    assert said("user.called", to="bob") == "mia renamed alice to bob: at last"
    assert said("user.called") == "mia called the user alice", "it is older than the function"


def test_why_it_was_done_ends_the_sentence_as_it_was_typed() -> None:
    assert said(reason="They asked.", seats=2) == "mia renamed the user alice: seats 2; They asked."


def test_moments_are_said_in_the_zone_of_the_page() -> None:
    at = "2026-11-27T22:59:59.123456+00:00"
    with timezone.override("Europe/Berlin"):
        assert said(ends_at=at) == "mia renamed the user alice: ends at 2026-11-27 23:59:59 CET"
        moment = datetime.fromisoformat(at)
        assert when(moment, moment) == "Fri 27 Nov 23:59 CET"
        assert when(moment, moment + timedelta(days=60)) == "Fri 27 Nov 2026 23:59 CET", "of another year"
    for odd in ("9999-99-99T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "2026-11-27T22:59 or so"):
        assert odd in said(note=odd)
        wording.facts(entry(odd=odd))


@pytest.mark.parametrize(
    ("actor", "who"),
    [
        ("admin:mia", "mia"),
        ("admin:a:b", "a:b"),
        ("cli:up", "the command up"),
        ("key:ab12", "API key ab12"),
        ("system", "the server"),
        ("nobody", "somebody"),
        ("admin:", "admin:"),
        ("somebody", "somebody"),
    ],
)
def test_who_did_it(actor: str, who: str) -> None:
    assert wording.who(actor) == who


def test_from_where() -> None:
    asked = entry()
    asked.address = "10.4.7.88"
    assert wording.where(asked) == "10.4.7.88"
    assert wording.where(entry(actor="cli:up")) == "command line"
    assert wording.where(entry(actor="system")) == "server"
    assert wording.where(entry()) == "not known", "it is older than the column"


def test_values_are_said_as_people_write_them() -> None:
    values: dict[str, Any] = {
        "plan": None,
        "blocked": True,
        "admin": False,
        "scopes": ["a", "b"],
        "expires_at": None,
        "seats": 0,
    }
    assert said(**values) == "mia renamed the user alice: blocked; scopes a, b; seats 0"
    assert wording.facts(entry(**values)) == (
        ("plan", "none"),
        ("blocked", "yes"),
        ("admin", "no"),
        ("scopes", "a, b"),
        ("expires at", "none"),
        ("seats", "0"),
    )


def test_a_sentence_has_an_end() -> None:
    changes = {f"n{number}": {"before": None, "after": "x" * 1_000} for number in range(9)}
    text = said(changes=changes)
    assert text.endswith("…; and 6 more")
    assert len(text) < 300


def test_a_difference_has_a_line_for_each_side() -> None:
    changed = entry(
        changes={"groups": {"before": ["a"], "after": []}}, diff="@@ -1 +1 @@\n name: x\n-a: 1\n+a: 2"
    )
    assert [(line.sign, line.text) for line in wording.difference(changed)] == [
        ("−", "groups: a"),
        ("+", "groups: none"),
    ]
    assert [(line.sign, line.text) for line in wording.file_difference(changed)] == [
        ("", "name: x"),
        ("−", "a: 1"),
        ("+", "a: 2"),
    ]


@pytest.mark.parametrize("changes", [None, "x", [1], {"a": 1}, {"a": {}}, {"a": {"before": {"b": [1]}}}])
def test_data_of_any_shape_is_said_somehow(changes: Any) -> None:
    odd = entry(changes=changes, diff=5, environment=7)
    assert str(wording.sentence(odd)).startswith("mia renamed the user alice")
    wording.difference(odd)
    wording.file_difference(odd)
    wording.facts(odd)
