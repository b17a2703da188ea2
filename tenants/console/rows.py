"""Rows of tenants in the console: a member of the staff sees and changes those of their tenants.

Admin classes of what belongs to a tenant derive from TenantRowsAdmin. Each change is audited as made by
`admin:<username>`: the site sees to that (tokvigil_site/console/site.py).
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, ObjectDoesNotExist, ValidationError
from django.core.paginator import Paginator
from django.db import IntegrityError, connection
from django.db.models import Model, Q, QuerySet
from django.forms import HiddenInput, ModelChoiceField, ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.views import ChangeList
from unfold.widgets import UnfoldBooleanWidget

from tenants.console import environments
from tenants.console.access import is_superuser, may, may_somewhere, tenants_where
from tenants.console.forms import RowForm
from tenants.console.history import HistoryIsTheAuditLog
from tenants.models import Environment
from tenants.roles import May

ROWS_COUNTED_MAX = 10_000
# What the links of Django's filters compare with.
COMPARISONS = frozenset({"exact", "isnull", "isempty", "gte", "lt"})
# For a form after which there is nothing to go on with, such as one that ends with a secret that is shown once.
ONLY_SAVE = {"show_save_and_add_another": False, "show_save_and_continue": False}


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than ROWS_COUNTED_MAX rows, so that a page of a large table costs what one of a small does.

    The list has no more pages than that; what stands below it `says` so.
    """

    @cached_property
    def _counted(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]  # the admin gives no others
        return rows[: ROWS_COUNTED_MAX + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self._counted, ROWS_COUNTED_MAX)

    @property
    def says(self) -> str:
        """`1,188`, `more than 10,000`"""
        return f"{'more than ' if self._counted > ROWS_COUNTED_MAX else ''}{self.count:,}"


