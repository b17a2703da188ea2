"""The admin site: Django's, whose views act in the name of whoever is signed in and refuse what cannot be read."""

from __future__ import annotations

from functools import update_wrapper
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest, ValidationError
from django.db import DataError, transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from audit import log as audit_log
from tenants import accounts
from tenants.console.access import actor_of


class TokvigilAdminSite(admin.AdminSite):
    site_header = site_title = "TokVigil"
    index_title = "Policies, usage and keys"
    # There is no other site to view: `/` leads here.
    site_url = None

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        def acting(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                with audit_log.acting_as(actor_of(request)):
                    response: HttpResponseBase = view(request, *args, **kwargs)
                    return response
            except (DataError, ValidationError) as error:
                # What a form finds wrong it says itself. This is a value that cannot be looked up, such as text with a
                # NUL, or what is no id.
                raise BadRequest("The address cannot be read.") from error

        return super().admin_view(update_wrapper(acting, view), cacheable)

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
