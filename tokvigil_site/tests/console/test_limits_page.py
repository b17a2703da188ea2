"""All limits in force: the tightest first, or the one that runs out first; and who is near one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.models import Policy
from policies.standing.limit_rows import Group
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn
from usage.counting.store import store

pytestmark = pytest.mark.django_db(transaction=True)

LIMITS = reverse("admin:limits")
DAILY = "{metric: requests, window: day, amount: 5, per: user}"
MONTHLY = "{metric: requests, window: month, amount: 1000, per: environment}"
AT_ONCE = "{metric: concurrency, window: total, amount: 20, per: feature}"


@pytest.fixture
def api(prod: Environment) -> Api:
    return Api(prod)


@pytest.fixture(autouse=True)
def noon() -> None:
    """Of the tenant's day, so that no window has just begun or is about to end."""
    at = datetime(2026, 11, 18, 11, tzinfo=UTC)
    store.clock_offset_ms += int(at.timestamp() * 1000) - store.now_ms()


def test_limits_of_the_same_kind_for_several_models_have_pages_of_their_own(
    mia: Client, prod: Environment, api: Api
) -> None:
    row = "{{metric: requests, window: day, amount: {0}, per: user, models: [{1}]}}"
    apply_policies(prod, limits(row.format(4, '"gpt-5*"'), row.format(9, '"gpt-4*", o3')))
    for model in ("gpt-5", "gpt-4o", "o3"):
        api.report(api.evaluate("ana", model)["request_id"], "ana", model)

    found = {row.words: mia.get(row.url) for row in look(mia, prod).context["limits"]}
    assert {words: [row.name for row in page.context["others"]] for words, page in found.items()} == {
        "4 requests a day with gpt-5*, each user": ["ana"],
        "9 requests a day with gpt-4* and o3, each user": ["ana"],
    }
    assert {words: page.context["standing"].subjects[0].used for words, page in found.items()} == {
        "4 requests a day with gpt-5*, each user": 1,
        "9 requests a day with gpt-4* and o3, each user": 2,
    }
    policy = prod.policies.get()
    assert (
        mia.get(reverse("admin:limit_subjects", args=[policy.pk, "requests", "day", "user"])).status_code
        == 404
    )


def look(client: Client, environment: Environment, **filters: str) -> Any:
    answer = client.get(LIMITS, {"environment": str(environment), **filters})
    assert answer.status_code == 200
    return answer


def words(answer: Any) -> list[str]:
    return [row.words for row in answer.context["limits"]]


def use(api: Api, user: str, times: int, **fields: Any) -> None:
    for _ in range(times):
        api.use(user, **fields)


def test_all_limits_stand_there_tightest_first(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits(MONTHLY, AT_ONCE, DAILY))
    use(api, "ana", 3, feature="chat")
    api.evaluate("ana", feature="chat")

    answer = look(mia, prod)

    assert words(answer) == [
        "5 requests a day, each user",
        "20 calls at once, each feature",
        "1,000 requests a month, everybody together",
    ]
    text = unescape(answer.content.decode())
    assert "ana: 3 of 5 requests a day, 1 more held" in text
    assert "Near 80 %" in text
    assert reverse("admin:policies_policy_change", args=[Policy.objects.get(environment=prod).pk]) in text


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"state": "near"}, ["5 requests a day, each user"]),
        ({"state": "full"}, ["5 requests a day, each user"]),
        ({"state": "over"}, ["1 request a day, each user"]),
        ({"scope": "environment"}, ["1,000 requests a month, everybody together"]),
        ({"metric": "concurrency"}, ["20 calls at once, each feature"]),
        ({"scope": "plan"}, []),
        ({"metric": "hopes"}, []),
    ],
)
def test_filters_leave_what_fits(
    mia: Client, prod: Environment, api: Api, filters: dict[str, str], left: list[str]
) -> None:
    apply_policies(
        prod,
        f"""policies:
  - {{name: All, unknown_price: allow, limits: [{MONTHLY}, {AT_ONCE}, {DAILY}]}}
  - {{name: Eye, unknown_price: allow, kind: guardrail, mode: monitor,
      limits: [{{metric: requests, window: day, amount: 1, per: user}}]}}
""",
    )
    use(api, "ana", 5)
    use(api, "ben", 4)
    assert words(look(mia, prod, **filters)) == left
    eye = Policy.objects.get(name="Eye")
    assert words(look(mia, prod, policy=str(eye.pk))) == ["1 request a day, each user"]


