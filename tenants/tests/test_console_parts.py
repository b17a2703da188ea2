"""States and bars of the console."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.template import Context, Template

from tenants.console.parts import Bar, State


@pytest.mark.parametrize(
    ("bar", "percent", "state"),
    [
        (Bar(used=0, held=0, limit=50), 0, State.FINE),
        (Bar(used=39, held=0, limit=50), 78, State.FINE),
        (Bar(used=39, held=1, limit=50), 80, State.NEAR),
        (Bar(used=996, held=3, limit=1000), 99, State.NEAR),
        (Bar(used=50, held=0, limit=50), 100, State.FULL),
        (Bar(used=60, held=0, limit=50), 120, State.FULL),
        (Bar(used=60, held=0, limit=50, watched=True), 120, State.OVER),
        (Bar(used=0, held=0, limit=0), 100, State.FULL),
    ],
)
def test_a_bar_is_near_from_80_percent_and_full_only_when_nothing_is_left(
    bar: Bar, percent: int, state: State
) -> None:
    assert (bar.percent, bar.state) == (percent, state)


def test_a_bar_never_leaves_its_frame() -> None:
    bar = Bar(used=45, held=30, limit=50, standing=40)
    assert (bar.used_width, bar.held_width, bar.standing_place) == ("90.00", "10.00", "80.00")
    assert Bar(used=500, held=1, limit=50).used_width == "100.00"
    assert Bar(used=500, held=1, limit=50).held_width == "0.00"


def render(text: str, **values: object) -> str:
    return Template("{% load console %}" + text).render(Context(values))


def test_every_state_has_a_shape_and_a_word() -> None:
    for state in State:
        shown = render("{% state kind word %}", kind=state, word="<b>")
        assert "<svg" in shown
        assert "&lt;b&gt;" in shown


def test_a_bar_says_in_words_what_it_shows() -> None:
    shown = render("{% limit_bar bar says %}", bar=Bar(used=1, held=2, limit=4), says='1 "used"')
    assert 'aria-label="1 &quot;used&quot;"' in shown
    assert "width:25.00%" in shown
    assert "width:50.00%" in shown


def test_a_time_has_its_iso_form_on_hover() -> None:
    assert 'title="2026-11-27T10:00:00+00:00"' in render(
        "{{ at|moment }}", at=datetime(2026, 11, 27, 10, tzinfo=UTC)
    )
