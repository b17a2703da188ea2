"""Drafts: changes of an environment's policies that are worked on before they are published together.

A draft keeps the policies as it wants them, and as they were in force when it was begun. Where live has moved since,
each policy that did is named and somebody chooses: what is in force, or what the draft says. Until then the draft is
not published, so that of two drafts neither undoes the other unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from audit import log as audit_log
from policies import policy_rows
from policies.changing import history, publishing
from policies.changing.publishing import AUDITED_DIFF_LENGTH_MAX, Change, PolicyChange
from policies.files import documents, policy_file
from policies.files.documents import unknown_plan
from policies.files.file_errors import FileError, PolicyFileError, refused
from policies.models import Draft, PolicyVersion
from policies.resolution import StoredPolicy
from policies.rules import PolicyRule, PolicySet
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import Environment

DRAFTS_MAX = 50
Rules = dict[str, PolicyRule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A policy that was published after the draft was begun. None: not in force, or not in the draft."""

    name: str
    base: PolicyRule | None
    live: PolicyRule | None
    drafted: PolicyRule | None

    @property
    def touched(self) -> bool:
        """Whether the draft changed it too."""
        return self.drafted != self.base


def base_of(draft: Draft) -> Rules:
    """The policies as the draft knows them to be in force."""
    return _rules(draft.base)


def rules_of(draft: Draft) -> Rules:
    """The policies as the draft wants them, by name, the oldest first."""
    return _rules(draft.policies)


def live_of(environment: Environment) -> Rules:
    return {rule.name: rule for rule in policy_rows.policy_set(environment).policies}


def _rules(found: Iterable[dict[str, object]]) -> Rules:
    rules = map(documents.rule_of, found)
    return {rule.name: rule for rule in rules}


def _documents(rules: Rules) -> list[dict[str, object]]:
    return [documents.document(rule) for rule in rules.values()]


def moved(draft: Draft, live: Rules) -> tuple[Moved, ...]:
    """Where live has changed since, other than the draft does."""
    base, wanted = base_of(draft), rules_of(draft)
    names = dict.fromkeys((*base, *live))
    return tuple(
        Moved(name=name, base=base.get(name), live=live.get(name), drafted=wanted.get(name))
        for name in names
        if live.get(name) not in (base.get(name), wanted.get(name))
    )


class Has(StrEnum):
    """What a draft does to a policy."""

    AS_LIVE = "as in force"
    CHANGED = "changed"
    ADDED = "added"
    LEFT_OUT = "left out"


def contents(draft: Draft, live: Rules) -> tuple[tuple[str, Has], ...]:
    """Every policy of the draft, then those in force that it leaves out."""
    wanted = rules_of(draft)
    left_out = [name for name in live if name not in wanted]
    return (
        *((name, _has(rule, live.get(name))) for name, rule in wanted.items()),
        *((name, Has.LEFT_OUT) for name in left_out),
    )


def _has(rule: PolicyRule, live: PolicyRule | None) -> Has:
    if live is None:
        return Has.ADDED
    return Has.AS_LIVE if rule == live else Has.CHANGED


def changes(draft: Draft) -> tuple[Change, ...]:
    """What publishing it would do now. Raises PolicyFileError as publishing does."""
    return publishing.plan_changes(draft.environment, wanted(draft))


def wanted(draft: Draft) -> PolicySet:
    """With the plans as they are: they are no part of a draft."""
    plans = draft.environment.plans.order_by("name").values_list("name", flat=True)
    return PolicySet(plans=tuple(plans), policies=tuple(rules_of(draft).values()))


def stored(draft: Draft) -> list[StoredPolicy]:
    """As if they were in force (`policy_rows.supposed`)."""
    return policy_rows.supposed(draft.environment_id, rules_of(draft).values())


@dataclass(frozen=True, slots=True)
class MissingPlan:
    """A plan that policies of a draft are for, and that there is not yet."""

    name: str
    policies: tuple[str, ...]