def test_an_address_with_an_unknown_filter_is_refused(mia: Client, prod: Environment) -> None:
    assert mia.get(LIMITS, {"environment": str(prod), "colour": "red"}).status_code == 400


def test_the_overview_leads_there(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits(DAILY))
    use(api, "ana", 5)
    use(api, "ben", 4)
    text = mia.get(reverse("admin:index"), {"environment": str(prod)}).content.decode()
    chips = dict(re.findall(r'<a class="tv-chip[^"]*" href="([^"]*)">.*?<bdi>([^<]*)</bdi>', text))
    assert chips == {f"{LIMITS}?state=full": "1 at a limit", f"{LIMITS}?state=near": "1 near a limit"}


def test_what_runs_out_first_comes_first_if_asked(mia: Client, prod: Environment, api: Api) -> None:
    """At noon. Six of ten a day run out at eight in the evening; nine of ten a week, tomorrow at the earliest."""
    apply_policies(
        prod,
        "plans: [free]\npolicies:\n"
        + "".join(
            f"  - {{name: {name}, kind: guardrail, unknown_price: allow, "
            f"limits: [{{metric: requests, window: {window}, amount: {amount}, per: environment}}]}}\n"
            for name, window, amount in (("Week", "week", 7), ("Day", "day", 10), ("Month", "month", 1000))
        ),
    )
    use(api, "ana", 6)

    assert words(look(mia, prod))[0].startswith("7 requests a week")
    answer = look(mia, prod, order="runs-out")

    rows = answer.context["limits"]
    assert [row.policy for row in rows] == ["Day", "Week", "Month"]
    assert rows[0].runs_out.says == "runs out today about 20:00 at the pace of the last 12 h"
    assert rows[1].runs_out.says.startswith("runs out ")
    assert rows[2].runs_out.says == "not before it resets"
    # Where a row has no column headings, what does not say "runs out" itself is labelled.
    assert re.findall(r'data-label="runs out:">([^<]+)<', answer.content.decode()) == ["not before it resets"]


def test_what_is_used_up_and_what_is_only_monitored_do_not_hide_what_runs_out_first(
    mia: Client, prod: Environment, api: Api
) -> None:
    """At noon: who runs out next stands at the top, also of a limit that somebody else has used up."""
    apply_policies(
        prod,
        "policies:\n"
        + "".join(
            f"  - {{name: {name}, kind: guardrail, mode: {mode}, unknown_price: allow, "
            f"limits: [{{metric: requests, window: {window}, amount: {amount}, per: {per}}}]}}\n"
            for name, mode, window, amount, per in (
                ("Shared", "enforce", "week", 40, "environment"),
                ("Monitored", "monitor", "day", 17, "environment"),
                ("Used up", "enforce", "day", 1, "feature"),
                ("Month", "enforce", "month", 1000, "environment"),
                ("Each", "enforce", "day", 10, "user"),
                ("In all", "enforce", "total", 90, "environment"),
            )
        ),
    )
    use(api, "ben", 10)
    use(api, "ana", 5)
    use(api, "cy", 1, feature="chat")

    answer = look(mia, prod, order="runs-out")

    found = [(row.group.name, row.policy) for row in answer.context["limits"]]
    assert {found.pop(1)[1], found.pop(1)[1]} == {"Used up", "Each"}
    assert found == [
        ("RUNS_OUT", "Shared"),
        ("NOT_BEFORE_RESET", "Month"),
        ("UNKNOWN", "In all"),
        ("MONITORED", "Monitored"),
    ]
    headings = re.findall(r'scope="colgroup"[^>]*>([^<]*)<', answer.content.decode())
    assert headings == [str(group) for group in Group]
    use(api, "ana", 2)
    assert look(mia, prod, order="runs-out").context["limits"][0].policy == "Each", "ana, not ben"


def test_what_is_only_monitored_stands_below_what_blocks_and_says_so(
    mia: Client, prod: Environment, api: Api
) -> None:
    blocks = limits(MONTHLY, name="Blocks").removeprefix("policies:\n")
    apply_policies(prod, limits(DAILY, name="Monitored", kind="guardrail", mode="monitor") + blocks)
    use(api, "ana", 5)
    answer = look(mia, prod)
    assert [row.policy for row in answer.context["limits"]] == ["Blocks", "Monitored"]
    assert answer.content.decode().count("would not block") == 1
    assert "colgroup" not in answer.content.decode()


