"""Who belongs to which tenant, with which role: invited, changed and removed by owners."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants import members
from tenants.console import display, environments, pages
from tenants.console.forms import RowForm
from tenants.console.parts import State
from tenants.console.rows import ONLY_SAVE, TenantRowsAdmin
from tenants.models import Membership, Role
from tenants.roles import IN_WORDS, May, allows
from tenants.templatetags.console import state

PERSON_LENGTH_MAX = 150
_INVITING = {"title": "Invite a member", **ONLY_SAVE}


class InviteForm(RowForm):
    person = forms.CharField(
        label="E-mail address or username",
        max_length=PERSON_LENGTH_MAX,
        widget=UnfoldAdminTextInputWidget,
        help_text="Who is new here gets a link to choose a password; who signs in already is a member at once.",
    )

    class Meta:
        model = Membership
        fields = ["tenant", "role"]

    def clean(self) -> dict[str, Any]:
        """Invites: what is wrong with a person is said beside the field."""
        given = self.cleaned_data
        if not self.errors:
            try:
                with transaction.atomic():
                    self.invited = members.invite(given["tenant"], given["person"], given["role"])
            except ValidationError as error:
                self.add_error("person", ValidationError(error.messages))
        return given

    def _post_clean(self) -> None:
        """The row is made already."""


@admin.register(Membership)
class MembershipAdmin(TenantRowsAdmin):
    """Members see the other members; owners change them."""

    to_change = May.EDIT_MEMBERS
    tenant_lookup = "tenant_id"
    list_display = ["user", "tenant", "role_in_words", "last_sign_in"]
    list_filter = ["role"]
    list_select_related = ["user", "tenant"]
    search_fields = ["user__username", "tenant__slug"]
    list_after_template = "admin/tenants/membership/roles.html"

    def get_urls(self) -> list[Any]:
        renew = self.admin_site.admin_view(self.renew_view)
        own = path("<path:object_id>/renew/", renew, name="tenants_membership_renew")
        return [own, *super().get_urls()]

    def tenant_id_of(self, obj: Membership) -> int:
        return obj.tenant_id

    def get_form(
        self, request: HttpRequest, obj: Membership | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is None:
            kwargs["form"] = InviteForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Membership | None = None) -> Any:
        if obj is None:
            return ["person", "role", "tenant"]
        return ["user", "tenant", "role", "last_sign_in"]

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> list[str]:
        return [] if obj is None else ["user", "tenant", "last_sign_in"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        shown = environments.shown(request)
        return {**super().get_changeform_initial_data(request), "tenant": shown and shown.tenant_id}

    @admin.display(description="role", ordering="role")
    def role_in_words(self, membership: Membership) -> str:
        return Role(membership.role).label

    @admin.display(description="last sign-in", ordering="user__last_login")
    def last_sign_in(self, membership: Membership) -> SafeString | str:
        if members.is_pending(membership.user):
            return state(State.QUIET, "Invited, not accepted yet")
        at = membership.user.last_login
        return "never" if at is None else display.moment(at)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {**(extra_context or {}), **_table_of_roles()})

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().add_view(request, form_url, {**_INVITING, **(extra_context or {})})

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        membership = context.get("original")
        pending = membership is not None and members.is_pending(membership.user)
        context |= {"may_renew": pending and self.may_change(request, membership), **_table_of_roles()}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        return super().save_form(request, form, change) if change else form.invited[0]

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        if change:
            assert isinstance(request.user, User)
            members.change_role(obj, form.cleaned_data["role"], by=request.user)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        if not change:
            request._invited = form.invited  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Membership, post_url_continue: Any = None
    ) -> HttpResponse:
        membership, link = request._invited  # type: ignore[attr-defined]
        if link is not None:
            return self._shown_once(request, membership, link)
        self.message_user(
            request, f"{membership.user} is a member now, and signs in with the password they have."
        )
        return HttpResponseRedirect(reverse("admin:tenants_membership_changelist"))

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        members.remove(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> None:
        with transaction.atomic():
            for membership in queryset.select_related("user", "tenant").order_by("tenant_id", "pk"):
                members.remove(membership)

    def renew_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        membership: Membership | None = self.get_object(request, unquote(object_id))
        if membership is None or not self.has_view_permission(request, membership):
            raise Http404
        if not self.may_change(request, membership):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            link = members.renew(membership)
        except ValidationError as error:
            self.message_user(request, " ".join(error.messages), "error")
            return HttpResponseRedirect(reverse("admin:tenants_membership_change", args=[membership.pk]))
        return self._shown_once(request, membership, link)

    def _shown_once(self, request: HttpRequest, membership: Membership, link: members.Link) -> HttpResponse:
        """The only answer that has the link."""
        address = reverse("admin:invitation", args=[link.uid, link.token])
        return pages.rendered(
            request,
            "admin/tenants/membership/invited.html",
            f"{membership.user} is invited",
            opts=self.opts,
            membership=membership,
            url=request.build_absolute_uri(address),
        )


def _table_of_roles() -> dict[str, Any]:
    return {
        "roles": [role.label for role in Role],
        "rights": [(IN_WORDS[right], [allows(role, right) for role in Role]) for right in May],
    }
