"""Drafts: worked on, then published together; what was published meanwhile is never undone unseen."""

from dataclasses import replace
from threading import Barrier, Thread

import pytest
from django.db import connection

from audit.models import Entry
from policies import policy_rows
from policies.changing import drafts, publishing
from policies.changing.publishing import publish
from policies.files.file_errors import PolicyFileError
from policies.files.policy_file import parse
from policies.models import Draft
from policies.rules import Mode, PolicyRule, Scope
from tenants.models import Environment, Tenant

FILE = """
version: 1
plans: [free]
policies:
  - {name: Default, unknown_price: allow, limits: [{metric: requests, window: day, amount: 50}]}
  - {name: Free, unknown_price: allow, scope: {plan: free}, limits: [{metric: requests, window: day, amount: 5}]}
"""
WATCHED = Mode.MONITOR


@pytest.fixture
def prod(db: None) -> Environment:
    environment = Tenant.create_with_environments("acme").environments.get(slug="prod")
    publish(environment, parse(FILE), actor="test")
    return environment


@pytest.fixture
def draft(prod: Environment) -> Draft:
    return drafts.begin(prod, "Tighter", actor="admin:mia")


def live(environment: Environment) -> dict[str, PolicyRule]:
    return drafts.live_of(environment)


def put(draft: Draft, rule: PolicyRule, instead_of: str | None = None) -> Draft:
    draft.refresh_from_db()
    return drafts.put(draft, rule, instead_of=instead_of, edits=draft.edits, actor="admin:mia")


def watch(draft: Draft, name: str) -> Draft:
    return put(draft, replace(drafts.rules_of(draft)[name], mode=WATCHED), name)


def change_live(environment: Environment, name: str, **fields: object) -> None:
    found = live(environment) | {name: replace(live(environment)[name], **fields)}  # type: ignore[arg-type]
    publish(
        environment,
        replace(policy_rows.policy_set(environment), policies=tuple(found.values())),
        actor="admin:owen",
    )


def test_a_draft_changes_nothing_until_it_is_published(prod: Environment, draft: Draft) -> None:
    before = live(prod)
    watch(draft, "Free")
    added = put(draft, PolicyRule(name="Chat", scope=Scope(feature="chat")))
    left = drafts.leave_out(added, "Default", edits=added.edits, actor="admin:mia")
    assert live(prod) == before
    assert [str(change) for change in drafts.changes(left)] == [
        "policy 'Free': changed, version 2",
        "policy 'Chat': added, version 1",
        "policy 'Default': archived, version 2",
    ]
    count = Entry.objects.count()
    drafts.publish(left, edits=left.edits, note="Costs are up", actor="admin:mia")
    assert list(live(prod)) == ["Free", "Chat"]
    assert live(prod)["Free"].mode is WATCHED
    entries = list(Entry.objects.order_by("pk")[count:])
    assert [entry.action for entry in entries] == [
        "policy.changed", "policy.added", "policy.archived", "draft.published",
    ]  # fmt: skip
    assert {entry.data["note"] for entry in entries} == {"Costs are up"}


def test_where_live_has_moved_both_are_named_and_nothing_is_published(
    prod: Environment, draft: Draft
) -> None:
    watch(draft, "Free")
    change_live(prod, "Default", priority=3)
    change_live(prod, "Free", priority=4)
    draft.refresh_from_db()
    found = {each.name: each.touched for each in drafts.moved(draft, live(prod))}
    assert found == {"Default": False, "Free": True}
    with pytest.raises(PolicyFileError, match="live has moved since the draft was begun: Default, Free"):
        drafts.publish(draft, edits=draft.edits, note="", actor="admin:mia")
    assert live(prod)["Free"].priority == 4


def test_of_what_moved_somebody_takes_what_is_in_force_or_keeps_the_draft(
    prod: Environment, draft: Draft
) -> None:
    watch(draft, "Free")
    change_live(prod, "Default", priority=3)
    change_live(prod, "Free", priority=4)
    draft.refresh_from_db()
    taken = drafts.settle(draft, "Default", take_live=True, edits=draft.edits, actor="admin:mia")
    kept = drafts.settle(taken, "Free", take_live=False, edits=taken.edits, actor="admin:mia")
    assert drafts.moved(kept, live(prod)) == ()
    drafts.publish(kept, edits=kept.edits, note="", actor="admin:mia")
    assert (live(prod)["Default"].priority, live(prod)["Free"].mode, live(prod)["Free"].priority) == (
        3,
        WATCHED,
        0,
    )


