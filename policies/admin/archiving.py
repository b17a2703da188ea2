"""Archiving policies: first who would have felt it and why it is done; or a draft that archives them, to replay it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from audit import wording as audit_wording
from policies import policy_rows
from policies.admin.draft_forms import PublishForm
from policies.admin.felt import felt
from policies.admin.into_a_draft import REPLAY
from policies.changing import drafts, publishing
from policies.files.file_errors import PolicyFileError
from policies.models import Draft, Policy
from tenants.console.access import actor_of
from tenants.console.pages import rendered
from tenants.models import Environment


def answer(
    request: HttpRequest, policies: Sequence[Policy], *, back: str, action: str = ""
) -> HttpResponse | None:
    """For policies in force of one environment. None: they are archived, and a message says so.

    `back`: where "no" leads; `action`: by which rows of the list were chosen.
    """
    form = PublishForm(request.POST if "post" in request.POST else None)
    if policies and REPLAY in request.POST:
        return _into_a_draft(request, policies) or _ask(request, policies, form, back=back, action=action)
    if policies and form.is_valid():
        _archive(request, policies, note=form.cleaned_data["note"])
        return None
    return _ask(request, policies, form, back=back, action=action)


def _archive(request: HttpRequest, policies: Sequence[Policy], *, note: str) -> None:
    with transaction.atomic():
        for policy in policies:
            publishing.archive(policy, actor=actor_of(request), note=note)
    first, *others = policies
    what = f"{len(policies)} policies are" if others else f"The policy “{first}” is"
    messages.success(request, f"{what} archived.")


def _ask(
    request: HttpRequest, policies: Sequence[Policy], form: PublishForm, *, back: str, action: str
) -> HttpResponse:
    environment = policies[0].environment if policies else None
    return rendered(
        request,
        "console/policies/archive.html",
        f"Archive {policies[0]}" if len(policies) == 1 else "Archive policies",
        policies=policies,
        environment=environment,
        form=form,
        # Read when the page is written.
        felt=None if environment is None else partial(_felt, environment, policies),
        back=back,
        action=action,
        action_checkbox_name=ACTION_CHECKBOX_NAME,
    )


def _felt(environment: Environment, policies: Sequence[Policy]) -> object:
    archived = {str(policy.pk) for policy in policies}
    in_force = policy_rows.in_force(environment.pk)
    return felt(environment, [policy for policy in in_force if policy.ref.id not in archived])


def _into_a_draft(request: HttpRequest, policies: Sequence[Policy]) -> HttpResponse | None:
    """None: it was refused, and a message says why."""
    try:
        draft = _draft_without(policies, actor=actor_of(request))
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        return None
    said = f"The draft {draft.name} archives what you chose. Nothing changes before the draft is published."
    messages.success(request, said)
    return redirect(reverse("admin:policy_replays", query={"draft": draft.pk}))


def _draft_without(policies: Sequence[Policy], *, actor: str) -> Draft:
    name = f"Changes by {audit_wording.who(actor)}"
    with transaction.atomic():
        draft = drafts.begin(policies[0].environment, name, actor=actor)
        for policy in policies:
            draft = drafts.leave_out(draft, policy.name, edits=draft.edits, actor=actor)
    return draft
