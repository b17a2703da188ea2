"""Names that an environment has for models: what a call under one costs, and which lists meet it."""

from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from audit.models import Entry
from policies.changing import publishing
from policies.files import policy_file
from policies.files.file_errors import PolicyFileError
from policies.models import Deployment
from policies.policy_rows import policy_set
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, ledger, set_price
from usage.admin import price_list
from usage.prices import stored_book

pytestmark = pytest.mark.django_db(transaction=True)

EVERYONE = "policies: [{name: P, models: {deny: [gpt-5]}}]"


@pytest.fixture(autouse=True)
def prices(environment: Environment) -> None:
    set_price("gpt-4o", input_usd="2.5", output_usd="10")
    set_price("gpt-5", input_usd="1", output_usd="8")


def named(**deployments: str) -> str:
    return f"deployments: {{{', '.join(f'{name!r}: {model!r}' for name, model in deployments.items())}}}\n"


def test_a_deployment_has_the_price_of_its_model_before_the_call_and_after(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, named(**{"team-chat": "gpt-4o"}) + EVERYONE)

    decision = api.evaluate(model="Team-Chat", input_tokens=1000, max_output_tokens=200)
    receipt = api.report(decision["request_id"], model="team-chat", input_tokens=1000, output_tokens=200).json

    assert decision["allowed"]
    assert Decimal(decision["estimated_cost_usd"]) == Decimal("0.0045")
    assert (receipt["priced"], Decimal(receipt["cost_usd"])) == (True, Decimal("0.0045"))


def test_what_the_answer_says_is_what_is_priced_and_kept(api: Api, environment: Environment) -> None:
    apply_policies(environment, named(**{"model-router": "gpt-4o"}) + EVERYONE)

    decision = api.evaluate(model="model-router", input_tokens=1000, max_output_tokens=200)
    receipt = api.report(decision["request_id"], model="gpt-5", input_tokens=1000, output_tokens=200).json

    assert Decimal(receipt["cost_usd"]) == Decimal("0.0026")
    assert [event.model for event in ledger(environment)] == ["gpt-5"]


def test_lists_meet_a_deployment_by_its_name_and_by_its_model(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        named(**{"team-chat": "gpt-5-2025-08-07", "ours": "gpt-4o", "secret": "gpt-4o"})
        + "policies: [{name: P, models: {allow: [gpt-4o, gpt-5], deny: [gpt-5, secret]}}]",
    )

    assert api.evaluate(model="team-chat")["reason_code"] == "MODEL_DENIED"
    assert api.evaluate(model="azure/team-chat")["reason_code"] == "MODEL_DENIED"
    assert api.evaluate(model="secret")["reason_code"] == "MODEL_DENIED"
    assert api.evaluate(model="ours")["allowed"]
    assert api.evaluate(model="theirs")["reason_code"] == "MODEL_NOT_ALLOWED"


def test_lists_meet_a_deployment_by_its_model_also_without_a_price(
    api: Api, environment: Environment
) -> None:
    apply_policies(
        environment,
        named(ours="our-own-2026-01-01", theirs="not-ours")
        + "policies: [{name: P, unknown_price: allow, models: {allow: ['*our*'], deny: [not-ours]}},"
        " {name: Q, kind: guardrail, unknown_price: allow, models: {allow: [our-own, not-ours]}}]",
    )

    assert api.evaluate(model="ours")["allowed"]
    assert api.evaluate(model="theirs")["reason_code"] == "MODEL_DENIED"


def test_a_change_binds_the_very_next_call(api: Api, environment: Environment) -> None:
    apply_policies(environment, EVERYONE)
    assert api.evaluate(model="team-chat")["reason_code"] == "PRICE_UNKNOWN"

    deployment = publishing.put_deployment(environment, "team-chat", "gpt-4o", actor="test")
    assert api.evaluate(model="team-chat")["allowed"]
    publishing.put_deployment(environment, "TEAM-CHAT", "gpt-5", actor="test")
    assert api.evaluate(model="team-chat")["reason_code"] == "MODEL_DENIED"
    publishing.remove_deployment(deployment, actor="test")
    assert api.evaluate(model="team-chat")["reason_code"] == "PRICE_UNKNOWN"


def test_another_environment_does_not_know_the_name(api: Api, environment: Environment) -> None:
    publishing.put_deployment(environment, "team-chat", "gpt-4o", actor="test")
    dev = environment.tenant.environments.get(slug="dev")

    now = timezone.now()
    assert stored_book.of_environment(environment).find("team-chat", now) is not None
    assert stored_book.of_environment(dev).find("team-chat", now) is None