def test_a_policy_that_was_archived_or_added_meanwhile_counts_as_moved(
    prod: Environment, draft: Draft
) -> None:
    only_new = (live(prod)["Default"], PolicyRule(name="New"))
    publish(prod, replace(policy_rows.policy_set(prod), policies=only_new), actor="test")
    assert [each.name for each in drafts.moved(draft, live(prod))] == ["Free", "New"]
    for name in ("Free", "New"):
        draft = drafts.settle(draft, name, take_live=True, edits=draft.edits, actor="test")
    assert list(drafts.rules_of(draft)) == ["Default", "New"]
    assert drafts.changes(draft) == ()


def test_live_that_moved_to_what_the_draft_says_is_no_conflict(prod: Environment, draft: Draft) -> None:
    watch(draft, "Free")
    change_live(prod, "Free", mode=WATCHED)
    draft.refresh_from_db()
    assert drafts.moved(draft, live(prod)) == ()


def test_of_two_drafts_the_later_one_does_not_undo_the_earlier_unseen(
    prod: Environment, draft: Draft
) -> None:
    other = drafts.begin(prod, "Other", actor="admin:owen")
    watch(draft, "Free")
    put(other, replace(live(prod)["Free"], priority=9), "Free")
    drafts.publish(draft, edits=1, note="", actor="admin:mia")
    with pytest.raises(PolicyFileError, match="live has moved"):
        drafts.publish(other, edits=1, note="", actor="admin:owen")
    assert live(prod)["Free"].mode is WATCHED


@pytest.mark.django_db(transaction=True)
def test_of_two_drafts_published_at_once_one_is_refused(environment: Environment) -> None:
    publish(environment, parse(FILE), actor="test")
    both = [drafts.begin(environment, str(number), actor="test") for number in range(2)]
    for number, each in enumerate(both):
        put(each, replace(live(environment)["Free"], priority=number + 1), "Free")
    barrier, refused = Barrier(2), []

    def publish_it(each: Draft) -> None:
        barrier.wait(timeout=10)
        try:
            drafts.publish(each, edits=1, note="", actor="test")
        except PolicyFileError as error:
            refused.append(str(error))
        finally:
            connection.close()

    threads = [Thread(target=publish_it, args=[each]) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert environment.policies.get(name="Free").version == 2
    assert Draft.objects.exclude(published_at=None).count() == 1


def test_nobody_overwrites_a_change_of_the_draft_that_they_have_not_seen(draft: Draft) -> None:
    watch(draft, "Free")
    with pytest.raises(PolicyFileError, match="somebody else changed the draft"):
        drafts.leave_out(draft, "Default", edits=0, actor="admin:owen")
    with pytest.raises(PolicyFileError, match="somebody else changed the draft"):
        drafts.publish(draft, edits=0, note="", actor="admin:owen")


def test_what_is_published_or_discarded_is_changed_no_more(draft: Draft) -> None:
    drafts.publish(draft, edits=0, note="", actor="test")
    with pytest.raises(PolicyFileError, match="published or discarded"):
        drafts.publish(draft, edits=0, note="", actor="test")
    drafts.discard(draft, actor="test")
    assert Draft.objects.count() == 1


def test_a_name_that_is_taken_is_refused(draft: Draft) -> None:
    with pytest.raises(PolicyFileError, match="another policy of the draft is named 'Free'"):
        put(draft, PolicyRule(name="Free"))


def test_a_plan_may_be_named_before_there_is_one_and_must_be_there_when_it_is_published(
    prod: Environment, draft: Draft
) -> None:
    draft = put(draft, PolicyRule(name="Gold", scope=Scope(plan="gold")))
    assert drafts.missing_plans(draft) == (drafts.MissingPlan("gold", ("Gold",)),)
    with pytest.raises(PolicyFileError, match="the policy Gold: there is no plan 'gold'"):
        drafts.publish(draft, edits=1, note="", actor="test")
    assert not prod.policies.filter(name="Gold").exists()
    publishing.add_plan(prod, "gold", actor="test")
    assert drafts.missing_plans(draft) == ()
    drafts.publish(draft, edits=1, note="", actor="test")
    assert prod.policies.get(name="Gold").scope_plan == "gold"
