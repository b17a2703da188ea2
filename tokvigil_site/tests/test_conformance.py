"""Whatever the OpenAPI document allows is answered as it says: schemathesis against the WSGI application."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tenants.models import Environment
from tokvigil_site.handlers import Application
from tokvigil_site.testing import Api, apply_policies, limits, set_price

# Sixteen operations; more are tried by setting it higher.
EXAMPLES_MAX = int(os.environ.get("CONFORMANCE_EXAMPLES", "15"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


schema = schemathesis.openapi.from_wsgi("/v1/schema/", Application())


@pytest.fixture
def key(api: Api, environment: Environment) -> str:
    """Of an environment with something to find: policies, a price, blocked calls, usage and an open hold."""
    apply_policies(
        environment, "plans: [free]\n" + limits("{metric: requests, window: day, amount: 2, per: user}")
    )
    set_price("test-model", input_usd="1")
    api.use()
    for _ in range(2):
        api.evaluate()
    return api.text


@schema.parametrize()
@settings(
    max_examples=EXAMPLES_MAX,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: schemathesis.Case[Any], key: str) -> None:
    case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {key}"})
