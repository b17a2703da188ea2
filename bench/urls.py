"""The product's URLs, and an empty DRF view to measure evaluate against."""

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tokvigil_site.urls import urlpatterns as product


class EmptyView(APIView):
    """What DRF does for every request, and nothing else."""

    authentication_classes = ()
    permission_classes = ()

    def post(self, request: Request) -> Response:
        return Response({"ok": True})


urlpatterns = [
    path("bench/empty", EmptyView.as_view()),
    path("v1/bench/empty", EmptyView.as_view()),
    *product,
]
