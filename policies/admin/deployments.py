"""Deployments in the admin: names that an environment has for models."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.views import ChangeList

from policies.changing import publishing
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.models import Deployment
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.forms import RowForm
from tenants.console.rows import EnvironmentRowsAdmin, ListOfShownEnvironment
from tenants.models import Environment
from tenants.roles import May
from usage.prices import stored_book

NO_PRICE = "no price: give the model one, or name another"


class DeploymentForm(RowForm):
    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if message := documents.deployment_error(name):
            raise ValidationError(f"The name {message}.")
        return name

    def clean_model(self) -> str:
        model: str = self.cleaned_data["model"]
        if message := documents.deployment_error(model):
            raise ValidationError(f"The model {message}.")
        return model

    def clean(self) -> dict[str, Any] | None:
        given = super().clean()
        environment, name = self.cleaned_data.get("environment"), self.cleaned_data.get("name")
        # A name in another case is the same name.
        if environment is not None and name and self.instance._state.adding:
            known = environment.deployments.filter(name__iexact=name).first()
            if known is not None:
                self.add_error("name", f"{known.name} is there already; change that one.")
        return given


class DeploymentList(ListOfShownEnvironment):
    """Finds the price of each of its rows in one book."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        environment = environments.shown(request)
        rows: list[Deployment] = list(self.result_list)
        if environment is not None and rows:
            book, now = stored_book.of_environment(environment), timezone.now()
            for row in rows:
                match = book.find(row.name, now)
                row.price = None if match is None else match.price  # type: ignore[attr-defined]
        self.result_list = rows


@admin.register(Deployment)
class DeploymentAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_POLICIES
    form = DeploymentForm
    refusals = (*EnvironmentRowsAdmin.refusals, PolicyFileError)
    list_display = ["name", "model", "priced_as"]
    list_select_related = ["environment__tenant"]
    search_fields = ["name", "model"]
    fields = ["environment", "name", "model"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return DeploymentList

    @admin.display(description="priced as")
    def priced_as(self, deployment: Any) -> str:
        price = deployment.price
        return NO_PRICE if price is None else f"{price.model} of {price.provider}"

    def get_readonly_fields(self, request: HttpRequest, obj: Deployment | None = None) -> list[str]:
        # Calls and the audit log know it by its name.
        return [] if obj is None else ["name"]

    def lock(self, obj: Deployment) -> None:
        Environment.lock(obj.environment_id)

    def save_model(self, request: HttpRequest, obj: Deployment, form: Any, change: bool) -> None:
        saved = publishing.put_deployment(obj.environment, obj.name, obj.model, actor=actor_of(request))
        obj.pk = saved.pk

    def delete_model(self, request: HttpRequest, obj: Deployment) -> None:
        publishing.remove_deployment(obj, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        for deployment in queryset.select_related("environment").order_by("environment_id", "pk"):
            self.delete_model(request, deployment)
