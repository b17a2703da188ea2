"""The audit log in the console: who did what, from where; filters; one entry; is it whole?"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import escape

from audit.log import Target, acting_as, log
from audit.models import Entry
from audit.origin import Origin, coming_from
from audit.tests.tampering import triggers_off
from policies import end_users
from policies.models import Policy
from tenants.console.display import user_url
from tenants.models import ApiKey, Environment, Membership, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

LIST = reverse("admin:audit_entry_changelist")
CHECK = reverse("admin:audit_entry_check")
HOSTILE = "<script>alert(1)</script>\u202eevil\u202c💥" + "x" * 60


def page(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, url
    return response.content.decode()


def sentences(client: Client, query: str = "") -> list[str]:
    """As a person reads them, newest first."""
    return [str(row.sentence) for row in client.get(f"{LIST}{query}").context["rows"]]


def offered(client: Client, name: str) -> list[str]:
    field = client.get(LIST).context["filters"].fields.get(name)
    return [] if field is None else [label for value, label in field.choices if value]


def renamed(name: str, tenant: Tenant | None, **data: Any) -> Entry:
    return log(
        "tenant.changed",
        Target("tenants.tenant", name),
        tenant_id=None if tenant is None else tenant.pk,
        **data,
    )


def entry_page(entry: Entry) -> str:
    return reverse("admin:audit_entry_change", args=[entry.pk])


def test_an_entry_is_a_sentence_with_who_when_and_from_where(mia: Client, acme: Tenant) -> None:
    with acting_as("admin:bob"), coming_from(Origin(request_id="a81c", address="10.4.7.88")):
        log(
            "tenant.changed",
            acme,
            tenant_id=acme.pk,
            changes={"timezone": {"before": "UTC", "after": "Asia/Tokyo"}},
        )
    text = page(mia, LIST)
    assert sentences(mia)[0] == "bob changed the tenant acme: timezone UTC → Asia/Tokyo"
    assert "10.4.7.88" in text
    assert "Times in Europe/Berlin (CET)" in text
    assert f'href="{reverse("admin:tenants_tenant_change", args=[acme.pk])}"' in text


def test_publishing_reads_as_a_sentence(mia: Client, prod: Environment) -> None:
    for amount in (50, 60):
        limit = f"{{metric: requests, window: day, amount: {amount}, per: user}}"
        apply_policies(prod, limits(limit, name="Free plan"))
    assert sentences(mia)[0] == (
        "test published Free plan as version 2 in prod: requests a day, each user: 50 requests → 60 requests"
    )


def test_members_see_their_tenants_and_superusers_all(
    mia: Client, sign_in: SignIn, acme: Tenant, other: Tenant
) -> None:
    for name, tenant in (("ours", acme), ("theirs", other), ("nobodys", None)):
        renamed(name, tenant)
    assert [text for text in sentences(mia) if "changed" in text] == ["the server changed the tenant ours"]
    assert len([text for text in sentences(sign_in("root")) if "changed" in text]) == 3
    theirs = Entry.objects.get(target_name="theirs")
    assert mia.get(entry_page(theirs)).status_code == 404
    outsider = sign_in("out", acme)
    acme.memberships.all().delete()
    assert [outsider.get(url).status_code for url in (LIST, CHECK)] == [403, 403]


def test_the_filters_offer_what_the_persons_tenants_have_and_nothing_else(
    mia: Client, sign_in: SignIn, acme: Tenant, other: Tenant, prod: Environment
) -> None:
    with acting_as("admin:secret-agent"):
        ApiKey.issue(other.environments.get(slug="prod"), "theirs", (EVALUATE,))
    with acting_as("admin:bob"):
        ApiKey.issue(prod, "ours", (EVALUATE,))
        renamed("ours", acme)
    other_text = page(mia, LIST)
    assert "secret-agent" not in other_text
    assert offered(mia, "actor") == ["bob", "the server"]
    assert offered(mia, "action") == ["API key issued", "Tenant changed", "Tenant created"]
    assert offered(mia, "kind") == ["API key", "tenant"]
    assert offered(mia, "place") == ["acme/dev", "acme/prod", "acme/staging"]
    assert offered(mia, "chain") == [], "there is nothing to choose"
    assert offered(sign_in("liz", acme, other), "chain") == ["acme", "other"]


def test_entries_are_filtered(mia: Client, acme: Tenant, prod: Environment, dev: Environment) -> None:
    with acting_as("admin:bob"), coming_from(Origin(request_id="a81c", address="10.4.7.88")):
        end_users.set_end_user(prod, "ann", plan_name=None, blocked=True, actor="admin:bob")
    end_users.set_end_user(dev, "ben", plan_name=None, blocked=True, actor="key:k1")
    ann, ben = "bob blocked the end user ann in prod", "API key k1 blocked the end user ben in dev"
    assert sentences(mia)[:2] == [ben, ann]
    assert sentences(mia, "?actor=admin:bob") == [ann]
    assert sentences(mia, "?action=end_user.changed") == [ben, ann]
    assert sentences(mia, "?kind=policies.enduser&actor=key:k1") == [ben]
    assert sentences(mia, "?place=acme/prod") == [ann]
    assert [sentences(mia, f"?find={text}") for text in ("a81c", "10.4.7.88", "ann")] == [[ann]] * 3
    assert sentences(mia, "?find=a81") == [], "a part of an id names nothing"
    assert len(sentences(mia, f"?chain={acme.pk}")) == 3


def first_line(client: Client, query: str) -> tuple[str, str]:
    """Which environments it says it is of, and where it leads."""
    found = re.search(
        r'<p class="tv-subtle">(.*?)<a href="([^"]*)">(.*?)</a>', page(client, f"{LIST}{query}")
    )
    assert found is not None
    said, url, link = found.groups()
    return re.sub("<[^>]+>", "", said + link), unescape(url)


def test_the_log_says_which_environments_it_is_of(
    mia: Client, acme: Tenant, prod: Environment, dev: Environment
) -> None:
    for place in (prod, dev):
        end_users.set_end_user(place, f"of {place.slug}", plan_name=None, blocked=True, actor="admin:bob")
    both = [f"bob blocked the end user of {slug} in {slug}" for slug in ("dev", "prod")]

    said, only = first_line(mia, "?environment=acme/prod&actor=admin:bob")
    assert said == "Of all environments; only acme/prod"
    assert sentences(mia, "?actor=admin:bob") == both
    assert sentences(mia, only) == both[1:], "other filters are kept"

    said, of_all = first_line(mia, only)
    assert said.startswith("Only what is of acme/prod; members, and what else is of a tenant")
    assert sentences(mia, of_all) == both


def test_the_narrowing_is_kept_by_the_form_and_by_older_pages(mia: Client, prod: Environment) -> None:
    for number in range(60):
        end_users.set_end_user(prod, f"u{number}", plan_name=None, blocked=True, actor="admin:bob")
    text = page(mia, f"{LIST}?place=acme/prod")
    assert '<option value="acme/prod" selected>' in text
    assert next(iter(mia.get(LIST).context["filters"].fields)) == "place"
    (older,) = re.findall(r'href="(\?place=acme%2Fprod&amp;before=\d+)"', text)
    assert len(sentences(mia, unescape(older))) == 10


def test_who_may_not_see_the_log_of_the_shown_environment_is_not_led_to_it(
    sign_in: SignIn, acme: Tenant, other: Tenant
) -> None:
    liz = sign_in("liz", other)
    Membership.objects.create(tenant=acme, user=User.objects.get(username="liz"), role=Role.VIEWER)
    text = page(liz, f"{LIST}?environment=acme/prod")
    assert "Of all environments</p>" in text
    assert "only <bdi>other/prod</bdi>" in page(liz, f"{LIST}?environment=other/prod")


def test_days_are_those_of_the_tenants_zone(mia: Client, acme: Tenant) -> None:
    with time_machine.travel(datetime(2026, 11, 2, 23, 30, tzinfo=UTC)):
        renamed("at half past midnight", acme)
    found = ["the server changed the tenant at half past midnight"]
    assert sentences(mia, "?since=2026-11-03&until=2026-11-03") == found
    assert sentences(mia, "?until=2026-11-02") == []
    assert "Tuesday 3 November 2026" in page(mia, f"{LIST}?until=2026-11-03")


@pytest.mark.parametrize(
    "query", ["since=yesterday", "until=2026-13-01", "until=9999-12-31", "find=" + "x" * 300, "find=%00"]
)
def test_what_cannot_be_read_is_kept_and_said_beside_the_field(mia: Client, query: str) -> None:
    text = page(mia, f"{LIST}?{query}")
    assert "A filter cannot be read; nothing is shown." in text
    assert text.count('class="tv-field-errors"') == 1


@pytest.mark.parametrize("name", ["actor", "action", "kind", "place", "chain", "find", "before"])
@pytest.mark.parametrize("value", ["", HOSTILE, "²", "-1", "9" * 40, "a/b/c", "%"])
def test_made_up_values_find_nothing_and_do_no_harm(mia: Client, name: str, value: str) -> None:
    response = mia.get(LIST, {name: value})
    assert response.status_code == 200
    assert "<script>alert" not in response.content.decode()


def test_an_unknown_filter_is_refused(mia: Client) -> None:
    assert mia.get(f"{LIST}?data__contains=x").status_code == 400


def test_an_empty_answer_says_what_was_asked(mia: Client) -> None:
    text = page(mia, f"{LIST}?find=nobody&action=user.deleted")
    assert "No entry has action “user.deleted” and request id, address or name “nobody”." in re.sub(
        r"</?bdi>", "", text
    )


def test_older_entries_are_a_page_further(mia: Client, acme: Tenant) -> None:
    for number in range(60):
        renamed(f"t{number}", acme)
    first = mia.get(f"{LIST}?action=tenant.changed")
    assert len(first.context["rows"]) == 50
    (older,) = re.findall(r'href="\?(action=tenant.changed&amp;before=\d+)"', first.content.decode())
    assert len(sentences(mia, "?" + older.replace("&amp;", "&"))) == 10


def test_a_list_costs_the_same_however_long_it_is(mia: Client, acme: Tenant, prod: Environment) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            page(mia, LIST)
        return len(captured)

    ApiKey.issue(prod, "first", (EVALUATE,))
    page(mia, LIST)
    few = queries()
    for number in range(20):
        ApiKey.issue(prod, f"k{number}", (EVALUATE,))
    assert queries() == few


def test_the_page_of_an_entry_shows_before_and_after(mia: Client, acme: Tenant) -> None:
    with acting_as("admin:bob"), coming_from(Origin(request_id="a81c", address="10.4.7.88")):
        entry = renamed("acme", acme, changes={"name": {"before": "Old", "after": "New"}}, reason="merger")
    text = page(mia, entry_page(entry))
    assert re.findall(r"<bdi>(name: \w+)</bdi>", text) == ["name: Old", "name: New"]
    for said in ("10.4.7.88", "a81c", "merger", "Tenant changed", "As it was written", entry.hash):
        assert said in text


def test_a_new_policy_is_shown_without_what_it_never_was_before(mia: Client, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}", name="Pro"))
    added = Entry.objects.get(action="policy.added")
    shown = mia.get(reverse("admin:audit_entry_change", args=[added.pk])).context["differences"]
    (lines,) = (lines for heading, lines in shown if heading == "Before and after")
    assert "requests a day, each user: 5 requests" in {line.text for line in lines}
    assert {line.sign for line in lines} == {"+"}


def test_the_link_of_an_end_user_leads_to_the_page_that_everybody_has(mia: Client, prod: Environment) -> None:
    end_users.set_end_user(prod, "a&nn", plan_name=None, blocked=True, actor="admin:bob")
    assert escape(user_url(prod, "a&nn")) in page(mia, LIST)


def test_hostile_names_stay_text(mia: Client, acme: Tenant, prod: Environment) -> None:
    with acting_as(f"admin:{HOSTILE}"), coming_from(Origin(request_id=HOSTILE, address=HOSTILE)):
        entry = renamed(
            HOSTILE, acme, changes={HOSTILE: {"before": HOSTILE, "after": [HOSTILE]}}, **{HOSTILE: HOSTILE}
        )
    for url in (LIST, entry_page(entry)):
        assert "<script>alert" not in page(mia, url)


@pytest.mark.parametrize("entry_id", ["0", "x", "9" * 40, "-1", "1_000"])
def test_a_made_up_entry_is_not_found(mia: Client, entry_id: str) -> None:
    assert mia.get(f"{LIST}{entry_id}/change/").status_code == 404


def test_nobody_adds_changes_or_deletes_an_entry(sign_in: SignIn, acme: Tenant) -> None:
    root, entry = sign_in("root"), Entry.objects.get()
    assert root.get(f"{LIST}add/").status_code == 403
    assert root.post(f"{LIST}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    root.post(entry_page(entry), {"actor": "admin:nobody"})
    root.post(LIST, {"action": "delete_selected", "_selected_action": [entry.pk], "post": "yes"})
    assert Entry.objects.get().actor == "system"


@pytest.mark.django_db(transaction=True)
def test_an_entry_that_was_altered_in_the_database_is_said_to_be(mia: Client, acme: Tenant) -> None:
    User.objects.create_user("bob")
    entry = Entry.objects.get(tenant_id=acme.pk)
    assert "1 entry, from the first to the last, as they were written." in page(mia, CHECK)
    assert "on this page is as written" in page(mia, LIST)
    with triggers_off():
        Entry.objects.filter(pk=entry.pk).update(actor="admin:somebody")
    assert "1 of these entries is not as written" in page(mia, LIST)
    assert "Entry 1: altered." in page(mia, entry_page(entry))
    assert f"Tenant {acme.pk}, entry 1: altered." in page(mia, CHECK)


def test_the_check_is_of_the_persons_tenants(
    mia: Client, sign_in: SignIn, acme: Tenant, other: Tenant
) -> None:
    def checked(client: Client) -> list[str]:
        return [whose for whose, _ in client.get(CHECK).context["verdicts"]]

    log("user.added", User.objects.get(username="mia"), tenant_id=None)
    assert checked(mia) == ["acme"]
    assert checked(sign_in("root")) == ["acme", "other", "installation"]


def test_the_history_of_an_object_is_the_log_of_it(mia: Client, prod: Environment, other: Tenant) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 50, per: user}", name="Free plan"))
    text = page(mia, reverse("admin:policies_policy_history", args=[Policy.objects.get().pk]))
    assert "published the new policy" in text
    assert "has no entry" not in text
    assert mia.get(reverse("admin:tenants_tenant_history", args=[other.pk])).status_code == 404


def test_a_history_leads_to_what_it_is_of(mia: Client, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}", name="Pro"))
    policy = Policy.objects.get()
    text = page(mia, reverse("admin:policies_policy_history", args=[policy.pk]))
    assert f'<a href="{reverse("admin:policies_policy_change", args=[policy.pk])}"><bdi>Pro</bdi></a>' in text


def test_the_history_of_a_plan_has_the_changes_of_its_policies(mia: Client, prod: Environment) -> None:
    """One is for it, one was, one never: a plan means what its policies say."""
    policies = (
        "plans: [pro]\npolicies: [{{name: For pro, scope: {{plan: pro}}, priority: {}}}, {}, {{name: Never}}]"
    )
    apply_policies(prod, policies.format(1, "{name: Was for pro, scope: {plan: pro}}"))
    apply_policies(prod, policies.format(2, "{name: Was for pro}"))
    pro = prod.plans.get()
    history = mia.get(reverse("admin:policies_plan_history", args=[pro.pk]))
    shown = [(row.entry.action, row.entry.target_name) for row in history.context["rows"]]
    assert sorted(shown) == [
        ("plan.added", "pro"),
        ("policy.added", "For pro"),
        ("policy.added", "Was for pro"),
        ("policy.changed", "For pro"),
        ("policy.changed", "Was for pro"),
    ]
    text = history.content.decode()
    policy_url = reverse("admin:policies_policy_change", args=[prod.policies.get(name="For pro").pk])
    assert f'<a href="{policy_url}"><bdi>For pro</bdi></a>' in text, "each entry says which policy"
    assert "With the changes of <bdi>For pro</bdi>, <bdi>Was for pro</bdi>." in text
    assert "you may not see" not in text


def test_the_history_says_that_there_is_more_which_only_superusers_see(mia: Client, acme: Tenant) -> None:
    shared = User.objects.create_user("bob")
    assert shared
    log("tenant.changed", acme, tenant_id=None)
    url = reverse("admin:tenants_tenant_history", args=[acme.pk])
    assert "There are entries about it that you may not see" in page(mia, url)


def test_an_object_without_entries_has_an_empty_history(mia: Client, prod: Environment) -> None:
    text = page(mia, reverse("admin:tenants_environment_history", args=[prod.pk]))
    assert "The audit log has no entry about it." in text


@pytest.mark.parametrize("role", [Role.VIEWER, Role.EDITOR])
def test_the_log_and_the_histories_are_for_those_whose_role_may_see_them(
    sign_in: SignIn, acme: Tenant, role: str
) -> None:
    client = sign_in("liz", acme, role=role)
    assert client.get(LIST).status_code == 403
    history = page(client, reverse("admin:tenants_tenant_history", args=[acme.pk]))
    assert "There are entries about it that you may not see" in history
    assert len(sentences(sign_in("aud", acme, role=Role.AUDITOR))) == 1
