"""The price book: shared rows, and those of a tenant."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

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
from usage.ledger import periods
from usage.models import ModelPrice
from usage.money import format_usd
from usage.prices import overrides, stored_book
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

    def clean(self) -> dict[str, Any] | None:
        """Refuses to leave out what the shared price of the model charges: it would cost nothing."""
        given = super().clean()
        said = self.cleaned_data
        if said.get("tenant") is None or not said.get("model") or said.get("effective_from") is None:
            return given
        shared = stored_book.load(None).find(
            said["model"], said["effective_from"], said.get("provider") or None
        )
        if shared is None:
            return given
        for name in ("input_per_million", "output_per_million"):
            rate = getattr(shared.price.rates, name.removesuffix("_per_million"))
            if rate is not None and said.get(name) is None and name not in self.errors:
                self.add_error(
                    name, f"The shared price has {format_usd(rate)} for it: give a rate; 0, if it is free."
                )
        return given


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
        """A new price is the shown tenant's, and in force from now on, unless the address says otherwise.

        If it names a model and no rates, it is of one that was called without: what the book has of it is filled in,
        and it is in force from the beginning of the month, so that its calls can be re-priced.
        """
        shown, given = environments.shown(request), super().get_changeform_initial_data(request)
        usual: dict[str, Any] = {
            "effective_from": timezone.now(),
            "tenant": None if shown is None else shown.tenant_id,
        }
        if shown is not None and "model" in given and not {*given} & {*RATE_FIELDS}:
            zone = ZoneInfo(shown.tenant.timezone)
            this_month = periods.of_month(timezone.now().astimezone(zone).date().replace(day=1), zone)
            usual |= {"effective_from": this_month.start, **_in_the_book(shown.tenant_id, given)}
        return {**usual, **given}

    def get_readonly_fields(self, request: HttpRequest, obj: ModelPrice | None = None) -> list[str]:
        return [*self.readonly_fields] if obj is None else [*self.readonly_fields, "tenant"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "tenant" and not is_superuser(request):
            # Without a tenant it would be everyone's.
            kwargs["required"] = True
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ModelPrice, form: Any, change: bool) -> None:
        overrides.save(obj, actor=actor_of(request), reason=form.cleaned_data["reason"])


def _in_the_book(tenant_id: int, given: dict[str, Any]) -> dict[str, str]:
    """The fields of the price that is in force, if there is one."""
    match = stored_book.load(tenant_id).find(given["model"], timezone.now(), given.get("provider"))
    if match is None or match.price.price_id is None:
        return {}
    return price_page.filled_in(ModelPrice.objects.get(pk=match.price.price_id))
