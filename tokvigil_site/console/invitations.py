"""Where the link of an invitation leads: a new person chooses a password and is signed in."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import password_validators_help_text_html
from django.contrib.auth.views import INTERNAL_RESET_SESSION_TOKEN, PasswordResetConfirmView
from django.db import transaction
from django.http import HttpResponse
from django.urls import reverse_lazy
from unfold.sites import UnfoldAdminSite

from audit import log as audit_log
from tenants import accounts, members
from tenants.models import Role
from tenants.roles import IN_WORDS, May, allows


class ChoosePasswordForm(SetPasswordForm):  # type: ignore[type-arg]
    """What was typed is kept when it is refused: the answer is stored nowhere."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["new_password1"] = _password("Password", password_validators_help_text_html())
        self.fields["new_password2"] = _password("The same again")


def _password(label: str, help_text: str = "") -> forms.CharField:
    widget = forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=True)
    return forms.CharField(label=label, strip=False, widget=widget, help_text=help_text)


class InvitationView(PasswordResetConfirmView):
    """Django's, with links of invitations alone. Says nothing of who was invited unless the link is good."""

    token_generator = members.tokens
    form_class = ChoosePasswordForm
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
            **(self._invited() if self.validlink else {"title": "This invitation has ended"}),
        }

    def _invited(self) -> dict[str, Any]:
        assert isinstance(self.user, User)
        invitation = members.invitation_of(self.user)
        if invitation is None:
            return {}
        role = Role(invitation.membership.role)
        return {
            "by": invitation.by,
            "tenant": invitation.membership.tenant,
            "role": role.label,
            "rights": [IN_WORDS[right] for right in May if allows(role, right)],
        }

    @transaction.atomic
    def form_valid(self, form: SetPasswordForm[Any]) -> HttpResponse:
        user = self.user
        assert isinstance(user, User)
        if not self._is_good_still(user):
            self.validlink = False
            return self.render_to_response(self.get_context_data())
        with audit_log.acting_as(f"admin:{user.get_username()}"):
            response = super().form_valid(form)
            accounts.log_password_changed(user)
        return response

    def _is_good_still(self, user: User) -> bool:
        """Of several who use the link at once the first has it."""
        now = User.objects.select_for_update().filter(pk=user.pk).first()
        token = self.request.session.get(INTERNAL_RESET_SESSION_TOKEN, "")
        return now is not None and self.token_generator.check_token(now, token)
