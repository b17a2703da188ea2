"""Where the link of an invitation leads: a new person chooses a password and is signed in."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.models import User
from django.contrib.auth.views import PasswordResetConfirmView
from django.db import transaction
from django.http import HttpResponse
from django.urls import reverse_lazy
from unfold.sites import UnfoldAdminSite

from audit import log as audit_log
from tenants import accounts, members


class InvitationView(PasswordResetConfirmView):
    """Django's, with links of invitations alone. Says nothing of who was invited unless the link is good."""

    token_generator = members.tokens
    template_name = "console/invitation.html"
    title = "Choose a password"
    success_url = reverse_lazy("admin:index")
    post_reset_login = True
    post_reset_login_backend = "django.contrib.auth.backends.ModelBackend"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With the styles of the console, and without its navigation."""
        return {
            **UnfoldAdminSite.each_context(admin.site, self.request),
            **super().get_context_data(**kwargs),
        }

    @transaction.atomic
    def form_valid(self, form: SetPasswordForm[Any]) -> HttpResponse:
        user = self.user
        assert isinstance(user, User)
        with audit_log.acting_as(f"admin:{user.get_username()}"):
            response = super().form_valid(form)
            accounts.log_password_changed(user)
        return response
