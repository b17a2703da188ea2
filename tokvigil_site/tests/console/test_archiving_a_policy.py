"""Before a policy is archived it is said who would have felt it, and asked why; so for several at once."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from policies.blocked.decision_log import drain
from policies.changing import drafts, publishing
from policies.models import NOTE_LENGTH_MAX, Draft, Policy
from policies.replaying import at_once
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import fields_of

pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = "<script>alert(1)</script>"
FILE = f"""
policies:
  - {{name: Default, unknown_price: allow, limits: [{{metric: requests, window: day, amount: 50}}]}}
  - name: "{HOSTILE}"
    kind: guardrail
    unknown_price: allow
    limits: [{{metric: requests, window: day, amount: 1, per: user}}]
"""
LIST = reverse("admin:policies_policy_changelist")


@pytest.fixture(autouse=True)
def guardrail(prod: Environment, empty_store: None) -> Policy:
    apply_policies(prod, FILE)
    return prod.policies.get(name=HOSTILE)


@pytest.fixture
def blocked(prod: Environment) -> None:
    """One call of two, by the guardrail."""
    api = Api(prod)
    api.use("ana")
    assert not api.evaluate("ana")["allowed"]
    drain(prod)


def address(policy: Policy) -> str:
    return reverse("admin:policies_policy_delete", args=[policy.pk])


def chosen(environment: Environment, **body: Any) -> dict[str, Any]:
    ids = [str(pk) for pk in environment.policies.order_by("ordinal").values_list("pk", flat=True)]
    return {"action": "delete_selected", "_selected_action": ids, **body}


def archived(environment: Environment) -> list[tuple[str, str]]:
    """The note and the actor of each entry."""
    entries = Entry.objects.filter(action="policy.archived", tenant_id=environment.tenant_id).order_by("seq")
    return [(entry.data.get("note", ""), entry.actor) for entry in entries]


def test_who_would_have_felt_it_is_said_first(mia: Client, guardrail: Policy, blocked: None) -> None:
    page = mia.get(address(guardrail)).content.decode()
    assert "Of 2 calls, 1 would have been newly allowed" in page
    assert ">ana</" in page
    assert f"“<bdi>{HOSTILE.replace('<', '&lt;').replace('>', '&gt;')}</bdi>” of acme/prod?" in page
    assert "<script>alert" not in page
    guardrail.refresh_from_db()
    assert guardrail.archived_at is None, "asking changes nothing"


def test_why_it_is_archived_stands_with_its_version_and_in_the_audit_log(
    mia: Client, prod: Environment, guardrail: Policy
) -> None:
    page = mia.get(address(guardrail)).content.decode()
    assert "Why (optional" in page
    said = mia.post(address(guardrail), {**fields_of(page), "note": "The pilot is over."}, follow=True)
    assert "is archived." in said.content.decode()
    guardrail.refresh_from_db()
    assert guardrail.archived_at is not None
    assert guardrail.versions.get(version=2).note == "The pilot is over."
    assert archived(prod) == [("The pilot is over.", "admin:mia")]
    assert mia.post(address(guardrail), {"post": "yes"}).status_code == 403
    assert len(archived(prod)) == 1


def test_a_note_that_is_too_long_is_refused_beside_it_and_kept(
    mia: Client, prod: Environment, guardrail: Policy
) -> None:
    note = "x" * (NOTE_LENGTH_MAX + 1)
    for url, body in ((address(guardrail), {"post": "yes"}), (LIST, chosen(prod, post="yes"))):
        page = mia.post(url, {**body, "note": note}).content.decode()
        assert f"at most {NOTE_LENGTH_MAX} characters" in page
        assert note in page
    assert archived(prod) == []


def test_several_are_archived_with_what_they_mean_together_and_one_reason(
    mia: Client, prod: Environment, blocked: None
) -> None:
    page = mia.post(LIST, chosen(prod)).content.decode()
    assert "Archive these policies of acme/prod?" in page
    assert "Of 2 calls, 1 would have been newly allowed" in page
    assert "<script>alert" not in page
    assert archived(prod) == []
    sent = fields_of(page)
    assert sent["action"] == ["delete_selected"]
    said = mia.post(LIST, sent | {"note": "We start anew."}, follow=True)
    assert "2 policies are archived." in said.content.decode()
    assert archived(prod) == [("We start anew.", "admin:mia")] * 2
    assert not Policy.objects.in_force(prod.pk).exists()


def test_of_several_of_which_one_is_archived_none_is(
    mia: Client, prod: Environment, guardrail: Policy
) -> None:
    publishing.archive(guardrail, actor="test")
    page = mia.post(f"{LIST}?archived=yes", chosen(prod, post="yes", _selected_action=[guardrail.pk]))
    assert "or they are archived already" in page.content.decode()
    assert archived(prod) == [("", "test")]


def test_with_too_many_calls_it_goes_into_a_draft_to_be_replayed(
    mia: Client, prod: Environment, guardrail: Policy, blocked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_once, "AT_ONCE_MAX", 1)
    page = mia.get(address(guardrail)).content.decode()
    assert "Replay them to see who would have felt it." in page
    answer = mia.post(address(guardrail), {"post": "yes", "_replay": "yes"}, follow=True)
    draft = Draft.objects.get(environment=prod)
    assert answer.redirect_chain[-1][0] == reverse("admin:policy_replays", query={"draft": draft.pk})
    assert [*drafts.rules_of(draft)] == ["Default"]
    assert archived(prod) == []
    guardrail.refresh_from_db()
    assert guardrail.archived_at is None


def test_who_may_not_archive_is_not_asked(
    sign_in: SignIn, acme: Tenant, other: Tenant, prod: Environment, guardrail: Policy
) -> None:
    viewer, stranger = sign_in("vic", acme, role=Role.VIEWER), sign_in("sam", other)
    for body in ({"post": "yes"}, {"post": "yes", "_replay": "yes"}):
        assert viewer.post(address(guardrail), body).status_code == 403
        stranger.post(address(guardrail), body)
        for client in (viewer, stranger):
            client.post(LIST, chosen(prod, **body))
    assert viewer.get(address(guardrail)).status_code == 403
    assert (archived(prod), Draft.objects.count()) == ([], 0)
