"""Users and groups in the admin. Only superusers see and change them: they say who is one."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.forms import AdminPasswordChangeForm, UserCreationForm

from tenants import accounts
from tenants.console.access import is_superuser
from tenants.console.forms import AccountForm
from tenants.console.rows import RowsAdmin
from tenants.models import Membership


class PasswordForm(AdminPasswordChangeForm):
    @transaction.atomic
    def save(self, commit: bool = True) -> User:
        user: User = super().save(commit=commit)
        if commit:
            accounts.log_password_changed(user)
        return user


class SuperusersAdmin(RowsAdmin):
    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    @staticmethod
    def log_change_of(action: str, form: Any) -> None:
        """After the rows of many-to-many fields were written too."""
        after = {name: form.cleaned_data[name] for name in form.changed_data}
        accounts.log_changed(action, form.instance, before=form.initial, after=after)


class AccountAdmin(SuperusersAdmin, auth_admin.UserAdmin):  # type: ignore[type-arg]
    form = AccountForm
    add_form = UserCreationForm
    add_fieldsets = auth_admin.UserAdmin.add_fieldsets
    change_password_form = PasswordForm

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if change:
            self.log_change_of("user.changed", form)
        else:
            accounts.log_added(form.instance)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        accounts.delete_users(User.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        accounts.delete_users(queryset)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Memberships protect a user from being deleted in passing; here they are deleted too, each with its entry."""
        to_delete, counts, perms_needed, protecting = super().get_deleted_objects(objs, request)
        memberships = Membership.objects.filter(user__in=list(objs)).count()
        if len(protecting) == memberships:
            to_delete, protecting = [*to_delete, *protecting], []
            counts = {**counts, "memberships": memberships}
        return to_delete, counts, perms_needed, protecting


class GroupAdmin(SuperusersAdmin, auth_admin.GroupAdmin):
    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        self.log_change_of("group.changed" if change else "group.added", form)

    def delete_model(self, request: HttpRequest, obj: Group) -> None:
        accounts.delete_groups(Group.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Group]) -> None:
        accounts.delete_groups(queryset)
