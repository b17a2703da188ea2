"""A policy goes into a draft instead of into force, and from there to the form that replays it, if that is asked."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from audit import wording as audit_wording
from policies.admin.policy_forms import INTO_A_DRAFT
from policies.changing import drafts
from policies.files.file_errors import PolicyFileError
from policies.rules import PolicyRule
from tenants.console.access import actor_of
from tenants.models import Environment

# The button that also leads to the form that replays the draft.
REPLAY = "_replay"


def is_asked(request: HttpRequest) -> bool:
    return INTO_A_DRAFT in request.POST or REPLAY in request.POST


def put(
    request: HttpRequest, environment: Environment, rule: PolicyRule, *, instead_of: str | None
) -> HttpResponse | None:
    """None: it was refused, and a message says why."""
    actor = actor_of(request)
    try:
        draft = drafts.add_to_own(
            environment,
            rule,
            instead_of=instead_of,
            name=f"Changes by {audit_wording.who(actor)}",
            actor=actor,
        )
    except PolicyFileError as error:
        messages.error(request, f"Nothing was changed: {error}.")
        return None
    said = f"{rule.name} is in the draft {draft.name}. Nothing is in force before the draft is published."
    messages.success(request, said)
    if REPLAY in request.POST:
        return redirect(reverse("admin:policy_replays", query={"draft": draft.pk}))
    return redirect("admin:policy_draft", draft.pk)
