from django.contrib import admin
from django.urls import path, re_path, register_converter
from django.urls.converters import StringConverter
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from policies.api.boosts import BoostsView, BoostView
from policies.api.decisions import DecisionsView
from policies.api.deployments import DeploymentsView
from policies.api.end_users import EndUserView
from policies.api.evaluate import EvaluateView
from policies.api.freeze import FreezeView
from policies.api.limits import LimitsView
from policies.api.plans import PlansView, PlanView
from policies.api.policies import PoliciesView, PolicyView
from policies.api.policy_file import PolicyFileView
from policies.api.reservations import ExtendView, ReservationView
from policies.api.simulations import SimulateView, SimulationView
from policies.api.suggested_limits import SuggestedLimitsView
from tokvigil_site import errors, health, openapi
from tokvigil_site.content_policy import NONE, SELF, UNSAFE_INLINE, csp_override
from usage.api.api_keys import ApiKeysView, ApiKeyView, OldSecretView, RotateView
from usage.api.me import MeView
from usage.api.models import ModelsView
from usage.api.prices import PricesView, PriceView
from usage.api.summary import UsageSummaryView
from usage.api.usage import UsageBatchView, UsageView


class AnyText(StringConverter):
    """Ids that callers choose: they may hold slashes and line feeds."""

    regex = r"(?s:.+)"


register_converter(AnyText, "any")

# Swagger UI writes styles into its elements.
DOCS = {
    "default-src": [NONE],
    "script-src": [SELF],
    "style-src": [SELF, UNSAFE_INLINE],
    "img-src": [SELF, "data:"],
    "connect-src": [SELF],
    "base-uri": [NONE],
    "frame-ancestors": [NONE],
}

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("v1/evaluate", EvaluateView.as_view()),
    path("v1/usage", UsageView.as_view()),
    path("v1/usage/batch", UsageBatchView.as_view()),
    path("v1/usage/summary", UsageSummaryView.as_view()),
    path("v1/reservations/<any:request_id>/extend", ExtendView.as_view()),
    path("v1/reservations/<any:request_id>", ReservationView.as_view()),
    path("v1/limits", LimitsView.as_view()),
    path("v1/decisions", DecisionsView.as_view()),
    path("v1/policy-file", PolicyFileView.as_view()),
    path("v1/deployments", DeploymentsView.as_view()),
    path("v1/plans", PlansView.as_view()),
    path("v1/plans/<any:name>", PlanView.as_view()),
    path("v1/boosts", BoostsView.as_view()),
    path("v1/boosts/<str:boost_id>", BoostView.as_view()),
    path("v1/policies", PoliciesView.as_view()),
    path("v1/policies/suggested-limits", SuggestedLimitsView.as_view()),
    path("v1/policies/simulate", SimulateView.as_view()),
    path("v1/policies/simulations/<str:simulation_id>", SimulationView.as_view()),
    path("v1/policies/<str:policy_id>", PolicyView.as_view()),
    path("v1/api-keys", ApiKeysView.as_view()),
    path("v1/api-keys/<str:key_id>/rotate", RotateView.as_view()),
    path("v1/api-keys/<str:key_id>/old-secret", OldSecretView.as_view()),
    path("v1/api-keys/<str:key_id>", ApiKeyView.as_view()),
    path("v1/freeze", FreezeView.as_view()),
    path("v1/prices", PricesView.as_view()),
    path("v1/prices/<str:provider>/<any:model>", PriceView.as_view()),
    path("v1/models", ModelsView.as_view()),
    path("v1/end-users/<any:user_id>", EndUserView.as_view()),
    path("v1/me", MeView.as_view()),
    path("v1/schema/", openapi.schema, name="schema"),
    re_path(r"^v1(?:/|$)", errors.unknown_address),
    path("docs/", csp_override(DOCS)(SpectacularSwaggerSplitView.as_view(url_name="schema"))),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("admin/", admin.site.urls),
]

handler400 = errors.bad_request
handler500 = errors.server_error