def test_the_overview_says_which_limit_runs_out_first(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits(MONTHLY, AT_ONCE, "{metric: requests, window: day, amount: 10, per: user}"))
    address = f"{reverse('admin:index')}?environment={prod}"
    use(api, "ana", 1)
    assert "no limit that is not used up yet runs out before it resets" in mia.get(address).content.decode()
    use(api, "ana", 5)
    said = mia.get(address).context["next_out"]
    assert (said.says, said.runs_out.says) == (
        "ana: 6 of 10 requests a day",
        "runs out today about 20:00 at the pace of the last 12 h",
    )


def test_who_is_blocked_already_hides_nobody_who_will_be(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits(MONTHLY, "{metric: requests, window: day, amount: 10, per: user}"))
    use(api, "ben", 10)
    use(api, "ana", 6)
    said = mia.get(f"{reverse('admin:index')}?environment={prod}").context["next_out"]
    assert (said.says, said.runs_out.says) == (
        "ana: 6 of 10 requests a day",
        "runs out today about 20:00 at the pace of the last 12 h",
    )
    daily = next(row for row in look(mia, prod).context["limits"] if row.words.startswith("10 requests"))
    assert (daily.runs_out.says, daily.next_out.name) == ("used up", "ana")


def test_a_limit_that_all_share_runs_out_first_before_what_is_one_users_own(
    mia: Client, prod: Environment, api: Api
) -> None:
    shared = "{metric: requests, window: day, amount: 11, per: environment}"
    apply_policies(prod, limits(shared, "{metric: requests, window: day, amount: 7, per: user}"))
    use(api, "ana", 6)
    said = mia.get(f"{reverse('admin:index')}?environment={prod}").context["next_out"]
    assert said.says.endswith("6 of 11 requests a day")


def test_nothing_is_said_of_calls_at_once(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits("{metric: concurrency, window: total, amount: 1, per: user}"))
    api.evaluate("ana")
    (row,) = look(mia, prod).context["limits"]
    assert row.runs_out is None


def test_what_never_resets_can_be_used_up(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits("{metric: requests, window: total, amount: 2, per: user}"))
    use(api, "ana", 1)
    assert look(mia, prod).context["limits"][0].runs_out is None
    use(api, "ana", 1)
    assert look(mia, prod).context["limits"][0].runs_out.says == "used up"


def test_of_a_limit_those_near_it_are_listed(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits(DAILY))
    for user, times in (("ana", 5), ("ben", 4), ("cy", 1)):
        use(api, user, times)
    (row,) = look(mia, prod).context["limits"]
    assert row.crowd == "1 at limit, 1 near"

    answer = mia.get(row.url)

    assert [each.name for each in answer.context["tight"]] == ["ana", "ben"]
    assert [each.name for each in answer.context["others"]] == ["cy"]
    assert [each.runs_out.says for each in answer.context["tight"]] == [
        "used up",
        "runs out today about 15:00 at the pace of the last 12 h",
    ]
    assert "end-user/?environment=acme%2Fprod&amp;user_id=ben" in answer.content.decode()


def test_of_a_limit_that_is_not_there_nothing_is_known(
    mia: Client, sign_in: SignIn, other: Tenant, prod: Environment
) -> None:
    apply_policies(prod, limits(DAILY))
    policy = Policy.objects.get(environment=prod)
    url = reverse("admin:limit_subjects", args=[policy.pk, "requests", "day", "user"])
    assert mia.get(url).status_code == 200
    assert mia.get(url.replace("day", "week")).status_code == 404
    assert sign_in("sam", other).get(url).status_code == 404


def test_more_limits_than_a_page_holds_are_paged(mia: Client, prod: Environment) -> None:
    rows = "".join(f"  - {{name: P{n}, scope: {{feature: f{n}}}, limits: [{DAILY}]}}\n" for n in range(60))
    apply_policies(prod, f"policies:\n{rows}")
    first, second = look(mia, prod), look(mia, prod, page="2")
    assert (len(words(first)), len(words(second))) == (50, 10)
    assert "?&amp;page=2" in first.content.decode()


def test_it_costs_the_same_however_many_limits_there_are(mia: Client, prod: Environment, api: Api) -> None:
    def queries(names: int) -> int:
        rows = "".join(
            f"  - {{name: P{n}, scope: {{feature: f{n}}}, limits: [{DAILY}]}}\n" for n in range(names)
        )
        apply_policies(prod, f"policies:\n{rows}")
        for n in range(names):
            api.report(f"r{names}-{n}", f"user{n}", feature=f"f{n}")
        look(mia, prod)
        with CaptureQueriesContext(connection) as captured:
            look(mia, prod)
        return len(captured)

    assert queries(2) == queries(12)
