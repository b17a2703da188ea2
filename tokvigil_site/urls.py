from django.contrib import admin
from django.urls import path

from policies.views.evaluate import EvaluateView
from policies.views.reservations import ExtendView, ReservationView
from usage.views.report import UsageBatchView, UsageView

urlpatterns = [
    path("v1/evaluate", EvaluateView.as_view()),
    path("v1/usage", UsageView.as_view()),
    path("v1/usage/batch", UsageBatchView.as_view()),
    path("v1/reservations/<path:request_id>/extend", ExtendView.as_view()),
    path("v1/reservations/<path:request_id>", ReservationView.as_view()),
    path("admin/", admin.site.urls),
]