def missing_plans(draft: Draft) -> tuple[MissingPlan, ...]:
    """While there are any, the draft is not published."""
    named: dict[str, list[str]] = {}
    for rule in rules_of(draft).values():
        if rule.scope.plan:
            named.setdefault(rule.scope.plan, []).append(rule.name)
    present = set(draft.environment.plans.filter(name__in=named).values_list("name", flat=True))
    return tuple(MissingPlan(name, tuple(of)) for name, of in named.items() if name not in present)


def begin(
    environment: Environment,
    name: str,
    *,
    actor: str,
    rule: PolicyRule | None = None,
    instead_of: str | None = None,
) -> Draft:
    """One that changes nothing yet, or this policy (as `put` does). Raises PolicyFileError."""
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        if environment.drafts.filter(published_at=None).count() >= DRAFTS_MAX:
            raise refused("name", f"an environment has at most {DRAFTS_MAX} drafts; discard one first")
        live = live_of(environment)
        draft = Draft(environment=environment, name=name[:TITLE_LENGTH_MAX], author=actor)
        draft.base, draft.policies = _documents(live), _documents(_with_rule(live, rule, instead_of))
        draft.save(force_insert=True)
        said = {} if rule is None else {"diff": _diff(live.get(instead_of or ""), rule)}
        _log("draft.begun", draft, environment, **said)
    return draft


def add_to_own(
    environment: Environment, rule: PolicyRule, *, instead_of: str | None, name: str, actor: str
) -> Draft:
    """Puts the policy into the newest open draft of this person that does not change it yet, else into a new one.

    `name` is that of a new one. Raises PolicyFileError.
    """
    for draft in environment.drafts.filter(author=actor, published_at=None).order_by("-begun_at", "-pk"):
        wanted, base = rules_of(draft), base_of(draft)
        names = {rule.name, instead_of or rule.name}
        if all(wanted.get(each) == base.get(each) for each in names):
            return put(draft, rule, instead_of=instead_of, edits=draft.edits, actor=actor)
    return begin(environment, name, actor=actor, rule=rule, instead_of=instead_of)


def put(draft: Draft, rule: PolicyRule, *, instead_of: str | None, edits: int, actor: str) -> Draft:
    """Adds a policy to the draft or, in the place of the one of that name, changes it. Raises PolicyFileError."""
    with transaction.atomic():
        opened = _opened(draft, edits)
        rules = rules_of(opened)
        before = rules.get(instead_of or "")
        errors = objections(opened, rule, instead_of=instead_of)
        if errors:
            raise PolicyFileError(*errors)
        return _save(opened, _with_rule(rules, rule, instead_of), before, rule, actor)


def _with_rule(rules: Rules, rule: PolicyRule | None, instead_of: str | None) -> Rules:
    """In the place of the one of that name, or at the end."""
    if rule is None:
        return rules
    before = rules.get(instead_of or "")
    if before is None:
        return rules | {rule.name: rule}
    return {
        (rule if each is before else each).name: rule if each is before else each for each in rules.values()
    }


def objections(draft: Draft, rule: PolicyRule, *, instead_of: str | None) -> tuple[FileError, ...]:
    """What stands against putting the policy into the draft."""
    if rule.name == instead_of or rule.name not in rules_of(draft):
        return ()
    return (FileError("name", f"another policy of the draft is named {rule.name!r}; choose another name"),)


def leave_out(draft: Draft, name: str, *, edits: int, actor: str) -> Draft:
    """Has the draft archive the policy; of one that it added, nothing is left. Raises PolicyFileError."""
    with transaction.atomic():
        opened = _opened(draft, edits)
        rules = rules_of(opened)
        before = rules.pop(name, None)
        return opened if before is None else _save(opened, rules, before, None, actor)


def settle(draft: Draft, name: str, *, take_live: bool, edits: int, actor: str) -> Draft:
    """Takes what is in force of a policy into the draft or, where live has moved, keeps what the draft says.

    Either way the draft knows from then on what is in force. Raises PolicyFileError.
    """
    with transaction.atomic():
        opened = _opened(draft, edits)
        live, rules, base = live_of(opened.environment), rules_of(opened), base_of(opened)
        opened.base = _documents(_with(base, name, live.get(name)))
        before = rules.get(name)
        after = live.get(name) if take_live else before
        return _save(opened, _with(rules, name, after), before, after, actor)


