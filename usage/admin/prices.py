"""The price book: shared rows, and those of a tenant."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants.console import display, environments
from tenants.console.access import actor_of, is_superuser
from tenants.console.forms import LinesField, RowForm
from tenants.console.rows import TenantRowsAdmin
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX
from tenants.roles import May
from usage.admin import price_list, price_page
from usage.admin.rate_rows import OtherRatesField, RegionsField, ServiceTiersField
from usage.models import ModelPrice
from usage.prices import overrides
from usage.prices.cost import ALIASES_MAX
from usage.prices.tiers import RATE_FIELDS

RARE_FIELDS = (
    "reasoning_per_million",
    "batch_input_per_million",
    "batch_output_per_million",
    "batch_cached_input_per_million",
    "batch_cache_write_per_million",
    "tiers",
)


class ModelPriceForm(RowForm):
    aliases = LinesField(
        forms.CharField(max_length=NAME_LENGTH_MAX),
        max_length=ALIASES_MAX,
        required=False,
        help_text=ModelPrice._meta.get_field("aliases").help_text,
    )

    other_rates = OtherRatesField(
        label="Other quantities",
        help_text="What has no rate is not priced. In place of a rate the name of its total: input_tokens. "
        "An empty row is left out; save, and there are more.",
    )
    service_tiers = ServiceTiersField(
        label="Tiers of service",
        help_text="Only the rates that differ; a tier alone costs what the default does. Of a tier that is not here, "
        "priority and fast are not wholly priced. Batch rates of text stand below, among the rare ones.",
    )
    regions = RegionsField(label="Regions", help_text="By how much tokens cost more there.")

    reason = forms.CharField(
        max_length=REASON_LENGTH_MAX,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Why; for the audit log. A new price needs one.",
        error_messages={"required": "Say why the price is this one."},
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What an address fills a new one in with is a text.
        for name in () if self.instance._state.adding else RATE_FIELDS:
            self.initial[name] = display.plain(self.initial.get(name))
        # So that it is marked as such before anybody has to read the error.
        self.fields["reason"].required = self.instance._state.adding


@admin.register(ModelPrice)
class ModelPriceAdmin(TenantRowsAdmin):
    """Everybody sees shared prices and superusers change them; a tenant's editors change its own."""

    to_change = May.EDIT_PRICES
    tenant_lookup = "tenant_id"
    shows_shared_rows = True
    form = ModelPriceForm
    change_form_outer_before_template = "console/price.html"
    fieldsets = [
        (None, {"fields": [
            "tenant", "provider", "model", "effective_from",
            "input_per_million", "output_per_million", "cached_input_per_million", "cache_write_per_million",
            "reason",
        ]}),
        ("Other rates", {"fields": ["other_rates", "service_tiers", "regions"]}),
        ("Rare rates", {"classes": ["collapse"], "fields": RARE_FIELDS}),
        ("Names and origin", {"fields": [
            "aliases", "source", "active", "source_version", "created", "last_changed",
        ]}),
    ]  # fmt: skip
    readonly_fields = ["source_version", "created", "last_changed"]
    created = display.moment_of("created_at", "created")
    last_changed = display.moment_of("updated_at", "last changed")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if request.method == "POST" or not self.has_view_permission(request):
            raise PermissionDenied
        return price_list.rendered(request, may_add=self.has_add_permission(request))

    def tenant_id_of(self, obj: ModelPrice) -> int | None:
        return obj.tenant_id

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Rows are history that late reports are charged by; one that is wrong is switched off.
        return False

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        if (row := context.get("original")) is not None:
            context |= price_page.context(request, row)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """A new price is the shown tenant's, and in force from now on, unless the address says otherwise."""
        shown = environments.shown(request)
        usual = {"effective_from": timezone.now(), "tenant": None if shown is None else shown.tenant_id}
        return {**usual, **super().get_changeform_initial_data(request)}

    def get_readonly_fields(self, request: HttpRequest, obj: ModelPrice | None = None) -> list[str]:
        return [*self.readonly_fields] if obj is None else [*self.readonly_fields, "tenant"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "tenant" and not is_superuser(request):
            # Without a tenant it would be everyone's.
            kwargs["required"] = True
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ModelPrice, form: Any, change: bool) -> None:
        overrides.save(obj, actor=actor_of(request), reason=form.cleaned_data["reason"])