class OfferedLookups(HistoryIsTheAuditLog):
    """Allows only the filters that the page offers.

    Django's own admin takes any lookup of any column of the model in an address: also into columns that it does not
    show, and with values of which only the database finds out that they cannot be compared.
    """

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        name, _, comparison = lookup.rpartition("__")
        offered = self._offered(request)
        return lookup in offered or (comparison in COMPARISONS and name.removesuffix("__id") in offered)

    def _offered(self, request: HttpRequest) -> set[str]:
        offered = set[str]()
        for each in self.get_list_filter(request):
            if isinstance(each, str):
                offered.add(each)
            elif isinstance(each, tuple | list):
                offered.add(str(each[0]))
            else:
                offered.add(str(getattr(each, "parameter_name", "")))
        return offered

    def action_checkbox(self, obj: Model) -> SafeString:
        """Named by its row."""
        box = UnfoldBooleanWidget(
            {"class": "action-select", "aria-label": f"Select {obj}"}, check_test=lambda value: False
        )
        return box.render(ACTION_CHECKBOX_NAME, str(obj.pk))

    def response_action(  # type: ignore[override]  # the stubs are of a later Django
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> Any:
        """Raises BadRequest for rows chosen by what cannot be an id."""
        for chosen in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                self.opts.pk.to_python(chosen)
            except ValidationError as error:
                raise BadRequest(f"{chosen!r} is no id.") from error
        return super().response_action(request, queryset)


class RowsAdmin(OfferedLookups):
    """Saving and deleting rows that others may change at the same time. No change is lost silently."""

    form: type[ModelForm[Any]] = RowForm
    # Errors of a change whose form was valid: another change came in between.
    refusals: tuple[type[Exception], ...] = (ValidationError, IntegrityError, ObjectDoesNotExist)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """For a POST the row is locked and read again: a form writes unchanged fields back as it read them."""
        found = super().get_object(request, object_id, from_field)
        if found is None or request.method != "POST" or not connection.in_atomic_block:
            return found
        if not (self.has_change_permission(request, found) or self.has_delete_permission(request, found)):
            return found
        self.lock(found)
        return super().get_object(request, object_id, from_field)

    def lock(self, obj: Any) -> None:
        """Until the transaction ends. Override it where others lock another row first, so that nobody deadlocks."""
        self.model._base_manager.select_for_update(no_key=True).filter(pk=obj.pk).values_list("pk").first()

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Called as the button that leads to it."""
        title = {"title": f"New {self.opts.verbose_name}"}
        return super().add_view(request, form_url, {**title, **(extra_context or {})})

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except self.refusals as error:
            return self._refused(request, error, "Nothing was saved")

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changelist_view(request, *args, **kwargs)
        except self.refusals as error:
            return self._refused(request, error, "The action was stopped; rows before this one are changed")

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().delete_view(request, *args, **kwargs)
        except self.refusals as error:
            return self._refused(request, error, "Nothing was deleted")

    def _refused(self, request: HttpRequest, error: Exception, what: str) -> HttpResponse:
        if request.method != "POST":
            raise error
        self.message_user(request, f"{what}: {_reason(error)}", messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())


class TenantRowsAdmin(RowsAdmin):
    # The lookup from the model to its tenant's id.
    tenant_lookup = "environment__tenant_id"
    # Rows of no tenant, which all may see and only superusers change.
    shows_shared_rows = False
    # What a role must allow for seeing rows, and for adding and changing some. None: superusers alone.
    to_see: May = May.SEE
    to_change: May | None = None

    def tenant_id_of(self, obj: Any) -> int | None:
        tenant_id: int | None = obj.environment.tenant_id
        return tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        queryset = super().get_queryset(request)
        if is_superuser(request):
            return queryset
        visible = Q(**{f"{self.tenant_lookup}__in": tenants_where(request, self.to_see)})
        if self.shows_shared_rows:
            visible |= Q(**{self.tenant_lookup: None})
        return queryset.filter(visible)

    def changeable(self, request: HttpRequest, queryset: QuerySet[Any] | None = None) -> QuerySet[Any]:
        """The rows that the member may change. Bulk actions and form choices are limited to them."""
        rows = self.get_queryset(request) if queryset is None else queryset
        return self.where(request, self.to_change, rows)

    def where(self, request: HttpRequest, what: May | None, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Those of tenants in which the member's role allows it."""
        if is_superuser(request):
            return rows
        return rows.filter(**{f"{self.tenant_lookup}__in": tenants_where(request, what)})

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_somewhere(request, self.to_see)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None or is_superuser(request):
            return self.has_module_permission(request)
        tenant_id = self.tenant_id_of(obj)
        if tenant_id is None:
            return self.shows_shared_rows and self.has_module_permission(request)
        return may(request, self.to_see, tenant_id)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may_change(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may_change(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may_change(request, obj)

    def may_change(self, request: HttpRequest, obj: Any = None) -> bool:
        """Without a row: whether there can be one the user may change."""
        if obj is None:
            return may_somewhere(request, self.to_change)
        return may(request, self.to_change, self.tenant_id_of(obj))

    def formfield_for_foreignkey(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField[Any] | None:
        """Offers and accepts only what belongs to tenants in which the member may make such a row."""
        related = self.admin_site._registry.get(db_field.remote_field.model)
        if isinstance(related, TenantRowsAdmin):
            kwargs["queryset"] = related.where(request, self.to_change, related.get_queryset(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


def _reason(error: Exception) -> str:
    """A sentence for people; the database's text about a constraint is not one."""
    if isinstance(error, ValidationError):
        return " ".join(error.messages)
    if isinstance(error, IntegrityError):
        return "another change came in between. Look again."
    return f"{str(error).removesuffix('.')}. Look again."


class ReadOnlyAdmin(TenantRowsAdmin):
    """Read only."""

    actions = None

    def may_change(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ListOfShownEnvironment(ChangeList):
    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        """Without the one by which the console is told what to show: it is no filter of the list."""
        found: dict[str, Any] = super().get_filters_params(params)
        found.pop(environments.PARAMETER, None)
        return found

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        assert isinstance(self.model_admin, EnvironmentRowsAdmin)
        lookup = {self.model_admin.environment_lookup: environments.shown(request)}
        self.root_queryset = self.root_queryset.filter(**lookup)
        rows: QuerySet[Any] = super().get_queryset(request, exclude_parameters)
        return rows


class EnvironmentRowsAdmin(TenantRowsAdmin):
    """Rows that live in an environment: the list has those of the one that the console shows."""

    # The lookup from the model to its environment.
    environment_lookup = "environment"

    def environment_of(self, obj: Any) -> Environment:
        environment: Environment = obj.environment
        return environment

    def has_add_permission(self, request: HttpRequest) -> bool:
        shown = environments.shown(request)
        return (
            super().has_add_permission(request)
            and shown is not None
            and may(request, self.to_change, shown.tenant_id)
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ListOfShownEnvironment

    def formfield_for_foreignkey(
        self, db_field: Any, request: HttpRequest, **kwargs: Any
    ) -> ModelChoiceField[Any] | None:
        """Offers and accepts what lives in the same environment. The environment itself is not chosen here."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is None or field.queryset is None:
            return field
        if db_field.remote_field.model is Environment:
            field.widget = HiddenInput()
        elif isinstance(related := self.admin_site._registry.get(field.queryset.model), EnvironmentRowsAdmin):
            field.queryset = field.queryset.filter(
                **{related.environment_lookup: environments.shown(request)}
            )
        return field

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().get_changeform_initial_data(request), "environment": environments.shown(request)}

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Whoever opens a row goes on in its environment."""
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            environments.follow(request, self.environment_of(found))
        return found


class ReadOnlyEnvironmentAdmin(ReadOnlyAdmin, EnvironmentRowsAdmin):
    """Read only, of the environment that the console shows."""


class InlineOfTenantRows(TabularInline):
    """May be seen and changed by whoever may see and change the row it belongs to."""

    extra = 0

    @property
    def _parent(self) -> TenantRowsAdmin:
        parent = self.admin_site._registry[self.parent_model]
        assert isinstance(parent, TenantRowsAdmin)
        return parent

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._parent.has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._parent.has_change_permission(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._parent.has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._parent.has_change_permission(request, obj)
