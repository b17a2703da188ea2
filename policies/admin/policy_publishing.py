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

from policies import policy_rows
from policies.admin import changes, into_a_draft, policy_preview
from policies.admin.draft_forms import PublishForm
from policies.admin.felt import felt
from policies.admin.policy_form_page import Button
from policies.admin.policy_forms import INTO_A_DRAFT, PUBLISH
from policies.changing import history, publishing, taking_effect
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
    if into_a_draft.is_asked(request):
        stored_name = None if typed.stored is None else typed.stored.name
        put = into_a_draft.put(request, typed.environment, typed.rule, instead_of=stored_name)
        return put or _review(request, typed, form)
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


def _review(request: HttpRequest, typed: Typed, form: PublishForm) -> HttpResponse:
    lines = differences.compare(typed.before, typed.rule)
    stored = typed.stored
    ordinal = None if stored is None else stored.ordinal
    others = policy_rows.in_force(typed.environment.pk, without=None if stored is None else stored.pk)
    supposed = policy_rows.with_one(others, typed.rule, ordinal=ordinal, version=typed.version)
    change = PolicyChange(before=typed.before, after=typed.rule, version=typed.version)
    return rendered(
        request,
        "console/policies/publish.html",
        f"Publish {typed.rule.name}?",
        typed=typed,
        form=form,
        lines=lines,
        changes_something=not differences.same(typed.before, typed.rule),
        old_title="Not there yet" if stored is None else f"In force, version {stored.version}",
        new_title=f"As typed, version {typed.version}",
        moved=tuple(_moved(typed)),
        warnings=policy_preview.concerns(typed.environment, typed.rule, others, ordinal=ordinal),
        refused=publishing.objections(
            typed.environment, typed.rule, policy_id=None if stored is None else stored.pk
        ),
        environment=typed.environment,
        # Read when the page is written: by then nothing is locked.
        felt=partial(felt, typed.environment, supposed),
        affected=partial(changes.affected, typed.environment, [change], supposed),
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
