"""`GET` and `PUT /v1/deployments`: the environment's own names of models, as one table."""

from __future__ import annotations

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample
from rest_framework.request import Request

from policies.api.policy_file import PublishedAnswer, PublishQuery, published, refused
from policies.changing import publishing
from policies.files import documents
from policies.files.file_errors import FileError, PolicyFileError, raise_any
from policies.models import Deployment
from tenants import scopes
from tenants.api import editions, http, queries
from tenants.api.openapi import operation
from usage.api.key_view import KeyView


class Deployments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """By name the model behind it: what calls under the name are priced and governed as."""

    deployments: dict[str, str]


_TABLE = {"deployments": {"team-chat": "gpt-4o"}}
_read = OpenApiExample("table", _TABLE, summary="One name", response_only=True)
_asked = OpenApiExample("wanted", _TABLE, summary="One name alone", request_only=True)
_body = msgspec.json.Decoder(Deployments)


class DeploymentsView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "getDeployments",
        "The environment's own names of models",
        tag="deployments",
        description="What `PUT` takes. `ETag` is the revision, for `If-Match`.",
        query=queries.NoParameters,
        answers={200: Deployments},
        examples=[_read],
    )
    def get(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        rows = Deployment.objects.filter(environment_id=self.environment_id).order_by("name")
        answer = Deployments(deployments=dict(rows.values_list("name", "model")))
        return editions.tagged(http.json_response(answer), self.environment_id)

    @operation(
        "putDeployments",
        "Set the environment's own names of models",
        tag="deployments",
        description="The table is whole: a name that is not in it is removed. All or nothing. Sent again it changes "
        "nothing. It binds the very next call.",
        query=PublishQuery,
        body=Deployments,
        answers={200: PublishedAnswer},
        problems=(412,),
        examples=[_asked],
    )
    def put(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, PublishQuery)
        wanted = http.decode(request._request, _body).deployments
        try:
            table = _table(wanted)
            with editions.expected(request._request, self.environment_id) as environment:
                changes = publishing.publish_deployments(
                    environment, table, actor=self.actor, dry_run=query.dry_run
                )
        except PolicyFileError as error:
            raise refused(error) from error
        return editions.tagged(http.json_response(published(changes, query)), self.environment_id)


def _table(wanted: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Raises PolicyFileError for what a policy file may not say of them."""
    errors: list[FileError] = []
    found = documents.policy_set_of({"version": documents.VERSION, "deployments": wanted}, errors)
    raise_any(errors)
    return found.deployments or ()