def _with(rules: Rules, name: str, rule: PolicyRule | None) -> Rules:
    """In its place, if it has one."""
    found = {each: rules[each] for each in rules if each != name or rule is not None}
    return found if rule is None else {**found, name: rule}


def discard(draft: Draft, *, edits: int | None = None, actor: str) -> bool:
    """Whether it did: again, and of a published one, it does nothing.

    `edits`: as many as whoever discards it has seen. Raises PolicyFileError if there are others.
    """
    with audit_log.acting_as(actor), transaction.atomic():
        found = Draft.objects.select_for_update().filter(pk=draft.pk, published_at=None).first()
        if found is None:
            return False
        if edits not in (None, found.edits):
            raise _changed_meanwhile()
        _log("draft.discarded", found, draft.environment)
        found.delete()
    return True


def publish(draft: Draft, *, edits: int, note: str, actor: str) -> tuple[Change, ...]:
    """Makes it what is in force.

    Raises PolicyFileError, also for a plan that is missing, and if live has moved and nobody has chosen yet.
    """
    environment = draft.environment
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        opened = _opened(draft, edits)
        unsettled = moved(opened, live_of(environment))
        if unsettled:
            names = ", ".join(each.name for each in unsettled)
            raise refused(
                "", f"live has moved since the draft was begun: {names}; choose what shall be in force"
            )
        missing = missing_plans(opened)
        if missing:
            raise PolicyFileError(
                *(unknown_plan(f"the policy {each.policies[0]}", each.name) for each in missing)
            )
        done = publishing.publish(environment, wanted(opened), actor=actor, note=note, draft=opened)
        opened.published_at, opened.published_by, opened.note = timezone.now(), actor, note
        opened.save(update_fields=["published_at", "published_by", "note"])
        _log("draft.published", opened, environment, changes=len(done), note=note)
    return done


def keep_in_force(draft: Draft, at: datetime | None) -> None:
    """Keeps since when a published draft is known to bind every call."""
    Draft.objects.filter(pk=draft.pk).exclude(published_at=None).update(in_force_at=at)


def published_changes(draft: Draft) -> tuple[PolicyChange, ...]:
    """What publishing it changed, by the versions that it made."""
    made = list(draft.versions.order_by("pk"))
    before = Q()
    for version in made:
        before |= Q(policy=version.policy_id, version=version.version - 1)
    earlier = {found.policy_id: found for found in PolicyVersion.objects.filter(before)} if made else {}
    return tuple(
        PolicyChange(
            before=history.rule_at(earlier.get(version.policy_id)),
            after=history.rule_at(version),
            version=version.version,
            policy_id=version.policy_id,
        )
        for version in made
    )


def _opened(draft: Draft, edits: int) -> Draft:
    """Locked. `edits`: as many as whoever changes it has seen. Raises PolicyFileError."""
    found = Draft.objects.select_for_update().select_related(None).filter(pk=draft.pk).first()
    if found is None or found.published_at is not None:
        raise refused("", "the draft was published or discarded meanwhile")
    if found.edits != edits:
        raise _changed_meanwhile()
    found.environment = draft.environment
    return found


def _changed_meanwhile() -> PolicyFileError:
    return refused("", "somebody else changed the draft meanwhile; look at it again")


def _save(
    draft: Draft, rules: Rules, before: PolicyRule | None, after: PolicyRule | None, actor: str
) -> Draft:
    draft.policies = _documents(rules)
    draft.edits += 1
    draft.save(update_fields=["base", "policies", "edits"])
    diff = _diff(before, after)
    with audit_log.acting_as(actor):
        _log("draft.changed", draft, draft.environment, diff=diff)
    return draft


def _diff(before: PolicyRule | None, after: PolicyRule | None) -> str:
    return "\n".join(policy_file.diff(before, after))[:AUDITED_DIFF_LENGTH_MAX]


def _log(action: str, draft: Draft, environment: Environment, /, **data: object) -> None:
    audit_log.log(action, draft, tenant_id=environment.tenant_id, environment=environment.slug, **data)
