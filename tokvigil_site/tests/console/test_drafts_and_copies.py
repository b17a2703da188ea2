"""The pages of drafts, and of copying policies to another environment."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from audit.models import Entry
from policies import policy_rows
from policies.changing import drafts, publishing
from policies.models import Draft, Policy
from policies.rules import Kind, LimitRule, Mode, ModelRules, PolicyRule, Scope, UnknownPrice
from tenants.console import display
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import submit
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

# Committed, as a page says since when a change is in force.
pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥 ?&#" + "x" * 60
DRAFTS = reverse("admin:policy_drafts")
COPY = reverse("admin:policies_copy")
FILE = """
plans: [free]
policies:
  - {name: Default, limits: [{metric: requests, window: day, amount: 50}]}
  - {name: Free, scope: {plan: free}, limits: [{metric: requests, window: day, amount: 5}]}
"""

LIMIT = {
    "limits-TOTAL_FORMS": "1",
    "limits-0-metric": "requests",
    "limits-0-window": "day",
    "limits-0-amount": "9",
    "limits-0-per": "user",
}
NONE = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=0, per=Per.USER)


@pytest.fixture(autouse=True)
def policies(prod: Environment, empty_store: None) -> None:
    apply_policies(prod, FILE)


@pytest.fixture
def draft(prod: Environment) -> Draft:
    """It monitors Free, and adds one with a hostile name."""
    begun = drafts.begin(prod, HOSTILE, actor="admin:mia")
    free = replace(drafts.rules_of(begun)["Free"], mode=Mode.MONITOR)
    begun = drafts.put(begun, free, instead_of="Free", edits=0, actor="admin:mia")
    return drafts.put(begun, PolicyRule(name=HOSTILE), instead_of=None, edits=1, actor="admin:mia")


def page(draft: Draft) -> str:
    return reverse("admin:policy_draft", args=[draft.pk])


def discarding(draft: Draft) -> str:
    return reverse("admin:policy_draft_discard", args=[draft.pk])


def read(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def post(client: Client, url: str, **fields: Any) -> str:
    response = client.post(url, fields, follow=True)
    assert response.status_code == 200
    return response.content.decode()


def change_live(environment: Environment, name: str) -> None:
    present = policy_rows.policy_set(environment)
    changed = tuple(replace(rule, priority=7) if rule.name == name else rule for rule in present.policies)
    publishing.publish(environment, replace(present, policies=changed), actor="admin:owen")


def test_a_draft_is_begun_for_the_environment_of_its_page(mia: Client, dev: Environment) -> None:
    assert "No draft yet" in read(mia, f"{DRAFTS}?environment=acme/dev")
    read(mia, f"{DRAFTS}?environment=acme/prod")
    begun = post(mia, DRAFTS, environment=dev.pk, name="Tighter")
    assert "Nothing yet. Change, add or archive a policy below." in begun
    assert Draft.objects.get().environment == dev
    assert "tv-field-errors" in post(mia, DRAFTS, environment=dev.pk, name=" ")
    assert "tv-field-errors" in post(mia, DRAFTS, environment=dev.pk, name="a\0b")


def test_a_draft_shows_what_it_changes_and_is_published(mia: Client, prod: Environment, draft: Draft) -> None:
    text = read(mia, page(draft))
    assert "<script>alert" not in text
    assert "Publish 2 changes" in text
    assert "Nobody is at or over" in text
    said = post(mia, page(draft), action="publish", edits=2, note="Costs are up")
    assert re.search(r"In force everywhere since \d\d:\d\d:\d\d, \d+\.\d s after it was published", said)
    assert prod.policies.get(name="Free").mode == "monitor"
    assert Entry.objects.filter(action="policy.changed").latest("pk").data["note"] == "Costs are up"
    assert "Publish" not in re.sub(r"Published|published", "", read(mia, page(draft)))


def test_a_draft_says_who_would_have_felt_it_on_the_last_day(
    mia: Client, prod: Environment, draft: Draft
) -> None:
    rules = [replace(rule, unknown_price=UnknownPrice.ALLOW) for rule in drafts.rules_of(draft).values()]
    publishing.publish(prod, replace(policy_rows.policy_set(prod), policies=tuple(rules)), actor="test")
    Api(prod).use("ana")
    tighter = drafts.begin(prod, "Tighter", actor="admin:mia")
    only = replace(drafts.rules_of(tighter)["Default"], models=ModelRules(allow=("gpt-*",)))
    drafts.put(tighter, only, instead_of="Default", edits=0, actor="admin:mia")
    text = read(mia, page(tighter))
    assert "Of 1 call, 1 would have been newly blocked" in text
    assert "Model not allowed, by <bdi>Default</bdi>: 1" in text
    assert escape(display.user_url(prod, "ana")) in text
    assert f"?draft={tighter.pk}" in text


def test_a_published_draft_keeps_what_it_changed(mia: Client, prod: Environment, draft: Draft) -> None:
    post(mia, page(draft), action="publish", edits=2, note="Costs are up")
    free = prod.policies.get(name="Free")
    published = Entry.objects.get(action="draft.published")
    assert published.data["note"] == "Costs are up"
    change_live(prod, "Free")
    text = read(mia, page(draft))
    for said in (
        "Costs are up",
        "by <bdi>mia</bdi>",
        "<bdi>enforce</bdi>",
        "<bdi>monitor</bdi>",
        "In force everywhere",
    ):
        assert said in text, said
    assert "<dd>since" in text
    assert "<bdi>7</bdi>" not in text, "what others changed later is not its own"
    assert 'name="action"' not in text
    versions = reverse("admin:policy_versions", args=[free.pk])
    assert f'href="{versions}?to=2#compared"' in text
    entry = reverse("admin:audit_entry_change", args=[published.pk])
    for linking in (versions, entry, reverse("admin:policies_policy_change", args=[free.pk])):
        assert f'href="{page(draft)}"' in read(mia, linking), linking
    assert "Costs are up" in read(mia, versions)
    Draft.objects.update(published_by="")
    draft.versions.update(draft=None)
    assert "before versions kept the draft" in read(mia, page(draft))


def test_live_that_moved_is_named_and_both_answers_are_offered(
    mia: Client, prod: Environment, draft: Draft
) -> None:
    change_live(prod, "Default")
    text = read(mia, page(draft))
    assert "Live has moved since this draft was begun" in text
    assert "It is not touched in this draft" in text
    assert 'disabled aria-describedby="choose"' in text
    assert "choose what shall be in force" in post(mia, page(draft), action="publish", edits=2)
    assert prod.policies.get(name="Free").mode == "enforce"
    assert "Live has moved" not in post(mia, page(draft), action="take", name="Default", edits=2)
    post(mia, page(draft), action="publish", edits=3)
    assert (prod.policies.get(name="Default").priority, prod.policies.get(name="Free").mode) == (7, "monitor")


def test_a_policy_of_a_draft_is_edited_left_out_and_added(mia: Client, draft: Draft) -> None:
    edit = reverse("admin:policy_of_draft", args=[draft.pk]) + "?as=text"
    assert "amount: 5," in read(mia, f"{edit}&name=Free")
    wrong = post(mia, f"{edit}&name=Free", text="name: Free\npriority: high", edits=2)
    assert "priority: must be a whole number" in wrong
    assert "priority: high" in wrong, "what was typed is kept"
    for text in ("[1]", "a: b: c", "x" * 300_000, "name: Default"):
        assert "tv-field-errors" in post(mia, f"{edit}&name=Free", text=text, edits=2), text[:20]
    post(mia, f"{edit}&name=Free", text="name: Free\npriority: 9", edits=2)
    post(mia, edit, text="name: Chat\nscope: {feature: chat}", edits=3)
    post(mia, page(draft), action="leave_out", name="Default", edits=4)
    assert "will be archived</b> when this draft is published" in read(mia, page(draft))
    draft.refresh_from_db()
    rules = drafts.rules_of(draft)
    assert (sorted(rules), rules["Free"].priority) == (sorted([HOSTILE, "Chat", "Free"]), 9)
    assert mia.get(f"{edit}&name=Nobody").status_code == 404
    assert "somebody else changed the draft" in post(
        mia, page(draft), action="leave_out", name="Chat", edits=0
    )


def test_a_policy_of_a_draft_has_the_form_of_one_in_force(
    mia: Client, draft: Draft, prod: Environment
) -> None:
    edit = reverse("admin:policy_of_draft", args=[draft.pk])
    free = prod.policies.get(name="Free")
    drafted = read(mia, f"{edit}?name=Free")
    live = read(mia, reverse("admin:policies_policy_edit", args=[free.pk]))
    fields = re.compile(r'<(?:input|select|textarea)[^>]* name="([^"]+)"')
    apart = {"edits", "opened_version"}
    assert set(fields.findall(drafted)) - apart == set(fields.findall(live)) - apart
    assert 'id="policy-preview"' in drafted
    assert re.search(r'name="limits-0-amount" value="5"', drafted)

    submit(
        mia, f"{edit}?name=Free", **{"limits-0-amount": "7", "name": "Free", "per_request_cost_usd": "0.05"}
    )
    submit(mia, edit, name="Chat", scope_plan="to come", **LIMIT)
    draft.refresh_from_db()
    rules = drafts.rules_of(draft)
    assert (rules["Free"].limits[0].amount, rules["Free"].mode) == (7, Mode.MONITOR)
    assert rules["Free"].per_request.cost_nano == 50_000_000
    assert rules["Chat"].scope.plan == "to come"
    assert policy_rows.rule_of(prod.policies.get(name="Free")).limits[0].amount == 5


def test_what_is_typed_into_a_draft_is_kept_if_it_cannot_be_put_in(mia: Client, draft: Draft) -> None:
    edit = reverse("admin:policy_of_draft", args=[draft.pk])
    typed = {"name": "Chat", "kind": "override", "mode": "monitor", "priority": "3", "on_unavailable": "block",
             "on_unsettled": "release", "unknown_price": "block", "limits-TOTAL_FORMS": "0",
             "limits-INITIAL_FORMS": "0", "environment": draft.environment_id, "edits": "2"}  # fmt: skip
    for wrong, said in (
        ({"name": "Default"}, "another policy of the draft is named"),
        ({"priority": "99999"}, "10000"),
        ({"edits": "1"}, "somebody else changed the draft"),
    ):
        text = post(mia, edit, **typed | wrong)
        assert said in text
        assert f'value="{wrong.get("name", "Chat")}"' in text
        assert f'value="{wrong.get("priority", "3")}"' in text
        assert 'name="edits" value="2"' in text, "it can be sent again"
    assert mia.get(f"{edit}?name=Nobody").status_code == 404


def test_the_form_in_a_draft_is_compared_with_the_draft(mia: Client, draft: Draft) -> None:
    preview = reverse("admin:policy_of_draft_preview", args=[draft.pk])
    drafts.put(draft, PolicyRule(name="Company", kind=Kind.GUARDRAIL), instead_of=None, edits=2, actor="test")
    text = mia.post(
        f"{preview}?name=Free", {"name": "Free", "kind": "override", "mode": "enforce"}
    ).content.decode()
    assert "<bdi>Company</bdi> applies as well" in text
    assert "<bdi>Free</bdi>" not in text, "it is not compared with itself"
    assert mia.get(preview).status_code == 405


def test_a_plan_that_is_missing_is_named_and_made_from_there(
    mia: Client, draft: Draft, prod: Environment
) -> None:
    gold = "gold & more"
    drafts.put(
        draft,
        PolicyRule(name="Gold", scope=Scope(plan=gold)),
        instead_of=None,
        edits=2,
        actor="admin:mia",
    )
    text = read(mia, page(draft))
    assert "There is no plan <bdi>gold &amp; more</bdi> yet" in text
    assert re.search(
        r"Make the plan .*Made at once, not with the draft; a plan alone changes no decision", text
    )
    assert 'disabled aria-describedby="choose"' in text
    make = f"{reverse('admin:policies_plan_add')}?name=gold%20%26%20more&draft={draft.pk}"
    assert make.replace("&draft", "&amp;draft") in text
    assert 'value="gold &amp; more"' in read(mia, make)
    answer = mia.post(make, {"environment": prod.pk, "name": gold})
    assert answer["Location"] == page(draft)
    text = read(mia, page(draft))
    assert "There is no plan" not in text
    assert "disabled" not in text
    assert "3 changes" in post(mia, page(draft), action="publish", edits=3)


def test_what_a_draft_does_to_a_policy_is_undone(mia: Client, draft: Draft, prod: Environment) -> None:
    post(mia, page(draft), action="leave_out", name="Default", edits=2)
    post(mia, page(draft), action="take", name="Default", edits=3)
    post(mia, page(draft), action="take", name="Free", edits=4)
    draft.refresh_from_db()
    assert [str(change.kind) for change in drafts.changes(draft)] == ["added"]


def test_a_draft_is_discarded(mia: Client, draft: Draft) -> None:
    assert discarding(draft) in read(mia, page(draft))
    before = Entry.objects.count()
    asked = read(mia, discarding(draft))
    for said in (
        "Free</bdi>: changed",
        "</bdi>: added",
        "What is in force stays as it is",
        f'href="{page(draft)}"',
    ):
        assert said in asked
    assert HOSTILE not in asked
    assert Entry.objects.count() == before, "asking changes nothing"
    assert "is discarded" in post(mia, discarding(draft), seen=draft.edits)
    assert [mia.get(url).status_code for url in (page(draft), discarding(draft))] == [404, 404]
    assert [entry.action for entry in Entry.objects.order_by("pk")[before:]] == ["draft.discarded"]


def test_a_draft_that_was_changed_since_the_question_is_not_discarded(mia: Client, draft: Draft) -> None:
    drafts.leave_out(draft, "Default", edits=draft.edits, actor="admin:owen")
    text = post(mia, discarding(draft), seen=draft.edits)
    assert "somebody else changed the draft meanwhile" in text
    assert "Default</bdi>: archived" in text
    assert f'name="seen" value="{draft.edits + 1}"' in text
    for seen in ("", "x", "-1"):
        post(mia, discarding(draft), seen=seen)
    assert Draft.objects.count() == 1


def test_an_empty_draft_is_discarded_and_a_published_one_is_not(
    mia: Client, draft: Draft, prod: Environment
) -> None:
    empty = drafts.begin(prod, "Empty", actor="admin:mia")
    assert "which changes nothing" in read(mia, discarding(empty))
    found = re.search(r'name="seen" value="(\d+)"', read(mia, discarding(empty)))
    assert found is not None
    assert "is discarded" in post(mia, discarding(empty), seen=found[1])
    drafts.publish(draft, edits=draft.edits, note="", actor="admin:mia")
    for answer in (mia.get(discarding(draft)), mia.post(discarding(draft), {"seen": draft.edits})):
        assert answer["Location"] == page(draft)
    assert Draft.objects.count() == 1


def test_a_draft_that_is_published_at_the_same_moment_is_not_said_to_be_discarded(
    mia: Client, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = drafts.discard

    def too_late(found: Draft, **options: Any) -> bool:
        drafts.publish(draft, edits=draft.edits, note="", actor="admin:owen")
        return discard(found, **options)

    monkeypatch.setattr(drafts, "discard", too_late)
    text = post(mia, discarding(draft), seen=draft.edits)
    assert "was published or discarded meanwhile" in text
    assert "is discarded" not in text
    assert Draft.objects.get().published_at is not None


def test_try_it_tints_where_the_draft_decides_otherwise(mia: Client, draft: Draft, prod: Environment) -> None:
    draft = drafts.put(
        draft,
        replace(drafts.rules_of(draft)["Default"], mode=Mode.ENFORCE, limits=()),
        instead_of="Default",
        edits=2,
        actor="test",
    )
    query: dict[str, Any] = {
        "draft": draft.pk,
        "user_id": "ana",
        "model": "m",
        "caller": "typed",
        "in": "draft",
    }
    text = mia.get(reverse("admin:try_it"), query).content.decode()
    assert "prod with the draft" in text
    assert "<bdi>Default</bdi>, as in the draft" in text
    assert "0 of 1 callers are decided otherwise" in text
    strict = replace(drafts.rules_of(draft)["Default"], limits=(NONE,))
    drafts.put(draft, strict, instead_of="Default", edits=3, actor="test")
    apply_policies(prod, "policies: [{name: Default, unknown_price: allow}]")
    text = mia.get(reverse("admin:try_it"), query).content.decode()
    assert "newly blocked" in text
    assert "1 of 1 callers is decided otherwise" in text


def test_strangers_find_no_draft_and_viewers_change_none(
    sign_in: SignIn, acme: Tenant, other: Tenant, draft: Draft
) -> None:
    stranger, viewer = sign_in("sam", other), sign_in("vic", acme, role=Role.VIEWER)
    edit = reverse("admin:policy_of_draft", args=[draft.pk])
    assert [stranger.get(url).status_code for url in (page(draft), edit, page(Draft(pk=10**30)))] == [404] * 3
    assert stranger.post(page(draft), {"action": "publish", "edits": 2}).status_code == 404
    assert stranger.post(discarding(draft), {"seen": 2}).status_code == 404
    assert [
        viewer.get(discarding(draft)).status_code,
        viewer.post(discarding(draft), {"seen": 2}).status_code,
    ] == [403, 403]
    assert "Publish" not in read(viewer, page(draft))
    for action in ("publish", "discard", "leave_out", "take", "keep", "nonsense"):
        assert viewer.post(page(draft), {"action": action, "edits": 2}).status_code == 403
    assert viewer.get(edit).status_code == 403
    assert viewer.post(DRAFTS, {"environment": draft.environment_id, "name": "x"}).status_code == 403
    assert Draft.objects.get().edits == 2


def test_copying_shows_the_difference_first(mia: Client, prod: Environment, dev: Environment) -> None:
    apply_policies(dev, 'policies: [{name: "Only here"}, {name: Default}]')
    text = read(mia, f"{COPY}?environment=acme/prod&to=dev")
    assert "Publish 3 changes in dev" in text
    assert "Only in <bdi>dev</bdi>, and kept: <bdi>Only here</bdi>" in text
    assert dev.policies.count() == 2
    form = dict(re.findall(r'<input type="hidden" name="(environment|to|looked_at)" value="([^"]*)">', text))
    said = post(mia, COPY, **form, note="Release 7")
    assert "3 changes in dev. In force everywhere since" in said
    assert {rule.name for rule in policy_rows.policy_set(dev).policies} == {"Default", "Free", "Only here"}
    assert "changed meanwhile" in post(mia, COPY, **form), "what was looked at is not what is there now"


def test_copying_shows_what_names_of_models_would_stand_for(
    mia: Client, prod: Environment, dev: Environment
) -> None:
    publishing.put_deployment(prod, "team-chat", "gpt-4o", actor="test")
    publishing.put_deployment(dev, "team-chat", "gpt-4", actor="test")
    assert "team-chat" not in read(mia, f"{COPY}?environment=acme/prod&to=dev")
    text = read(mia, f"{COPY}?environment=acme/prod&to=dev&deployments=yes")
    shown = text[text.index("Deployment <b><bdi>team-chat") :]
    assert shown.index("Changed") < shown.index("<bdi>gpt-4</bdi>") < shown.index("<bdi>gpt-4o</bdi>")
    form = dict(
        re.findall(
            r'<input type="hidden" name="(environment|to|looked_at|deployments)" value="([^"]*)">', text
        )
    )
    post(mia, COPY, **form)
    assert dev.deployments.get().model == "gpt-4o"


def test_one_policy_is_copied(mia: Client, prod: Environment, dev: Environment) -> None:
    free = prod.policies.get(name="Free")
    text = read(mia, f"{COPY}?policy={free.pk}&to=staging")
    assert "Publish 2 changes in staging" in text
    assert "says the same already" in read(mia, f"{COPY}?environment=acme/dev&to=staging")


@pytest.mark.parametrize("query", ["policy=x", "policy=%00", "to=nowhere", "to=%00", "policy=" + "9" * 40])
def test_what_cannot_be_copied_is_no_error_of_ours(mia: Client, query: str) -> None:
    assert mia.get(f"{COPY}?{query}").status_code in (200, 400, 404)


def test_copying_is_for_those_who_may_change_the_tenant(
    sign_in: SignIn, acme: Tenant, other: Tenant, prod: Environment
) -> None:
    stranger, viewer = sign_in("sam", other), sign_in("vic", acme, role=Role.VIEWER)
    free = prod.policies.get(name="Free")
    assert stranger.get(f"{COPY}?policy={free.pk}").status_code == 404
    assert viewer.get(f"{COPY}?policy={free.pk}&to=dev").status_code == 403
    assert viewer.post(COPY, {"environment": prod.pk, "to": "dev"}).status_code == 403
    stranger.post(COPY, {"environment": prod.pk, "to": "dev", "looked_at": "x"})
    assert not Policy.objects.exclude(environment=prod).exists()
