"""Replay: what other policies would have decided of past calls. Asking, how far it is, and what came of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render

from audit import wording as audit_wording
from policies.admin import finding, replay_shown
from policies.admin.replay_forms import IN_FORCE, ReplayForm, again, of_draft
from policies.models import PolicyReplay
from policies.replaying import jobs, listing
from policies.replaying.report import SimulationReport
from tenants import exporting
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.pages import page, rendered
from tenants.console.row_ids import is_row_id
from tenants.exporting import Format
from tenants.models import Environment
from usage import wording

DIFFERENCES_A_PAGE = 20


@page("policy_replays", "replays/")
def listed(request: HttpRequest) -> HttpResponse:
    """`?draft=` chooses one, `?again=` fills in what another replay was asked for. A POST asks."""
    shown = environments.shown(request)
    if shown is None:
        raise PermissionDenied
    if request.method == "POST":
        return _asked(request, environments.meant(request))
    return _listed(request, shown, ReplayForm(shown, initial=_initial(request, shown)))


def _listed(request: HttpRequest, shown: Environment, form: ReplayForm) -> HttpResponse:
    return rendered(
        request,
        "console/policies/replays.html",
        "Replay",
        form=form,
        replays=listing.newest(shown)[: jobs.KEPT_MAX],
        may_ask=finding.may_change(request, shown.tenant_id),
    )


def _initial(request: HttpRequest, shown: Environment) -> dict[str, Any]:
    draft, like = request.GET.get("draft", ""), request.GET.get("again", "")
    if like:
        try:
            return again(_one(request, UUID(like)))
        except ValueError as error:
            raise Http404 from error
    if is_row_id(draft):
        return {"what": of_draft(int(draft))}
    newest = shown.drafts.filter(published_at=None).order_by("-begun_at").first()
    return {"what": IN_FORCE if newest is None else of_draft(newest.pk)}


def _asked(request: HttpRequest, environment: Environment) -> HttpResponse:
    finding.require_change(request, environment.tenant_id)
    form = ReplayForm(environment, request.POST, request.FILES)
    if form.is_valid():
        try:
            asked = jobs.ask(
                environment,
                form.candidate,
                form.start,
                form.end,
                actor=actor_of(request),
                self_check=form.cleaned_data["self_check"],
            )
            return redirect("admin:policy_replay", asked.pk)
        except jobs.TooMany as error:
            form.add_error(None, f"{error}.")
    return _listed(request, environment, form)


@page("policy_replay", "replays/<uuid:policy_replay_id>/", of=PolicyReplay._meta.label_lower)
def one(request: HttpRequest, policy_replay_id: UUID) -> HttpResponse:
    """A POST cancels it."""
    asked = _one(request, policy_replay_id)
    if request.method == "POST":
        return _cancelled(request, asked)
    report = jobs.report_of(asked)
    return rendered(
        request,
        "console/policies/replay.html",
        f"Replay of {asked.source}",
        asked=asked,
        **_progress(asked),
        unreadable=jobs.unreadable(asked),
        may_ask=finding.may_change(request, asked.environment.tenant_id),
        edited=_edited(asked),
        **({} if report is None else _result(request, report)),
    )


@page("policy_replay_progress", "replays/<uuid:policy_replay_id>/progress/")
def progress(request: HttpRequest, policy_replay_id: UUID) -> HttpResponse:
    """The part of the page that is read anew while it runs."""
    asked = _one(request, policy_replay_id)
    return render(request, "console/policies/replay_progress.html", {"asked": asked, **_progress(asked)})


@page("policy_replay_export", "replays/<uuid:policy_replay_id>/export/")
def export(request: HttpRequest, policy_replay_id: UUID) -> HttpResponseBase:
    """`?format=csv` or json: the differences."""
    asked = _one(request, policy_replay_id)
    report = jobs.report_of(asked)
    kinds: dict[str, Format] = {each.value: each for each in (Format.CSV, Format.JSON)}
    kind = kinds.get(request.GET.get("format", Format.CSV.value))
    if report is None or kind is None:
        raise Http404("There is nothing to export.")
    zone = ZoneInfo(asked.environment.tenant.timezone)
    rows = replay_shown.rows(report.differences, zone)
    lines = exporting.written(kind, _about(asked, report, zone), replay_shown.COLUMNS, rows)
    return exporting.download(kind, f"replay-{asked.pk}", lines)


def _about(asked: PolicyReplay, report: SimulationReport, zone: ZoneInfo) -> dict[str, object]:
    return {
        "replay_of": asked.source,
        "environment": str(asked.environment),
        "from": asked.start.astimezone(zone).isoformat(timespec="seconds"),
        "to": asked.end.astimezone(zone).isoformat(timespec="seconds"),
        "time_zone": zone.key,
        "asked_by": audit_wording.who(asked.asked_by),
        "asked_at": asked.asked_at.astimezone(zone).isoformat(timespec="seconds"),
        "differences": report.calls.newly_blocked + report.calls.newly_allowed,
        "of_them_here": len(report.differences),
    }


def _one(request: HttpRequest, replay_id: UUID) -> PolicyReplay:
    """The console goes on in its environment."""
    every = PolicyReplay.objects.select_related("environment__tenant", "draft")
    found = get_object_or_404(every, pk=replay_id, environment__in=environments.visible(request))
    environments.follow(request, found.environment)
    return found


def _cancelled(request: HttpRequest, asked: PolicyReplay) -> HttpResponse:
    finding.require_change(request, asked.environment.tenant_id)
    if request.POST.get("action") != "cancel":
        raise Http404
    if jobs.cancel(asked, actor=actor_of(request)):
        messages.success(request, "The replay is cancelled.")
    else:
        messages.info(request, "Nothing was cancelled: the replay has ended already.")
    return redirect("admin:policy_replay", asked.pk)


def _progress(asked: PolicyReplay) -> dict[str, Any]:
    # The whole is counted roughly, and more may have come since.
    in_all = max(asked.calls_in_all, asked.calls_done)
    return {
        "done": wording.count(asked.calls_done),
        "in_all": wording.count(in_all),
        "share": wording.share_of_limit(asked.calls_done, in_all),
        "answers": jobs.answers(asked),
    }


def _edited(asked: PolicyReplay) -> bool:
    """Whether the draft says something else by now."""
    return asked.draft is not None and asked.draft.edits != asked.draft_edits


def _result(request: HttpRequest, report: SimulationReport) -> dict[str, Any]:
    by_time = request.GET.get("hits") == "first"
    first, others, unnamed = replay_shown.hits(report, by_time=by_time)
    user = request.GET.get("user", "")
    found = [each for each in report.differences if not user or each.user_id == user]
    shown = Paginator(found, DIFFERENCES_A_PAGE).get_page(request.GET.get("page"))
    differing = report.calls.newly_blocked + report.calls.newly_allowed
    return {
        "report": report,
        "headline": replay_shown.headline(report),
        "parts": replay_shown.parts(report),
        "blocked": replay_shown.blocked(report),
        "changed": differing + report.calls.undecidable,
        "days": replay_shown.days(report),
        "reasons": replay_shown.reasons(report),
        "hits": first,
        "hits_by_time": by_time,
        "other_hits": others,
        "unnamed_hits": unnamed,
        "of_user": user,
        "differing": wording.count(differing),
        "found": wording.count(len(found)),
        "cut": differing > len(report.differences),
        "kept": wording.count(len(report.differences)),
        "differences": [replay_shown.shown(each) for each in shown],
        "shown": shown,
    }
