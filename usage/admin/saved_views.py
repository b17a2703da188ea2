"""Saved views of the Explorer: saving the question of the address, renaming, sharing and deleting."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from tenants.console import environments
from tenants.console.access import actor_of, may
from tenants.console.pages import page, rendered
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.roles import May
from usage.admin import question_words
from usage.admin.explorer_form import ExplorerAsked
from usage.analytics import saved_views
from usage.analytics.models import QUERY_LENGTH_MAX, SavedView
from usage.analytics.saved_views import Refused


class ViewForm(forms.Form):
    name = forms.CharField(
        max_length=TITLE_LENGTH_MAX,
        widget=forms.TextInput(attrs={"class": "tv-input"}),
        help_text="Such as: Spend of the free plan.",
    )
    shared = forms.BooleanField(
        required=False,
        label="Share it with the members of the tenant",
        help_text="Otherwise only you see it. Either way its name is in the audit log.",
    )


@page("saved_views", "explorer/views/")
def listed(request: HttpRequest) -> HttpResponse:
    """A POST saves the question of the address."""
    environment = environments.meant(request)
    asked = ExplorerAsked(request, environment, timezone.now())
    may_save = may(request, May.SAVE_VIEWS, environment.tenant_id)
    if request.method == "POST" and not may_save:
        raise PermissionDenied
    form = ViewForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and _is_to_be_saved(asked, form):
        try:
            saved_views.save(
                environment.tenant,
                form.cleaned_data["name"],
                asked.whole_query,
                shared=form.cleaned_data["shared"],
                actor=actor_of(request),
            )
            messages.success(request, f"The view {form.cleaned_data['name']!r} is saved.")
            return redirect("admin:saved_views")
        except Refused as error:
            form.add_error("name", str(error))
    actor = actor_of(request)
    seen = saved_views.seen_by(actor, environment.tenant)
    return rendered(
        request,
        "console/saved_views.html",
        "Saved views",
        environment=environment,
        form=form,
        may_save=may_save,
        query=asked.whole_query if asked.is_valid() else None,
        says=question_words.says(asked.whole_query) if asked.is_valid() else "",
        views=[(view, question_words.says(view.query), _may_change(request, view)) for view in seen],
    )


def _is_to_be_saved(asked: ExplorerAsked, form: ViewForm) -> bool:
    if not asked.is_valid():
        form.add_error(None, "The question cannot be read; open it in the Explorer to see why.")
    elif len(asked.whole_query) > QUERY_LENGTH_MAX:
        form.add_error(None, f"The question is longer than {QUERY_LENGTH_MAX} characters; use fewer filters.")
    return not form.errors


@page("saved_view", "explorer/views/<int:saved_view_id>/", of=SavedView._meta.label_lower)
def saved_view(request: HttpRequest, saved_view_id: int) -> HttpResponse:
    """A POST renames, shares or deletes it."""
    view = _found(request, saved_view_id)
    if not _may_change(request, view):
        raise PermissionDenied
    form = ViewForm(request.POST or None, initial={"name": view.name, "shared": view.shared})
    if request.method == "POST" and request.POST.get("do") == "delete":
        saved_views.delete(view)
        messages.success(request, f"The view {view.name!r} is deleted.")
        return redirect("admin:saved_views")
    if request.method == "POST" and form.is_valid():
        try:
            saved_views.change(view, form.cleaned_data["name"], shared=form.cleaned_data["shared"])
            messages.success(request, f"The view {view.name!r} is saved.")
            return redirect("admin:saved_views")
        except Refused as error:
            form.add_error("name", str(error))
    return rendered(
        request,
        "console/saved_view.html",
        f"Saved view {view.name}",
        view=view,
        says=question_words.says(view.query),
        form=form,
    )


def _found(request: HttpRequest, view_id: int) -> SavedView:
    """Raises Http404 for one that the person does not see."""
    tenants = {environment.tenant_id for environment in environments.offered(request)}
    view = SavedView.objects.select_related("tenant").filter(pk=view_id, tenant__in=tenants).first()
    if view is None or not (view.shared or view.author == actor_of(request)):
        raise Http404("There is no such view, or somebody else keeps it to themselves.")
    return view


def _may_change(request: HttpRequest, view: SavedView) -> bool:
    """Its author; and of a shared one whoever may remove members, for its author may be gone."""
    if not may(request, May.SAVE_VIEWS, view.tenant_id):
        return False
    return view.author == actor_of(request) or may(request, May.EDIT_MEMBERS, view.tenant_id)
