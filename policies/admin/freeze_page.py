"""The switch that blocks all calls of an environment or of a feature, with a reason, and the way back, which asks."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.widgets import UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from policies import seen
from policies.admin.asking_again import AskingForm, anyway_field, ask, ask_about_unseen
from policies.changing.known_names import known_names
from tenants import freezing, revisions
from tenants.console import environments
from tenants.console.access import actor_of, may
from tenants.console.pages import page, rendered
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX
from tenants.models import Environment
from tenants.roles import May
from usage.amounts import Per


class FreezeForm(AskingForm, forms.Form):
    """`anyway` and `all_calls` are shown only when they are needed."""

    whole = forms.ChoiceField(
        label="What",
        choices=[("feature", "One feature"), ("environment", "The whole environment")],
        widget=forms.RadioSelect,
        initial="feature",
    )
    feature = forms.CharField(
        max_length=NAME_LENGTH_MAX,
        required=False,
        strip=False,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "known-features", "autocomplete": "off"}),
        help_text="Required to freeze one feature: its name, exactly as calls have it.",
    )
    anyway = anyway_field("Freeze it anyway")
    reason = forms.CharField(
        max_length=REASON_LENGTH_MAX,
        widget=UnfoldAdminTextInputWidget,
        help_text="Colleagues read it on every page of this environment, until it is unfrozen.",
    )
    all_calls = forms.BooleanField(required=False, widget=forms.HiddenInput)

    def __init__(self, environment: Environment, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._environment = environment
        self.fields["all_calls"].label = f"Freeze all calls of {environment}"

    def clean(self) -> dict[str, Any]:
        found = self.cleaned_data
        feature = found.get("feature", "")
        if found.get("whole") == "feature" and not feature.strip():
            self.add_error("feature", "Name the feature to freeze.")
        if found.get("whole") == "environment" and feature:
            self.add_error("feature", "Leave this empty to freeze the whole environment.")
        if found.get("whole") == "environment":
            self._clean_all_calls()
        if not self.errors and found["whole"] == "feature":
            ask_about_unseen(self, "feature", seen.unseen(self._environment, Per.FEATURE, [feature]))
        return found

    def _clean_all_calls(self) -> None:
        """One click is not enough to stop everything."""
        self.fields["all_calls"].widget = UnfoldBooleanWidget()
        if not self.cleaned_data.get("all_calls"):
            says = f"This blocks every call of {self._environment}, whatever the policies say."
            ask(self, "all_calls", f"{says} If it is meant, tick this and press Freeze again.")


@page("freeze", "frozen/")
def freeze(request: HttpRequest) -> HttpResponse:
    environment = environments.meant(request)
    allowed = may(request, May.FREEZE, environment.tenant_id)
    form = FreezeForm(environment, initial={"feature": request.GET.get("feature", "")})
    if request.method == "POST":
        if not allowed:
            raise PermissionDenied
        form = FreezeForm(environment, request.POST)
        if form.is_valid() and _freeze(request, environment, form):
            return HttpResponseRedirect(request.get_full_path())
    return rendered(
        request,
        "console/freeze.html",
        "Frozen",
        environment=environment,
        frozen=freezing.in_force(Environment.objects.get(pk=environment.pk)),
        form=form,
        features=known_names(environment).features if allowed else (),
        may_change=allowed,
    )


def _freeze(request: HttpRequest, environment: Environment, form: FreezeForm) -> bool:
    feature, reason = form.cleaned_data["feature"], form.cleaned_data["reason"]
    features = [feature] if form.cleaned_data["whole"] == "feature" else None
    try:
        freezing.freeze(environment, features=features, reason=reason, actor=actor_of(request))
    except ValidationError as error:
        form.add_error("feature", " ".join(error.messages))
        return False
    what = f"The feature {feature}" if features else f"The environment {environment}"
    messages.warning(request, f"{what} is frozen, {revisions.standing(environment).from_when}.")
    return True


@page("unfreeze", "frozen/unfreeze/")
def unfreeze(request: HttpRequest) -> HttpResponse:
    """Asks; a POST does it. `?feature=`: that one; without it, the whole environment."""
    environment = environments.meant(request)
    if not may(request, May.FREEZE, environment.tenant_id):
        raise PermissionDenied
    feature = request.GET.get("feature", "")
    back = reverse("admin:freeze", query={environments.PARAMETER: str(environment)})
    if request.method == "POST":
        _unfreeze(request, environment, feature)
        return HttpResponseRedirect(back)
    frozen = freezing.in_force(Environment.objects.get(pk=environment.pk))
    found = next((each for each in frozen if each.feature == feature), None)
    return rendered(
        request,
        "console/unfreeze.html",
        "Unfreeze" if found is None else f"Unfreeze {feature or environment}",
        environment=environment,
        back=back,
        freeze=found,
        others=[each for each in frozen if each.feature not in ("", feature)],
        all_stays=feature != "" and any(each.feature == "" for each in frozen),
    )


def _unfreeze(request: HttpRequest, environment: Environment, feature: str) -> None:
    seen = request.POST.get("seen", "")
    if freezing.unfreeze_seen(environment, feature, seen, actor=actor_of(request)):
        what = f"The feature {feature}" if feature else f"The environment {environment}"
        messages.success(
            request, f"{what} is not frozen any more, {revisions.standing(environment).from_when}."
        )
    else:
        messages.error(request, "Nothing was unfrozen: it changed since the page was opened. Look again.")
