"""Giving a boost: for a limit that is chosen, to somebody who was seen, until a time that people say."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from policies.admin.boost_ends import Until, choices, ends_at, windows
from policies.models import BlockedDecision, Boost
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn
from usage.windows import Window

pytestmark = pytest.mark.django_db(transaction=True)

ADD = reverse("admin:policies_boost_add")
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def api(prod: Environment) -> Api:
    apply_policies(
        prod,
        limits(
            "{metric: requests, window: day, amount: 1, per: user}",
            "{metric: cost_usd, window: month, amount: 5, per: user}",
            "{metric: requests, window: month, amount: 100, per: feature}",
        ),
    )
    return Api(prod)


def post(client: Client, environment: Environment, address: str = ADD, **fields: str) -> Any:
    form = {
        "environment": str(environment.pk),
        "raises": "user:requests:day",
        "subject": "ana",
        "extra": "20",
        "until": "friday",
        "reason": "A pilot",
        **fields,
    }
    return client.post(address, form)


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200
    return {name: " ".join(said) for name, said in answer.context["adminform"].form.errors.items()}


def test_no_limit_is_chosen_beforehand(mia: Client, prod: Environment, api: Api) -> None:
    page = mia.get(ADD, {"environment": str(prod)}).content.decode()
    chosen = re.search(r'<select name="raises".*?</select>', page, re.S)
    assert chosen is not None
    assert re.findall(r'<option value="([^"]*)" selected', chosen[0]) == [""]
    api.use("ana")
    assert set(errors(post(mia, prod, raises=""))) == {"raises"}


def test_who_was_never_seen_is_asked_about(mia: Client, prod: Environment, api: Api) -> None:
    api.use("anna")

    said = post(mia, prod)

    assert errors(said) == {
        "subject": "No call of the user “ana” was seen here, and no policy names it. Did you mean “anna”? "
        "Mend it, or tick “Give it anyway”."
    }
    assert 'type="checkbox" name="anyway"' in said.content.decode()
    assert 'value="A pilot"' in said.content.decode()
    assert post(mia, prod, anyway="on").status_code == 302
    assert Boost.objects.get().subject == "ana"


def test_what_is_asked_again_is_no_error(mia: Client, prod: Environment, api: Api) -> None:
    api.use("anna")
    asked = post(mia, prod).content.decode()
    assert "Nothing is saved yet: there is a question below." in asked
    assert ('class="tv-question"' in asked, "tv-field-errors" in asked) == (True, False)
    both = post(mia, prod, reason="").content.decode()
    assert "Nothing is saved yet" not in both, "something is wrong too"
    assert ('class="tv-question"' in both, "tv-field-errors" in both) == (True, True)


def test_who_was_seen_is_not_asked_about(mia: Client, prod: Environment, api: Api) -> None:
    api.use("ana")
    assert 'type="checkbox" name="anyway"' not in mia.get(ADD, {"environment": str(prod)}).content.decode()
    assert post(mia, prod).status_code == 302


def test_a_feature_that_was_never_seen_is_asked_about(mia: Client, prod: Environment, api: Api) -> None:
    api.use("ana", feature="summarize")
    said = errors(post(mia, prod, raises="feature:requests:month", subject="sumarize"))
    assert "No call of the feature “sumarize” was seen here" in said["subject"]
    assert "Did you mean “summarize”?" in said["subject"]


PLANS = """
plans: [free, pro]
policies:
  - name: Free plan
    scope: {plan: free}
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 1, per: user}]
  - name: Pro plan
    scope: {plan: pro}
    unknown_price: allow
    limits: [{metric: requests, window: month, amount: 9, per: user}]
