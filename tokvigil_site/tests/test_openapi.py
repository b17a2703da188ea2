"""The OpenAPI document says what the API does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from django.urls import get_resolver

from policies.api import examples as evaluate_examples
from policies.deciding.evaluate_answer import EvaluateAnswer
from policies.deciding.evaluate_request import EvaluateRequest
from policies.reasons import ALL_CODES, ReasonClass
from tenants.models import Environment
from tokvigil_site import openapi
from tokvigil_site.testing import Api, apply_policies, limits
from usage.api import examples as usage_examples
from usage.settling.usage_report import UsageReceipt, UsageReport

METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(openapi.document())
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def test_the_committed_file_is_the_generated_one() -> None:
    """If not: manage.py spectacular --validate --fail-on-warn --file openapi.yaml"""
    assert (settings.BASE_DIR / "openapi.yaml").read_bytes() == openapi.document()


def test_it_is_valid_and_raises_no_warning(tmp_path: Any) -> None:
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(tmp_path / "openapi.yaml"))


def test_every_operation_has_an_id_a_summary_and_needs_a_key(document: dict[str, Any]) -> None:
    found = operations(document)

    assert len({operation["operationId"] for operation in found.values()}) == len(found) == 40
    assert all(operation["summary"] and operation["description"] for operation in found.values())
    assert all(operation["security"] == [{"apiKey": []}] for operation in found.values())
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"


def test_every_refusal_is_a_problem(document: dict[str, Any]) -> None:
    problem = {"$ref": "#/components/schemas/ProblemAnswer"}
    for name, operation in operations(document).items():
        refusals = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {"401", "403", "429", "503"} <= refusals.keys(), name
        for answer in refusals.values():
            assert answer["content"] == {"application/problem+json": {"schema": problem}}


def test_every_property_of_the_main_calls_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    names = {
        "EvaluateRequest",
        "EvaluateAnswer",
        "ShadowAnswer",
        "PolicyAnswer",
        "ReservedAnswer",
        "TraceAnswer",
    }
    names |= {"CandidateAnswer", "PriceAnswer", "LimitState", "UsageReport", "UsageReceipt"}
    names |= {"UsageBatchRequest", "BatchAnswer", "BatchResult", "BatchError"}
    silent = [
        f"{name}.{field}"
        for name in sorted(names)
        for field, schema in schemas[name]["properties"].items()
        if not schema.get("description")
    ]

    assert silent == []


def test_reasons_are_listed(document: dict[str, Any]) -> None:
    for name in ("EvaluateAnswer", "ShadowAnswer"):
        properties = document["components"]["schemas"][name]["properties"]
        assert properties["reason_code"]["enum"] == list(ALL_CODES)
        assert properties["reason_class"]["enum"] == [each.value for each in ReasonClass]


def test_every_tag_is_introduced_and_used(document: dict[str, Any]) -> None:
    tags = [tag["name"] for tag in document["tags"]]

    assert tags[:2] == ["evaluate", "usage"]
    assert set(tags) == {tag for operation in operations(document).values() for tag in operation["tags"]}


def test_every_route_of_the_api_is_described(document: dict[str, Any]) -> None:
    routes = [str(pattern.pattern) for pattern in get_resolver().url_patterns]
    described = {path.removeprefix("/").replace("{", "").replace("}", "") for path in document["paths"]}
    named = {
        route.replace("<any:", "").replace("<str:", "").replace(">", "")
        for route in routes
        if route.startswith("v1/") and route != "v1/schema/"
    }

    assert described == named


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    schemas = document["components"]["schemas"]
    named = {reference.rpartition("/")[2] for reference in references(document)}

    assert named == set(schemas)


def test_the_examples_are_of_the_types_they_illustrate() -> None:
    msgspec.convert(evaluate_examples.EVALUATE_REQUEST, EvaluateRequest)
    msgspec.convert(usage_examples.USAGE_REPORT, UsageReport)
    fields = {field.encode_name for field in msgspec.structs.fields(EvaluateAnswer)}
    for example in (evaluate_examples.EVALUATE_ALLOWED, evaluate_examples.EVALUATE_BLOCKED):
        assert set(example) == fields
        msgspec.convert(example, EvaluateAnswer)
    msgspec.convert(usage_examples.USAGE_RECEIPT, UsageReceipt)


def test_the_example_calls_work(api: Api, environment: Environment) -> None:
    per_day = "{metric: requests, window: day, amount: 50, per: user}"
    apply_policies(environment, "plans: [free]\n" + limits(per_day, name="Free plan", scope="{plan: free}"))

    decision = api.post("/v1/evaluate", evaluate_examples.EVALUATE_REQUEST).json
    receipt = api.post("/v1/usage", usage_examples.USAGE_REPORT).json

    assert (decision["allowed"], decision["policy"]["name"]) == (True, "Free plan")
    assert set(receipt) == set(usage_examples.USAGE_RECEIPT)
    assert receipt["limit_state"][0].keys() == usage_examples.USAGE_RECEIPT["limit_state"][0].keys()  # type: ignore[index]


def test_the_document_is_served_without_a_key() -> None:
    answer = Client().get("/v1/schema/")

    assert answer.status_code == 200
    assert answer.content == openapi.document()


def test_the_docs_page_loads_nothing_from_elsewhere() -> None:
    answer = Client().get("/docs/")

    assert answer.status_code == 200
    assert b"/v1/schema/" in Client().get("/docs/?script=").content
    assert b"https://" not in answer.content.replace(b"https://github.com", b"")
    assert b"drf_spectacular_sidecar" in answer.content


def test_the_docs_page_is_dark_where_the_readers_system_is() -> None:
    page = Client().get("/docs/").content.decode()
    assert '<script src="/static/tokvigil/api_docs.js">' in page
    assert page.index("swagger-ui.css") < page.index("tokvigil/api_docs.css")
