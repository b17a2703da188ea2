"""What tests of alerts start with: a receiver that may be called, and an endpoint that leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from policies.alert_events import IN_WORDS
from policies.alerting import endpoints, rules
from policies.models import AlertEndpoint, AlertRule
from tenants.models import Environment
from tokvigil_site.tests.alerting.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as there, override_settings(ALERT_PRIVATE_TARGETS=[there.place]):
        yield there


def new_rule(environment: Environment, event: str = "limit.threshold", **fields: Any) -> AlertRule:
    fields.setdefault("name", event)
    fields.setdefault("thresholds", [50, 80, 100] if event == "limit.threshold" else [])
    rule = AlertRule(environment=environment, event=event, **fields)
    rules.add(rule, actor="test")
    return rule


def new_endpoint(environment: Environment, address: str, **fields: Any) -> tuple[AlertEndpoint, str]:
    """And its signing secret."""
    fields = {"name": "Hook", "kind": "webhook", "events": [*IN_WORDS], **fields}
    endpoint = AlertEndpoint(environment=environment, address=address, **fields)
    endpoints.clean(endpoint)
    return endpoint, endpoints.add(endpoint, actor="test")
