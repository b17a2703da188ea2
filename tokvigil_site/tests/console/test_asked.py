"""Period and filters that pages of usage share through their addresses."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest
from django.template.loader import render_to_string
from django.test import RequestFactory

from tenants.models import Environment
from tokvigil_site.tests.test_usage_summary import use
from usage.admin.asked import Asked

NOW = datetime(2026, 11, 26, 13, 32, tzinfo=UTC)


def asked(environment: Environment, **parameters: object) -> Asked:
    request = RequestFactory().get("/admin/?" + urlencode(parameters, doseq=True))
    request.user = User(is_superuser=True, is_active=True)
    return Asked(request, environment, NOW)


def shown(form: Asked) -> str:
    return render_to_string("console/parts/asked.html", {"asked": form})


def test_an_address_without_a_period_asks_for_the_last_seven_days(environment: Environment) -> None:
    found = asked(environment)
    assert found.shown is not None
    assert str(found.shown.days.first) == "2026-11-20"
    assert found.query == "period=7d"
    assert '<option value="7d" selected>' in shown(found)


def test_filters_name_columns_and_what_a_call_has_none_of(environment: Environment) -> None:
    found = asked(environment, user=" ana", model="gpt", without=["feature", "run"])
    assert found.shown is not None
    assert found.filters == {"user_id": " ana", "model": "gpt", "feature": "", "run_id": ""}


def test_what_was_used_in_the_period_is_offered_and_what_is_asked_for_too(environment: Environment) -> None:
    use(environment, NOW, feature="chat")
    use(environment, datetime(2026, 11, 1, tzinfo=UTC), feature="long ago")
    offering = asked(environment, feature="never used")
    assert offering.shown is not None
    html = shown(offering)
    assert '<option value="chat">' in html
    assert '<option value="never used" selected>' in html
    assert "long ago" not in html


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"period": "custom"}, "Say the first day."),
        ({"period": "custom", "from": "2026-11-02", "to": "2026-11-01"}, "before the first day"),
        ({"period": "custom", "from": "31.12.26"}, "Enter a valid date."),
        ({"period": "fortnight"}, "fortnight is not one of the available choices."),
        ({"user": "a" * 256}, "at most 255 characters"),
        ({"user": "a\0b"}, "Null characters are not allowed."),
        ({"without": "user"}, "user is not one of the available choices."),
        ({"without": "plan", "plan": "free"}, "This asks for calls without a plan at the same time."),
    ],
)
def test_what_cannot_be_read_is_said_beside_its_field(
    environment: Environment, parameters: dict[str, str], says: str
) -> None:
    found = asked(environment, **parameters)
    assert found.shown is None
    assert says in shown(found)


def test_a_filter_that_is_typed_is_kept_where_the_period_cannot_be_read(environment: Environment) -> None:
    html = shown(asked(environment, period="custom", feature="chat", user="ana", to="2026-11-01"))
    assert '<option value="chat" selected>' in html
    assert 'value="ana"' in html
    assert 'value="2026-11-01"' in html


def test_a_parameter_that_no_filter_has_is_refused(environment: Environment) -> None:
    with pytest.raises(BadRequest, match="has no filter 'fature'"):
        asked(environment, fature="chat")


def test_tabs_lead_to_the_same_period_and_filters(environment: Environment) -> None:
    found = asked(environment, period="custom", **{"from": "2026-11-01", "to": "2026-11-02"}, user="a&b")
    assert found.tabs[0].url == "/admin/?period=custom&from=2026-11-01&to=2026-11-02&user=a%26b"


def test_days_of_a_custom_period_are_left_out_of_the_address_of_a_named_one(environment: Environment) -> None:
    assert asked(environment, period="today", **{"from": "2026-11-01"}).query == "period=today"


def test_a_filter_without_a_field_is_said_and_can_be_taken_back(environment: Environment) -> None:
    html = shown(asked(environment, run="r-1", without="feature", user="ana"))
    assert "Only run r-1" in html
    assert 'href="?period=7d&amp;user=ana&amp;without=feature"' in html
    assert 'href="?period=7d&amp;user=ana&amp;run=r-1"' in html