"""


def test_the_limits_that_bind_the_user_come_first(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, PLANS)
    api.use("ana", plan="free")
    page = mia.get(ADD, {"environment": str(prod), "per": "user", "subject": "ana"})
    assert page.context["adminform"].form.fields["raises"].choices == [
        ("", "Choose a limit…"),
        ("Bind ana now", [("user:requests:day", "1 request a day, each user (Free plan)")]),
        ("Do not bind ana now", [("user:requests:month", "9 requests a month, each user (Pro plan)")]),
    ]


def test_what_binds_the_user_leads_the_line_and_the_message(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, PLANS.replace("month, amount: 9", "day, amount: 9"))
    api.use("bob", plan="pro")

    page = mia.get(ADD, {"environment": str(prod), "per": "user", "subject": "bob"})
    line = "9 requests a day, each user (Pro plan) · raised with it: 1 request a day, each user (Free plan)"
    assert page.context["adminform"].form.fields["raises"].choices[1:] == [("user:requests:day", line)]
    post(mia, prod, subject="bob")
    said = unescape(mia.get(reverse("admin:index")).content.decode())
    assert "The boost is given: 9 → 29 requests a day, each user (Pro plan); 1 → 21 requests" in said


def test_the_tightest_limit_that_binds_the_user_comes_first(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(
        prod,
        limits(
            "{metric: requests, window: day, amount: 100, per: user}",
            "{metric: requests, window: month, amount: 2, per: user}",
        ),
    )
    api.use("ana")
    page = mia.get(ADD, {"environment": str(prod), "per": "user", "subject": "ana"})
    offered = page.context["adminform"].form.fields["raises"].choices
    assert [key for key, _ in offered] == ["", "user:requests:month", "user:requests:day"]


def test_each_end_says_which_day_it_is_in_the_tenants_zone() -> None:
    # In Berlin it is Wednesday already.
    now = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
    assert [says for _, says in choices(now, BERLIN)] == [
        "On the day below",
        "1 hour after it starts",
        "At the end of today, Wednesday 25 Nov, 23:59 CET",
        "At the end of Friday 27 Nov, 23:59 CET",
        "At the end of the month, Monday 30 Nov, 23:59 CET",
    ]


def test_a_day_that_is_named_stays_that_day_whenever_it_starts(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.use("ana")
    now = timezone.now()
    starts = now.astimezone(BERLIN) + timedelta(days=400)
    later = {"starts_at_0": f"{starts:%Y-%m-%d}", "starts_at_1": "08:00:00"}
    assert post(mia, prod, until="month", **later).status_code == 200, "it would start after its end"
    assert ends_at(Until.FRIDAY, now, BERLIN, starts) == ends_at(Until.FRIDAY, now, BERLIN)
    assert ends_at(Until.HOUR, now, BERLIN, starts) - starts <= timedelta(hours=1)


def test_the_message_names_the_zone(mia: Client, prod: Environment, api: Api) -> None:
    api.use("ana")
    post(mia, prod, until="", ends_at_0=f"{timezone.now().year + 1}-01-15")
    assert re.search(r"anew each day until \w+day \d{4}-01-15 23:59 CET", mia.get(ADD).content.decode())


def test_the_message_says_what_a_boost_comes_to_in_all(mia: Client, prod: Environment, api: Api) -> None:
    api.use("ana")
    ends = timezone.now().astimezone(BERLIN) + timedelta(days=3)
    post(mia, prod, extra="20", until="", ends_at_0=f"{ends:%Y-%m-%d}")
    assert re.search(
        r"each day until [^:]+:[^:]+: in all 80 requests more, over 4 days", mia.get(ADD).content.decode()
    )


def test_a_second_boost_goes_on_from_the_first(mia: Client, prod: Environment, api: Api) -> None:
    api.use("ana")
    api.use("ben")
    for said in (
        "1 → 21 requests a day",
        "21 → 41 requests a day, each user (Everyone), 20 of it by boosts that ran",
    ):
        post(mia, prod)
        assert said in mia.get(ADD).content.decode()
    for user, running in (("ana", {"ana": 40}), ("ben", {})):
        page = mia.get(ADD, {"environment": str(prod), "per": "user", "subject": user})
        offered = json.loads(page.context["adminform"].form.fields["raises"].widget.attrs["data-limits"])
        assert offered["user:requests:day"]["running"] == running
        assert offered["user:requests:day"]["before"] == [["Everyone", 1]]


def test_the_form_knows_what_boosts_of_everybody_add_before_anybody_is_named(
    mia: Client, prod: Environment, api: Api
) -> None:
    together = "{metric: requests, window: day, amount: 100, per: environment}"
    apply_policies(prod, limits("{metric: requests, window: day, amount: 1, per: user}", together))
    api.use("ana")
    for said in ("100 → 120 requests", "120 → 140 requests"):
        post(mia, prod, raises="environment:requests:day", subject="")
        assert said in mia.get(ADD).content.decode()
    post(mia, prod)

    page = mia.get(ADD, {"environment": str(prod)})

    offered = json.loads(page.context["adminform"].form.fields["raises"].widget.attrs["data-limits"])
    assert offered["environment:requests:day"]["running"] == {"": 40}
    assert offered["user:requests:day"]["running"] == {}, "nobody is named"


def test_how_many_windows_a_boost_meets_is_known_for_each_end() -> None:
    """A Friday at noon in Berlin."""
    now = datetime(2026, 11, 27, 11, 30, tzinfo=UTC)
    assert windows(Window.DAY, now, BERLIN) == {"hour": 1, "today": 1, "friday": 1, "month": 4}
    assert windows(Window.HOUR, now, BERLIN) == {"hour": 2, "today": 12, "friday": 12, "month": 84}
    assert windows(Window.MINUTE, now, BERLIN)["month"] is None
    assert set(windows(Window.TOTAL, now, BERLIN).values()) == {1}


def test_a_limit_that_does_not_bind_the_user_is_asked_about(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, PLANS)
    api.use("ana", plan="free")

    said = post(mia, prod, raises="user:requests:month")

    assert errors(said) == {
        "raises": "It does not bind ana now. These do: 1 request a day, each user (Free plan). "
        "Choose another, or tick “Give it anyway”."
    }
    assert 'type="checkbox" name="anyway"' in said.content.decode()
    assert post(mia, prod, raises="user:requests:month", anyway="on").status_code == 302
    assert Boost.objects.get().window == "month"


@pytest.mark.parametrize("until", list(Until))
def test_it_ends_when_people_say(mia: Client, prod: Environment, api: Api, until: Until) -> None:
    api.use("ana")
    before = timezone.now()
    post(mia, prod, until=until.value)
    ends = Boost.objects.get().ends_at
    assert ends_at(until, before, BERLIN) <= ends <= ends_at(until, timezone.now(), BERLIN)


def test_a_day_alone_means_until_its_end_in_the_tenants_zone(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.use("ana")
    year = timezone.now().year + 1
    starts = {"starts_at_0": f"{year}-01-30", "starts_at_1": "08:00:00"}
    post(mia, prod, until="", ends_at_0=f"{year}-02-01", **starts)
    assert Boost.objects.get().ends_at == datetime(year, 2, 1, 23, 59, 59, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"until": ""}, "Say when it ends"),
        ({"until": "today", "ends_at_0": "2099-01-01"}, "Leave the day empty"),
        ({"until": "", "ends_at_0": "2020-01-01"}, "It must end in the future"),
        ({"until": "", "ends_at_0": "someday"}, "valid date"),
    ],
)
def test_what_is_wrong_with_the_end_is_said_beside_it(
    mia: Client, prod: Environment, api: Api, fields: dict[str, str], says: str
) -> None:
    api.use("ana")
    said = errors(post(mia, prod, **fields))
    assert list(said) == ["ends_at"]
    assert says in said["ends_at"]


def test_a_blocked_call_leads_to_the_form_filled_in_and_back(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.use("ana")
    assert not api.evaluate("ana")["allowed"]
    api.get("/v1/decisions")
    decision = BlockedDecision.objects.get()
    page = reverse("admin:policies_blockeddecision_change", args=[decision.pk])
    found = re.search(r'href="([^"]*)">Give a boost…', mia.get(page).content.decode())
    assert found is not None
    url = unescape(found[1])
    assert parse_qs(urlsplit(url).query) == {
        "environment": ["acme/prod"],
        "per": ["user"],
        "subject": ["ana"],
        "raises": ["user:requests:day"],
        "extra": ["1"],
        "decision": [str(decision.pk)],
    }
    form = mia.get(url).context["adminform"].form
    assert [form[name].value() for name in ("raises", "subject", "extra")] == [
        "user:requests:day",
        "ana",
        "1",
    ]

    answer = post(mia, prod, url, extra="1")

    assert answer["Location"] == page
    said = mia.get(page).content.decode()
    assert "The boost is given: 1 → 2 requests a day" in said
    assert ", anew each day until " in said
    assert api.evaluate("ana")["allowed"]


def test_nobody_is_led_to_a_decision_of_another_tenant(
    mia: Client, sign_in: SignIn, other: Tenant, prod: Environment, api: Api
) -> None:
    api.use("ana")
    api.evaluate("ana")
    api.get("/v1/decisions")
    theirs = other.environments.get(slug="prod")
    apply_policies(theirs, limits("{metric: requests, window: day, amount: 1, per: user}"))
    sam = sign_in("sam", other)
    for decision in (str(BlockedDecision.objects.get().pk), "x", "9" * 30):
        address = f"{ADD}?environment={theirs}&decision={decision}"
        assert "end-user" in post(sam, theirs, address, anyway="on")["Location"]
