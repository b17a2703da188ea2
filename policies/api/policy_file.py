"""`GET` and `PUT /v1/policy-file`: all policies, plans and deployments of an environment as one document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from django.http import HttpResponse
from rest_framework.request import Request

from policies import policy_rows
from policies.changing import publishing
from policies.changing.publishing import Change, PolicyChange
from policies.files import documents
from policies.files.file_errors import FileError, PolicyFileError, join_path, raise_any
from policies.rules import PolicySet
from tenants import scopes
from tenants.api import editions, http, problems, queries
from tenants.api.openapi import operation
from tenants.models import Environment
from usage.api.key_view import KeyView


class PolicyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy file as JSON: `version` is 1, each policy is written as in a YAML policy file.

    `deployments`: names of models as the environment calls them, and the models behind them; left out or null, those
    that there are stay.
    """

    version: int = documents.VERSION
    plans: list[str] = []
    deployments: dict[str, str] | None = None
    policies: list[dict[str, Any]] = []


class PublishQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`PUT` of a whole document. `dry_run`: say what would change, and change nothing."""

    dry_run: bool = False


class ChangeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`what`: policy, plan or deployment. `change`: added, changed, archived (of a policy) or removed (of a plan or
    deployment). `diff`: lines of a unified diff.
    """

    what: str
    name: str
    change: str
    version: int | None
    diff: tuple[str, ...]


class PublishedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was changed; of a dry run, what would be. Nothing: the environment was like this already."""

    dry_run: bool
    changes: tuple[ChangeAnswer, ...]


_body = msgspec.json.Decoder(PolicyFile)


class PolicyFileView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "getPolicyFile",
        "All policies, plans and deployments as one document",
        tag="policies",
        description="What `PUT` takes. `ETag` is the revision, for `If-Match`.",
        query=queries.NoParameters,
        answers={200: PolicyFile},
    )
    def get(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        environment = Environment.objects.get(pk=self.environment_id)
        found = policy_rows.policy_set(environment)
        body = PolicyFile(
            plans=[*found.plans],
            deployments=dict(found.deployments or ()),
            policies=list(map(documents.document, found.policies)),
        )
        return editions.tagged(http.json_response(body), environment.pk)

    @operation(
        "publishPolicyFile",
        "Make a document what is in force",
        tag="policies",
        description="Policies are matched by name; those that it does not name are archived. All or nothing. "
        "Sent again it changes nothing. It binds the very next call.",
        query=PublishQuery,
        body=PolicyFile,
        answers={200: PublishedAnswer},
        problems=(412,),
    )
    def put(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, PublishQuery)
        body = http.decode(request._request, _body)
        try:
            wanted = policy_set(body)
            with editions.expected(request._request, self.environment_id) as environment:
                changes = publishing.publish(environment, wanted, actor=self.actor, dry_run=query.dry_run)
        except PolicyFileError as error:
            raise refused(error) from error
        return editions.tagged(http.json_response(published(changes, query)), self.environment_id)


def published(changes: Iterable[Change], query: PublishQuery) -> PublishedAnswer:
    return PublishedAnswer(dry_run=query.dry_run, changes=tuple(map(_change, changes)))


def refused(error: PolicyFileError, *, inside: str = "") -> problems.Problem:
    """`inside`: the field of the body that is the document."""
    return problems.invalid(
        *(
            problems.FieldError(
                field=join_path(inside, each.path) if each.path else inside, message=each.message
            )
            for each in error.errors
        )
    )


def policy_set(body: PolicyFile) -> PolicySet:
    """Raises PolicyFileError."""
    errors: list[FileError] = []
    document = msgspec.to_builtins(body)
    if body.deployments is None:
        del document["deployments"]
    found = documents.policy_set_of(document, errors)
    raise_any(errors)
    return found


def _change(change: Change) -> ChangeAnswer:
    return ChangeAnswer(
        what=publishing.NOUNS[type(change)],
        name=change.name,
        change=change.kind.value,
        version=change.version if isinstance(change, PolicyChange) else None,
        diff=change.diff,
    )
