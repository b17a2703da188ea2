"""The admin site: views act in the name of whoever is signed in, in the time zone of the tenant that they look at."""

from __future__ import annotations

from functools import update_wrapper
from http import HTTPStatus
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.db import DataError, transaction
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from unfold.sites import UnfoldAdminSite

from audit import log as audit_log
from tenants import accounts, freezing, sign_ins
from tenants.console import environments
from tenants.console import pages as console_pages
from tenants.console.access import actor_of, may, may_somewhere, role_in_words
from tenants.roles import May
from tokvigil_site.console import navigation, refused
from tokvigil_site.console.invitations import InvitationView
from tokvigil_site.content_policy import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE, csp_override

# Alpine, which django-unfold's pages are made with, evaluates the expressions in their attributes; colours and the
# widths of bars are styles of elements.
CONTENT_POLICY = {
    "default-src": [NONE],
    "script-src": [SELF, UNSAFE_EVAL],
    "style-src": [SELF, UNSAFE_INLINE],
    "font-src": [SELF],
    "img-src": [SELF, "data:"],
    "connect-src": [SELF],
    "base-uri": [NONE],
    "form-action": [SELF],
    "frame-ancestors": [NONE],
}


class TokvigilAdminSite(UnfoldAdminSite):
    # There is no other site to view: `/` leads here.
    site_url = None
    index_title = "Overview"
    index_template = "console/overview.html"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        @csp_override(CONTENT_POLICY)
        def acting(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                # Whatever zone is activated inside, it does not outlive the request.
                with audit_log.acting_as(actor_of(request)), timezone.override(None):
                    environments.shown(request)
                    return _answered(view, request, *args, **kwargs)
            except (DataError, ValidationError) as error:
                # What a form finds wrong it says itself. This is a value that cannot be looked up, such as text with a
                # NUL, or what is no id.
                raise BadRequest("The address cannot be read.") from error

        return super().admin_view(update_wrapper(acting, view), cacheable)

    def get_urls(self) -> list[Any]:
        pages = [
            path(each.path, self.admin_view(each), name=each.name)
            for each in console_pages.declared().values()
        ]
        invitation = csp_override(CONTENT_POLICY)(InvitationView.as_view())
        pages.append(path("invitation/<uidb64>/<token>/", invitation, name="invitation"))
        return [*pages, *super().get_urls()]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """An auditor's is the audit log."""
        if not may_somewhere(request, May.SEE) and may_somewhere(request, May.SEE_AUDIT):
            return HttpResponseRedirect(reverse(f"{self.name}:audit_entry_changelist"))
        # It shows parts of apps' pages, which are registered with this site: after it is made.
        from tokvigil_site.console.overview import page as overview

        return super().index(request, {**overview.context(request), **(extra_context or {})})

    def search(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Our own. django-unfold's keeps results for minutes, whatever a person may see by then."""
        return console_pages.declared()["search"](request)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        with transaction.atomic():
            response = csp_override(CONTENT_POLICY)(super().login)(request, extra_context)
            if request.method == "POST" and response.status_code == HTTPStatus.FOUND:
                assert isinstance(request.user, User)
                sign_ins.log_sign_in(request.user)
            elif request.method == "POST":
                sign_ins.log_failure(request.POST.get("username", ""))
        return response

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        user = request.user
        with transaction.atomic():
            response = super().logout(request, extra_context)
            if isinstance(user, User) and not request.user.is_authenticated:
                sign_ins.log_sign_out(user)
        return response

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context: dict[str, Any] = super().each_context(request)
        if self.has_permission(request):
            groups = navigation.navigation(self, request)
            page = navigation.current(groups)
            shown = environments.shown(request)
            context |= {
                "navigation": groups,
                "current_page": page,
                # An object has no twin in the other environment, its list has.
                "switch_url": page.url if page else reverse(f"{self.name}:index"),
                "shown_environment": shown,
                "freezes": [] if shown is None else freezing.in_force(shown),
                "may_unfreeze": shown is not None and may(request, May.FREEZE, shown.tenant_id),
                "your_role": role_in_words(request, shown.tenant_id if shown else None),
                "offered_environments": environments.offered(request),
                "zone": timezone.get_current_timezone_name(),
            }
        return context

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """One's own."""
        user = request.user
        assert isinstance(user, User)
        before = user.password
        with transaction.atomic():
            response = super().password_change(request, extra_context)
            if user.password != before:
                accounts.log_password_changed(user)
        return response


def _answered(view: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
    try:
        return _rendered(view(request, *args, **kwargs))
    except PermissionDenied:
        return _rendered(refused.page(request))


def _rendered(response: HttpResponseBase) -> HttpResponseBase:
    """While the actor and the zone hold."""
    if isinstance(response, SimpleTemplateResponse) and not response.is_rendered:
        response.render()
    return response
