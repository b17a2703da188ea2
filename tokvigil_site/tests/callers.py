"""Keys with few scopes, and what a refusal must look like. Holds no test."""

from __future__ import annotations

from tenants.models import ApiKey, Environment
from tokvigil_site.testing import Answer, Api


def caller_with(environment: Environment, *scopes: str) -> Api:
    """Whoever holds a key with these scopes alone."""
    api = Api(environment)
    api.key, api.text = ApiKey.issue(environment, "narrow", scopes)
    return api


def assert_problem(answer: Answer, status: int, code: str, *, field: str | None = None) -> None:
    """A refusal says what, why and where, as problem+json."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json", answer.headers
    problem = answer.json
    assert set(problem) == {"type", "title", "status", "code", "detail", "errors", "request_id"}
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    if field is not None:
        assert field in [error["field"] for error in problem["errors"]], problem
        assert all(error["message"] for error in problem["errors"])