def test_a_model_behind_a_deployment_is_none_without_a_price(api: Api, environment: Environment) -> None:
    apply_policies(environment, "policies: [{name: P, unknown_price: allow}]")
    api.report("r-1", model="team-chat", input_tokens=10, output_tokens=1)
    unpriced = [each.model for each in price_list.unpriced(environment, timezone.now())]

    publishing.put_deployment(environment, "team-chat", "gpt-4o", actor="test")

    assert unpriced == ["team-chat"]
    assert price_list.unpriced(environment, timezone.now()) == []


def test_a_file_says_all_deployments_or_nothing_of_them(
    environment: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apply_policies(environment, named(a="gpt-4o", b="gpt-5") + EVERYONE)
    apply_policies(environment, EVERYONE)
    assert policy_set(environment).deployments == (("a", "gpt-4o"), ("b", "gpt-5"))

    file = tmp_path / "policies.yaml"
    file.write_text(policy_file.dump(policy_set(environment)).replace("b: gpt-5", "B: gpt-4o"))
    call_command("apply_policies", str(environment), str(file))
    assert capsys.readouterr().out.splitlines()[:4] == [
        "deployment 'b': removed",
        "    -b: gpt-5",
        "deployment 'B': added",
        "    +B: gpt-4o",
    ]

    apply_policies(environment, "deployments: {}\n" + EVERYONE)
    assert policy_set(environment).deployments is None


def test_each_change_is_in_the_audit_log_once(environment: Environment) -> None:
    for model in ("gpt-4o", "gpt-4o", "gpt-5"):
        deployment = publishing.put_deployment(environment, "team-chat", model, actor="test")
    publishing.remove_deployment(deployment, actor="test")
    publishing.remove_deployment(deployment, actor="test")

    entries = Entry.objects.filter(action__startswith="deployment.").order_by("id")
    assert [(entry.action, entry.target_name, entry.data["model"]) for entry in entries] == [
        ("deployment.added", "team-chat", "gpt-4o"),
        ("deployment.changed", "team-chat", "gpt-5"),
        ("deployment.removed", "team-chat", "gpt-5"),
    ]


def test_the_document_of_the_api_has_them(api: Api, environment: Environment) -> None:
    apply_policies(environment, EVERYONE)
    document = api.get("/v1/policy-file").json
    assert document["deployments"] == {}

    put = document | {"deployments": {"team-chat": "gpt-4o"}}
    changes = api.request("PUT", "/v1/policy-file", put).json["changes"]
    assert [(each["what"], each["name"], each["change"], each["diff"]) for each in changes] == [
        ("deployment", "team-chat", "added", ["+team-chat: gpt-4o"])
    ]
    del put["deployments"]
    assert api.request("PUT", "/v1/policy-file", put).json["changes"] == []
    assert api.get("/v1/policy-file").json["deployments"] == {"team-chat": "gpt-4o"}


@pytest.mark.parametrize(
    ("deployments", "place", "message"),
    [
        ("[team-chat]", "deployments", "mapping of names to models"),
        ("{team-chat: }", "deployments.team-chat", "missing or empty"),
        ("{team-chat: [gpt-4o]}", "deployments.team-chat", "must be a text"),
        ("{' team-chat': gpt-4o}", "deployments", "begins or ends with a blank"),
        ("{team-chat: gpt-4o, Team-Chat: gpt-5}", "deployments.Team-Chat", "only in case"),
    ],
)
def test_what_is_wrong_with_one_is_said_at_its_place(deployments: str, place: str, message: str) -> None:
    with pytest.raises(PolicyFileError) as refused:
        policy_file.parse(f"version: 1\ndeployments: {deployments}")

    (error,) = refused.value.errors
    assert error.path.startswith(place)
    assert message in error.message


def test_names_that_differ_only_in_case_are_one(environment: Environment) -> None:
    publishing.put_deployment(environment, "team-chat", "gpt-4o", actor="test")
    publishing.put_deployment(environment, "Team-Chat", "gpt-4o", actor="test")

    assert [str(row) for row in Deployment.objects.all()] == ["team-chat"]
    with pytest.raises(PolicyFileError, match="missing or empty"):
        publishing.put_deployment(environment, "x", "", actor="test")
