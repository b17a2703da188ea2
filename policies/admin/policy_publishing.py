"""From the form of a policy into force: first what would change and who feels it, then published; or into a draft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from audit import wording as audit_wording
from policies import policy_rows
from policies.admin import changes, policy_page, policy_preview
from policies.admin.draft_forms import PublishForm
from policies.admin.policy_form_page import Button
from policies.admin.policy_forms import INTO_A_DRAFT, PUBLISH
from policies.changing import drafts, history, publishing, taking_effect
from policies.changing.history import Step
from policies.changing.publishing import PolicyChange
from policies.describing import differences
from policies.files.file_errors import PolicyFileError
from policies.models import Policy
from policies.rules import PolicyRule
from tenants.console.access import actor_of
from tenants.console.pages import rendered
from tenants.models import Environment

REVIEW = Button("_review", "Publish…")
# Into a draft, then to the form that replays it.
REPLAY = "_replay"
TO_A_DRAFT = Button(INTO_A_DRAFT, "Save to a draft")
# What the confirmation says itself.
_OWN = {"csrfmiddlewaretoken", "note", "opened_version"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A policy as the form has it. `stored`: as it is in force; None: it is new."""

    environment: Environment
    rule: PolicyRule
    stored: Policy | None
    # That was the latest when the form was opened.
    opened_version: int | None

    @property
    def before(self) -> PolicyRule | None:
        return None if self.stored is None else policy_rows.rule_of(self.stored)

    @property
    def version(self) -> int:
        """That it would be."""
        return 1 if self.stored is None else self.stored.version + 1


def answer(request: HttpRequest, typed: Typed) -> HttpResponse:
    """What the button asks for; without one that publishes, or if it is refused, what would change."""
    form = PublishForm(request.POST)
    if INTO_A_DRAFT in request.POST or REPLAY in request.POST:
        return _into_a_draft(request, typed, form)
    if PUBLISH in request.POST and form.is_valid():
        # If something stands against it, the review says what.
        with suppress(PolicyFileError):
            return _publish(request, typed, note=form.cleaned_data["note"])
    return _review(request, typed, form)


def _publish(request: HttpRequest, typed: Typed, *, note: str) -> HttpResponse:
    row = publishing.publish_one(
        typed.environment,
        typed.rule,
        actor=actor_of(request),
        note=note,
        policy_id=None if typed.stored is None else typed.stored.pk,
    )
    transaction.on_commit(partial(_say, request, typed, row))
    return redirect("admin:policies_policy_change", row.pk)


def _say(request: HttpRequest, typed: Typed, row: Policy) -> None:
    if row.version != typed.version:
        messages.info(request, f"Nothing was changed: {row.name} says so already.")
        return
    effect = taking_effect.of(typed.environment)
    messages.success(request, f"{row.name} is published as version {row.version}. {effect}")


def _into_a_draft(request: HttpRequest, typed: Typed, form: PublishForm) -> HttpResponse:
    actor = actor_of(request)
    try:
        draft = drafts.add_to_own(
            typed.environment,
            typed.rule,
            instead_of=None if typed.stored is None else typed.stored.name,
            name=f"Changes by {audit_wording.who(actor)}",
            actor=actor,
        )
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        return _review(request, typed, form)
    said = (
        f"{typed.rule.name} is in the draft {draft.name}. Nothing is in force before the draft is published."
    )
    messages.success(request, said)
    if REPLAY in request.POST:
        return redirect(reverse("admin:policy_replays", query={"draft": draft.pk}))
    return redirect("admin:policy_draft", draft.pk)


def _review(request: HttpRequest, typed: Typed, form: PublishForm) -> HttpResponse:
    lines = differences.compare(typed.before, typed.rule)
    stored = typed.stored
    change = PolicyChange(before=typed.before, after=typed.rule, version=typed.version)
    return rendered(
        request,
        "console/policies/publish.html",
        f"Publish {typed.rule.name}?",
        typed=typed,
        form=form,
        lines=lines,
        changes_something=any(line.differs for line in lines),
        old_title="Not there yet" if stored is None else f"In force, version {stored.version}",
        new_title=f"As typed, version {typed.version}",
        moved=tuple(_moved(typed)),
        warnings=policy_preview.concerns(
            typed.environment,
            typed.rule,
            policy_page.others_in_force(typed.environment.pk, None if stored is None else stored.pk),
            ordinal=None if stored is None else stored.ordinal,
        ),
        refused=publishing.objections(
            typed.environment, typed.rule, policy_id=None if stored is None else stored.pk
        ),
        # Read when the page is written: by then nothing is locked.
        over=partial(changes.over, typed.environment, [change]),
        kept=[
            (name, value)
            for name, values in request.POST.lists()
            if name not in _OWN and not name.startswith("_")
            for value in values
        ],
        opened_version="" if stored is None else stored.version,
    )


def _moved(typed: Typed) -> Iterator[Step]:
    """The versions that others published since the form was opened."""
    if typed.stored is None or typed.opened_version is None:
        return
    for step in history.steps(typed.stored):
        if step.number > typed.opened_version:
            yield step
