"""The versions of a policy: who changed what, two side by side, and back to one with a confirmation."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import NoReverseMatch, reverse

from audit.models import Entry
from policies import policy_rows
from policies.changing import drafts
from policies.changing.publishing import archive
from policies.models import Policy
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def policy(prod: Environment) -> Policy:
    """At version 3; its daily limit was 50, 40, 60."""
    for amount in (50, 40, 60):
        apply_policies(
            prod,
            f'policies: [{{name: "{HOSTILE}", limits: [{{metric: requests, window: day, amount: {amount}}}]}}]',
        )
    return prod.policies.get()


def versions(policy: Policy) -> str:
    return reverse("admin:policy_versions", args=[policy.pk])


def back_to(policy: Policy, number: int) -> str:
    return reverse("admin:policy_roll_back", args=[policy.pk, number])


def page(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def daily(policy: Policy) -> int:
    policy.refresh_from_db()
    return policy_rows.rule_of(policy).limits[0].amount


def test_each_version_says_who_made_it_and_what_changed(mia: Client, policy: Policy) -> None:
    text = page(mia, versions(policy))
    for said in ("50 requests → 40 requests", "40 requests → 60 requests", "Put in force"):
        assert said in text
    assert text.count("<bdi>test</bdi>") == 3
    assert HOSTILE not in text


def test_two_versions_stand_side_by_side(mia: Client, policy: Policy) -> None:
    text = page(mia, f"{versions(policy)}?from=1&to=3")
    differing = re.findall(r'class="tv-two-differs">(.*?)</div>', text, re.S)
    assert len(differing) == 1
    assert "50 requests" in differing[0]
    assert "60 requests" in differing[0]


def test_each_version_is_named_by_its_own_address_and_by_no_other(mia: Client, policy: Policy) -> None:
    address = f"{versions(policy)}?to=2"
    assert f'href="{address}#compared"' in page(
        mia, reverse("admin:policies_policy_change", args=[policy.pk])
    )
    (differing,) = re.findall(r'class="tv-two-differs">(.*?)</div>', page(mia, address), re.S)
    assert "50 requests" in differing
    assert "40 requests" in differing
    with pytest.raises(NoReverseMatch):
        reverse("admin:policies_policyversion_changelist")


@pytest.mark.parametrize("asked", ["?from=9&to=x", "?from=", "?to=%00", "?from=1&to=1"])
def test_versions_that_do_not_exist_are_not_asked_for(mia: Client, policy: Policy, asked: str) -> None:
    assert "Two versions side by side" in page(mia, versions(policy) + asked)


def test_going_back_makes_a_new_version_once_it_is_confirmed(mia: Client, policy: Policy) -> None:
    asked = page(mia, back_to(policy, 1))
    assert "Publish as version 4" in asked
    assert daily(policy) == 60, "looking changes nothing"
    before = Entry.objects.count()
    answer = mia.post(back_to(policy, 1), {"opened_version": 3}, follow=True)
    assert "Version 4 has the content of version 1." in answer.content.decode()
    assert (daily(policy), policy.version, policy.versions.count()) == (50, 4, 4)
    (entry,) = Entry.objects.order_by("pk")[before:]
    assert (entry.action, entry.actor, entry.target_id) == ("policy.rolled_back", "admin:mia", str(policy.pk))
    assert (entry.data["version"], entry.data["restores"]) == (4, 1)


@pytest.mark.django_db(transaction=True)
def test_going_back_says_since_when_it_is_in_force(mia: Client, policy: Policy, empty_store: None) -> None:
    answer = mia.post(back_to(policy, 1), {"opened_version": 3}, follow=True)
    said = answer.content.decode()
    assert re.search(r"has the content of version 1\. In force everywhere since \d\d:\d\d:\d\d, ", said)


def test_what_says_the_same_as_what_is_in_force_is_not_gone_back_to(
    mia: Client, policy: Policy, sign_in: SignIn, acme: Tenant
) -> None:
    viewer = sign_in("vic", acme, role=Role.VIEWER)
    assert "same as what is in force" not in page(mia, versions(policy))
    mia.post(back_to(policy, 1), {"opened_version": 3})
    for client in (mia, viewer):
        rows = re.findall(r"<tr>.*?</tr>", page(client, versions(policy)), re.S)[1:]
        assert ["same as what is in force" in row for row in rows] == [False, False, False, True]
    text = page(mia, versions(policy))
    assert [back_to(policy, number) in text for number in (4, 3, 2, 1)] == [False, True, True, False]
    archive(policy, actor="test")
    text = page(mia, versions(policy))
    assert "same as what is in force" not in text
    assert all(back_to(policy, number) in text for number in (1, 2, 3, 4))


def test_what_only_reads_like_what_is_in_force_is_gone_back_to(mia: Client, prod: Environment) -> None:
    for scope in ('{user: "ana, feature chat"}', "{user: ana, feature: chat}"):
        apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}", scope=scope))
    policy = prod.policies.get()
    assert back_to(policy, 1) in page(mia, versions(policy))
    assert "Publish as version 3" in page(mia, back_to(policy, 1))


def test_what_says_the_same_in_another_order_is_not_gone_back_to(mia: Client, prod: Environment) -> None:
    lines = [f"{{metric: requests, window: {window}, amount: 5, per: user}}" for window in ("day", "hour")]
    for both in (lines, lines[::-1]):
        apply_policies(prod, limits(*both))
    policy = prod.policies.get()
    assert policy.version == 2
    assert back_to(policy, 1) not in page(mia, versions(policy))
    assert "there is nothing to do" in page(mia, back_to(policy, 1))


@pytest.mark.django_db(transaction=True)
def test_who_would_feel_it_is_said_before_it_goes_back(
    mia: Client, policy: Policy, prod: Environment, empty_store: None
) -> None:
    """Version 1 denies what version 2 allows, and has a lower limit."""
    loose = "policies: [{{name: Models, unknown_price: allow, models: {{deny: [{}]}}, limits: [{}]}}]"
    limit = "{{metric: requests, window: day, amount: {}}}"
    apply_policies(prod, loose.format("test-*", limit.format(1)))
    apply_policies(prod, loose.format("", limit.format(9)))
    Api(prod).use("ana")
    models = prod.policies.get(name="Models")
    text = page(mia, back_to(models, 1))
    assert "Of 1 call, 1 would have been newly blocked" in text
    assert "Model denied, by <bdi>Models</bdi>: 1" in text
    assert "1 at or over it already, blocked on the next call: <bdi>ana</bdi>" in text
    archive(models, actor="test")
    assert "Of 1 call, 1 would have been newly blocked" in page(mia, back_to(models, 1))


def test_going_back_is_saved_to_a_draft_and_replayed(mia: Client, policy: Policy, prod: Environment) -> None:
    before = Entry.objects.count()
    answer = mia.post(back_to(policy, 1), {"opened_version": 3, "_replay": "yes"})
    draft = prod.drafts.get()
    assert answer["Location"] == reverse("admin:policy_replays", query={"draft": draft.pk})
    assert drafts.rules_of(draft)[policy.name].limits[0].amount == 50
    assert (daily(policy), policy.version) == (60, 3)
    assert [entry.action for entry in Entry.objects.order_by("pk")[before:]] == ["draft.begun"]


def test_an_archived_policy_is_saved_to_a_draft_as_a_new_one(
    mia: Client, policy: Policy, prod: Environment
) -> None:
    archive(policy, actor="test")
    mia.post(back_to(policy, 1), {"opened_version": 4, "_replay": "yes"})
    assert list(drafts.rules_of(prod.drafts.get())) == [policy.name]


def test_what_is_no_version_was_not_opened(mia: Client, policy: Policy) -> None:
    for opened in ("", "x", "9" * 5000):
        answer = mia.post(back_to(policy, 1), {"opened_version": opened}, follow=True)
        assert "version 3 was published meanwhile" in answer.content.decode()
    assert (daily(policy), policy.version) == (60, 3)


def test_why_it_went_back_is_kept_with_the_version_and_in_the_audit_log(mia: Client, policy: Policy) -> None:
    assert 'name="note"' in page(mia, back_to(policy, 1))
    mia.post(back_to(policy, 1), {"opened_version": 3, "note": "60 was too much"})
    assert policy.versions.get(version=4).note == "60 was too much"
    assert Entry.objects.get(action="policy.rolled_back").data["note"] == "60 was too much"
    assert "60 was too much" in page(mia, versions(policy))


def test_a_note_that_is_too_long_is_said_beside_it(mia: Client, policy: Policy) -> None:
    answer = mia.post(back_to(policy, 1), {"opened_version": 3, "note": "w" * 501})
    assert list(answer.context["form"].errors) == ["note"]
    assert daily(policy) == 60


def test_an_archived_policy_is_put_back_in_force(mia: Client, policy: Policy) -> None:
    archive(policy, actor="test")
    assert "Put 3 back in force" in page(mia, versions(policy))
    mia.post(back_to(policy, 3), {"opened_version": 4})
    assert (daily(policy), policy.version, policy.archived_at) == (60, 5, None)
    assert policy.environment.tracked_pairs.count() == 1
    assert Entry.objects.filter(action="policy.rolled_back").count() == 1


def test_what_was_published_meanwhile_is_not_overwritten(mia: Client, policy: Policy) -> None:
    answer = mia.post(back_to(policy, 1), {"opened_version": 2, "note": "60 was too much"}, follow=True)
    text = answer.content.decode()
    assert "version 3 was published meanwhile" in text
    assert 'name="opened_version" value="3"' in text
    assert "60 was too much</textarea>" in text
    assert (daily(policy), policy.version) == (60, 3)


def test_a_name_that_is_taken_stands_against_it(mia: Client, policy: Policy, prod: Environment) -> None:
    archive(policy, actor="test")
    Policy.objects.create(environment=prod, name=HOSTILE, ordinal=99)
    answer = mia.post(back_to(policy, 3), {"opened_version": 4}, follow=True)
    assert "another policy is named" in answer.content.decode()
    policy.refresh_from_db()
    assert policy.archived_at is not None


def test_the_version_in_force_needs_no_going_back(mia: Client, policy: Policy) -> None:
    assert "there is nothing to do" in page(mia, back_to(policy, 3))
    said = mia.post(back_to(policy, 3), {"opened_version": 3}, follow=True).content.decode()
    assert "Nothing was changed: version 3, which is in force, says the same." in said
    assert policy.versions.count() == 3


def test_versions_without_content_and_none_at_all_are_not_found(mia: Client, policy: Policy) -> None:
    archive(policy, actor="test")
    missing = [back_to(policy, 4), back_to(policy, 5), back_to(policy, 10**30)]
    missing += [versions(Policy(pk=uuid4()))]
    assert [mia.get(url).status_code for url in missing] == [404] * 4


def test_others_policies_are_not_found_and_viewers_only_look(
    sign_in: SignIn, acme: Tenant, other: Tenant, policy: Policy
) -> None:
    stranger, viewer = sign_in("sam", other), sign_in("vic", acme, role=Role.VIEWER)
    assert [stranger.get(url).status_code for url in (versions(policy), back_to(policy, 1))] == [404, 404]
    assert stranger.post(back_to(policy, 1), {"opened_version": 3}).status_code == 404
    assert "Roll back" not in page(viewer, versions(policy))
    assert viewer.post(back_to(policy, 1), {"opened_version": 3}).status_code == 403
    assert daily(policy) == 60


def test_the_list_costs_the_same_however_many_versions(
    mia: Client, policy: Policy, django_assert_max_num_queries: object
) -> None:
    page(mia, versions(policy))
    with django_assert_max_num_queries(12):  # type: ignore[operator]
        page(mia, versions(policy))
