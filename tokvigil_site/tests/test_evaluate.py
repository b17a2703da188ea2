"""What an evaluate decides, seen from the API."""

from datetime import UTC, datetime

import pytest

from policies.end_users import set_end_user
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, at_once, ledger, limits, set_clock, set_price
from tokvigil_site.tests.callers import assert_problem, caller_with
from usage.settling import recount

DAILY_5 = "{metric: requests, window: day, amount: 5, per: user}"


def codes(api: Api, count: int, **fields: object) -> list[str]:
    return [api.evaluate(**fields)["reason_code"] for _ in range(count)]  # type: ignore[arg-type]


def test_a_limit_lets_exactly_its_amount_pass(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))

    assert codes(api, 7) == ["ALLOWED"] * 5 + ["DAILY_REQUEST_LIMIT_EXCEEDED"] * 2


def test_a_blocked_answer_says_all_that_a_caller_needs(api: Api, environment: Environment) -> None:
    set_clock(datetime(2026, 11, 23, 22, 0, tzinfo=UTC))
    apply_policies(
        environment, limits("{metric: requests, window: day, amount: 1, per: user}", name="Free plan")
    )
    api.use()

    blocked = api.evaluate()

    assert blocked["allowed"] is False
    assert blocked["reason_code"] == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert blocked["reason_class"] == "exhausted"
    assert blocked["message"].startswith("Daily request limit of 1 reached for user user_1")
    assert blocked["policy"]["name"] == "Free plan"
    assert blocked["policy"]["version"] == 1
    # Midnight in Berlin is 23:00 UTC.
    assert 3590 < blocked["retry_after"] <= 3600
    assert blocked["limit_state"] == [
        {
            "policy": "Free plan",
            "metric": "requests",
            "window": "day",
            "per": "user",
            "limit": 1,
            "used": 1,
            "held": 0,
            "remaining": 0,
            "resets_at": "2026-11-23T23:00:00Z",
            "exceeded": True,
        }
    ]
    assert blocked["reserved"] is None
    assert blocked["expires_at"] is None


def test_a_rejected_call_consumes_nothing(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}", DAILY_5))
    api.evaluate(input_tokens=90)

    rejected = api.evaluate(input_tokens=20)
    fitting = api.evaluate(input_tokens=10)

    assert rejected["reason_code"] == "DAILY_TOKEN_LIMIT_EXCEEDED"
    assert fitting["allowed"]
    requests = next(state for state in fitting["limit_state"] if state["metric"] == "requests")
    assert (requests["held"], requests["remaining"]) == (2, 3)


def test_all_limits_hold_or_none_does(api: Api, environment: Environment) -> None:
    per_user = "{metric: requests, window: day, amount: 100, per: user}"
    apply_policies(
        environment, limits(per_user, "{metric: requests, window: day, amount: 3, per: environment}")
    )
    codes(api, 10)

    assert recount.check(environment).held.requests == 3


@pytest.mark.parametrize(
    "metric", ["requests", "tokens", "input_tokens", "output_tokens", "cost_usd", "concurrency"]
)
def test_a_limit_of_0_blocks_everything(api: Api, environment: Environment, metric: str) -> None:
    set_price("test-model")
    window = "total" if metric == "concurrency" else "day"
    apply_policies(environment, limits(f"{{metric: {metric}, window: {window}, amount: 0, per: user}}"))

    blocked = api.evaluate(input_tokens=1)

    assert not blocked["allowed"]
    assert blocked["retry_after"] is None
    if metric != "concurrency":
        assert blocked["reason_class"] == "too_large"


def test_the_same_request_is_answered_the_same_and_holds_once(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))
    first = api.evaluate(request_id="r-1", input_tokens=7)
    api.evaluate()

    again = api.evaluate(request_id="r-1", input_tokens=7)

    assert again == first
    assert recount.check(environment).open_reservations == 2


def test_a_request_id_in_use_with_other_content_is_a_conflict(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))
    api.evaluate(request_id="r-1", input_tokens=7)
    body = {"user_id": "user_1", "model": "test-model", "input_tokens": 8, "request_id": "r-1"}

    answer = api.post("/v1/evaluate", body)

    assert answer.status == 409
    assert answer.json["code"] == "IDEMPOTENCY_CONFLICT"


def test_a_request_id_cannot_be_evaluated_again_once_reported(api: Api, environment: Environment) -> None:
    """Else an application that repeats an id would make calls that no report can charge."""
    apply_policies(environment, limits(DAILY_5))
    request_id = api.use()

    answer = api.post("/v1/evaluate", {"user_id": "user_1", "model": "test-model", "request_id": request_id})

    assert_problem(answer, 409, "ALREADY_SETTLED")


def test_the_same_evaluate_after_its_report_is_told_that_it_was_reported(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, limits(DAILY_5))
    body = {"user_id": "user_1", "model": "test-model", "input_tokens": 1, "request_id": "r-1"}
    assert api.post("/v1/evaluate", body).status == 200
    assert api.report("r-1").status == 201

    answer = api.post("/v1/evaluate", body)

    assert_problem(answer, 409, "ALREADY_SETTLED")
    assert "was reported" in answer.json["detail"]


def test_a_blocked_request_id_is_decided_afresh(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
    assert not api.evaluate(request_id="r-1")["allowed"]

    apply_policies(environment, limits(DAILY_5))

    assert api.evaluate(request_id="r-1")["allowed"]


def test_a_dry_run_holds_nothing(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))

    assert [api.evaluate(dry_run=True)["allowed"] for _ in range(3)] == [True] * 3
    assert recount.check(environment).open_reservations == 0
    assert api.evaluate()["allowed"]
    assert not api.evaluate(dry_run=True)["allowed"]


def test_a_guardrail_holds_for_a_vip_without_limits(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        """
policies:
  - {name: VIP, scope: {user: vip}, unknown_price: allow}
  - name: Budget
    kind: guardrail
    unknown_price: allow
    limits: [{metric: tokens, window: month, amount: 10, per: environment}]
""",
    )

    assert api.evaluate("vip", input_tokens=10)["policy"]["name"] == "VIP"
    blocked = api.evaluate("vip", input_tokens=1)
    assert blocked["reason_code"] == "MONTHLY_TOKEN_LIMIT_EXCEEDED"
    assert blocked["policy"]["name"] == "Budget"


PLANS = """
plans: [free, pro]
policies:
  - {name: Free, scope: {plan: free}, unknown_price: allow, limits: [{metric: requests, window: day, amount: 1}]}
  - {name: Pro, scope: {plan: pro}, unknown_price: allow, limits: [{metric: requests, window: day, amount: 100}]}
"""


@pytest.mark.parametrize("claimed", [None, "pro", "unheard-of"])
def test_a_known_end_user_does_not_escape_the_plan(
    api: Api, environment: Environment, claimed: str | None
) -> None:
    apply_policies(environment, PLANS)
    set_end_user(environment, "user_1", plan_name="free", blocked=False, actor="test")

    decisions = [api.evaluate(plan=claimed) for _ in range(2)]

    assert [decision["allowed"] for decision in decisions] == [True, False]
    assert decisions[1]["policy"]["name"] == "Free"


def test_an_unknown_end_user_has_the_plan_of_the_request(api: Api, environment: Environment) -> None:
    apply_policies(environment, PLANS)

    assert api.evaluate(plan="pro")["policy"]["name"] == "Pro"
    assert api.evaluate(plan=None)["reason_code"] == "NO_POLICY"


def test_a_change_of_an_end_user_binds_the_next_evaluate(api: Api, environment: Environment) -> None:
    apply_policies(environment, PLANS)
    assert api.evaluate(plan="pro")["allowed"]

    set_end_user(environment, "user_1", plan_name="free", blocked=True, actor="test")
    assert api.evaluate(plan="pro")["reason_code"] == "USER_BLOCKED"

    set_end_user(environment, "user_1", plan_name="pro", blocked=False, actor="test")
    assert api.evaluate()["policy"]["name"] == "Pro"


def test_a_monitored_policy_never_blocks_but_says_so(api: Api, environment: Environment) -> None:
    apply_policies(
        environment, limits("{metric: requests, window: day, amount: 1, per: user}", mode="monitor")
    )
    api.evaluate()

    passed = api.evaluate()

    assert passed["allowed"]
    assert passed["reason_code"] == "ALLOWED"
    assert passed["shadow"]["reason_code"] == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert passed["limit_state"][0]["exceeded"]
    assert passed["limit_state"][0]["held"] == 2


def test_the_environments_default_action_decides_without_a_policy(api: Api, environment: Environment) -> None:
    apply_policies(environment, "policies: [{name: Free, scope: {plan: free}}]\nplans: [free]")
    assert api.evaluate()["reason_code"] == "NO_POLICY"
    assert api.evaluate()["reason_class"] == "allowed"

    environment.default_action = "block"
    environment.save()
    from tenants import revisions

    revisions.bump(environment.pk)

    blocked = api.evaluate()
    assert (blocked["allowed"], blocked["reason_code"], blocked["reason_class"]) == (
        False,
        "NO_POLICY",
        "forbidden",
    )


def test_models_are_allowed_and_denied_by_globs(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        'policies: [{name: P, unknown_price: allow, models: {allow: ["gpt-*"], deny: ["gpt-4*"]}}]',
    )

    assert api.evaluate(model="gpt-5-mini")["allowed"]
    assert api.evaluate(model="claude-x")["reason_code"] == "MODEL_NOT_ALLOWED"
    assert api.evaluate(model="gpt-4o")["reason_code"] == "MODEL_DENIED"


def test_a_denied_model_is_denied_however_it_is_spelled(api: Api, environment: Environment) -> None:
    for model in ("gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-mini"):
        set_price(model)
    apply_policies(environment, "policies: [{name: P, unknown_price: allow, models: {deny: [gpt-4o]}}]")

    for model in (
        "gpt-4o",
        "gpt-4o-2024-05-13",
        "models/gpt-4o",
        "openrouter/openai/gpt-4o",
        "azure/eu/gpt-4o",
    ):
        assert api.evaluate(model=model)["reason_code"] == "MODEL_DENIED", model
    assert api.evaluate(model="openrouter/openai/gpt-4o-mini")["allowed"]


BUDGET = '{metric: cost_usd, window: day, amount: "1.00", per: user}'


@pytest.mark.parametrize(
    ("policy", "model", "reason", "suggested"),
    [
        ('models: {allow: ["gpt-*", small, dear]}', "claude-x", "MODEL_NOT_ALLOWED", "small"),
        ('models: {allow: ["gpt-*"]}', "claude-x", "MODEL_NOT_ALLOWED", None),
        ("models: {allow: [small, dear], deny: [SMALL]}", "claude-x", "MODEL_NOT_ALLOWED", "dear"),
        ("models: {allow: [small, dear], deny: [dear]}", "dear", "MODEL_DENIED", "small"),
        ("models: {deny: [dear]}", "dear", "MODEL_DENIED", None),
        ("models: {allow: [unpriced, small]}", "unpriced", "PRICE_UNKNOWN", "small"),
        (
            'models: {allow: [dear, small]}, per_request: {cost_usd: "1.00"}',
            "dear",
            "REQUEST_COST_EXCEEDED",
            "small",
        ),
        (f"models: {{allow: [dear, small]}}, limits: [{BUDGET}]", "dear", "DAILY_BUDGET_EXCEEDED", "small"),
        (
            "models: {allow: [small]}, limits: [{metric: requests, window: day, amount: 0, per: user}]",
            "dear",
            "MODEL_NOT_ALLOWED",
            None,
        ),
        (
            "models: {allow: [small, dear]}, limits: [{metric: requests, window: day, amount: 0, per: user}]",
            "dear",
            "DAILY_REQUEST_LIMIT_EXCEEDED",
            None,
        ),
        ("mode: monitor, models: {allow: [small]}", "dear", "ALLOWED", None),
    ],
)
def test_a_block_suggests_the_first_model_that_the_policies_name_and_would_allow(
    api: Api, environment: Environment, policy: str, model: str, reason: str, suggested: str | None
) -> None:
    set_price("small", output_usd="1")
    set_price("dear", output_usd="10000")
    apply_policies(environment, f"policies: [{{name: P, {policy}}}]")

    blocked = api.evaluate(model=model, max_output_tokens=1000)

    assert (blocked["reason_code"], blocked["suggested_model"]) == (reason, suggested)
    if suggested is not None:
        assert api.evaluate(model=suggested, max_output_tokens=1000)["allowed"]


def test_a_suggestion_is_one_that_the_guardrails_allow_too(api: Api, environment: Environment) -> None:
    for model in ("small", "medium"):
        set_price(model)
    apply_policies(
        environment,
        "policies: [{name: P, models: {allow: [small, medium]}},"
        " {name: G, kind: guardrail, models: {allow: [medium]}},"
        " {name: M, kind: guardrail, mode: monitor, models: {deny: [medium]}}]",
    )

    assert api.evaluate(model="small")["suggested_model"] == "medium"


def test_a_suggestion_fits_what_the_budget_has_left(api: Api, environment: Environment) -> None:
    set_price("small", output_usd="400")
    set_price("dear", output_usd="10000")
    apply_policies(
        environment, f"policies: [{{name: P, models: {{allow: [dear, small]}}, limits: [{BUDGET}]}}]"
    )
    suggestions = []
    for _ in range(3):
        suggestions.append(api.evaluate(model="dear", max_output_tokens=1000)["suggested_model"])
        api.evaluate(model="small", max_output_tokens=1000)

    assert suggestions == ["small", "small", None]


def test_a_model_without_a_price_is_blocked_unless_the_policy_lets_it(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, "policies: [{name: P, unknown_price: block}]")
    assert api.evaluate(model="nobodys-model")["reason_code"] == "PRICE_UNKNOWN"

    apply_policies(environment, "policies: [{name: P, unknown_price: allow}]")
    passed = api.evaluate(model="nobodys-model")
    assert passed["allowed"]
    assert passed["estimated_cost_usd"] is None


def test_per_request_caps(api: Api, environment: Environment) -> None:
    set_price("test-model", output_usd="1000")
    apply_policies(
        environment,
        'policies: [{name: P, per_request: {cost_usd: "0.05", input_tokens: 100, output_tokens: 60}}]',
    )

    assert api.evaluate(input_tokens=101)["reason_code"] == "REQUEST_TOKENS_EXCEEDED"
    assert api.evaluate(max_output_tokens=61)["reason_code"] == "REQUEST_TOKENS_EXCEEDED"
    over = api.evaluate(max_output_tokens=51)
    assert (over["reason_code"], over["reason_class"]) == ("REQUEST_COST_EXCEEDED", "too_large")
    assert over["retry_after"] is None
    assert api.evaluate(max_output_tokens=50)["estimated_cost_usd"] == "0.05"


def test_without_a_wish_the_policys_output_cap_is_held_and_handed_on(
    api: Api, environment: Environment
) -> None:
    apply_policies(
        environment, "policies: [{name: P, unknown_price: allow, per_request: {output_tokens: 77}}]"
    )

    decision = api.evaluate(max_output_tokens=None)

    assert decision["max_output_tokens"] == 77
    assert decision["reserved"]["output_tokens"] == 77


def test_the_input_text_is_counted_and_not_stored(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))

    decision = api.evaluate(input_tokens=None, input_text="hello world, this is a text", model="gpt-4o")

    assert decision["reserved"]["input_tokens"] == 7


def test_of_several_limits_the_one_that_resets_last_speaks(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        limits(
            "{metric: requests, window: day, amount: 1, per: user}",
            "{metric: requests, window: month, amount: 1, per: user}",
            "{metric: tokens, window: month, amount: 1, per: user}",
        ),
    )
    api.use()

    assert api.evaluate()["reason_code"] == "MONTHLY_REQUEST_LIMIT_EXCEEDED"


def test_a_block_by_calls_in_flight_is_transient(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    held = api.evaluate()

    assert api.evaluate()["reason_class"] == "transient"
    assert api.request("DELETE", f"/v1/reservations/{held['request_id']}").status == 204
    assert api.evaluate()["allowed"]


def test_concurrency_counts_calls_in_flight(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: concurrency, window: total, amount: 2, per: user}"))
    first, _ = api.evaluate(), api.evaluate()

    blocked = api.evaluate()
    assert (blocked["reason_code"], blocked["reason_class"]) == ("CONCURRENCY_LIMIT_EXCEEDED", "transient")

    assert api.report(first["request_id"]).status == 201
    assert api.evaluate()["allowed"]
    assert not api.evaluate()["allowed"]


def test_a_policy_added_in_mid_month_starts_from_what_was_used(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))
    for _ in range(3):
        api.use(feature="chat", input_tokens=10)

    apply_policies(environment, limits("{metric: tokens, window: month, amount: 35, per: feature}"))
    state = api.evaluate(feature="chat")["limit_state"][0]

    assert (state["used"], state["held"]) == (30, 1)


def test_a_counter_is_a_fact_that_no_edit_of_a_policy_resets(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 3, per: user}"))
    for _ in range(3):
        api.use()

    apply_policies(environment, limits("{metric: requests, window: day, amount: 4, per: user}", name="Other"))

    assert codes(api, 2) == ["ALLOWED", "DAILY_REQUEST_LIMIT_EXCEEDED"]


def test_calls_are_counted_for_limits_that_others_read(api: Api, environment: Environment) -> None:
    """per: feature counts all use of the feature, also that of users whose own policy has no such limit."""
    apply_policies(
        environment,
        """
policies:
  - name: Limited
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 3, per: feature}]
  - {name: VIP, scope: {user: vip}, unknown_price: allow}
""",
    )
    for _ in range(3):
        assert api.evaluate("vip", feature="chat")["allowed"]

    assert not api.evaluate("user_1", feature="chat")["allowed"]
    assert api.evaluate("user_1", feature="search")["allowed"]


def test_explain_names_the_candidates_and_their_fate(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        """
plans: [free]
policies:
  - {name: Default, unknown_price: allow}
  - {name: Free, scope: {plan: free}, unknown_price: allow}
  - {name: Guard, kind: guardrail, unknown_price: allow}
""",
    )

    trace = api.evaluate(plan="free", explain=True)["trace"]

    assert [(found["policy"]["name"], found["outcome"].split(":")[0]) for found in trace["candidates"]] == [
        ("Free", "wins"),
        ("Default", "loses"),
        ("Guard", "applies"),
    ]
    assert trace["plan_source"] == "request"


def test_frozen_environments_and_features(api: Api, environment: Environment) -> None:
    from tenants import freezing

    apply_policies(environment, limits(DAILY_5))
    assert api.evaluate(feature="chat")["allowed"]
    freezing.freeze(environment, features=["chat"], actor="test")
    assert api.evaluate(feature="chat")["reason_code"] == "FEATURE_FROZEN"
    assert api.evaluate(feature="search")["allowed"]

    freezing.freeze(environment, actor="test")
    frozen = api.evaluate(feature="chat")
    assert (frozen["reason_code"], frozen["reason_class"]) == ("ENVIRONMENT_FROZEN", "frozen")


def test_one_tenants_calls_never_count_for_another(
    api: Api, other_api: Api, environment: Environment
) -> None:
    for each in (api, other_api):
        apply_policies(each.environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    request_id = api.use(request_id="same")

    assert other_api.evaluate(request_id=request_id)["allowed"]
    assert other_api.report(request_id).status == 201
    assert not api.evaluate()["allowed"]
    assert [len(ledger(each.environment)) for each in (api, other_api)] == [1, 1]


def test_blocked_decisions_are_kept_with_their_reason(api: Api, environment: Environment) -> None:
    from policies.blocked import decision_log
    from policies.models import BlockedDecision

    apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
    blocked = api.evaluate(feature="chat")
    api.evaluate(dry_run=True)

    assert decision_log.drain(environment) == 1
    assert decision_log.drain(environment) == 0
    row = BlockedDecision.objects.get(environment=environment)
    assert (row.request_id, row.reason_code, row.feature) == (
        blocked["request_id"],
        blocked["reason_code"],
        "chat",
    )
    assert row.message == blocked["message"]
    assert row.limit_state == blocked["limit_state"]


def test_parallel_evaluates_of_one_request_id_hold_once(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))

    decisions = at_once(16, lambda _: api.evaluate(request_id="r-1"))

    assert all(decision == decisions[0] for decision in decisions)
    assert recount.check(environment).held.requests == 1


def test_another_time_zone_forgets_nothing(api: Api, environment: Environment) -> None:
    """Its windows have counters of their own, which must not start at zero."""
    from tenants import revisions

    set_clock(datetime(2026, 11, 23, 8, 0, tzinfo=UTC))
    apply_policies(environment, limits("{metric: requests, window: hour, amount: 5, per: user}"))
    assert api.evaluate()["allowed"]
    set_clock(datetime(2026, 11, 23, 14, 31, tzinfo=UTC))
    for _ in range(4):
        api.use()

    environment.tenant.timezone = "Asia/Kolkata"
    environment.tenant.save()
    revisions.bump_all(environment.tenant_id)

    # 14:31 UTC is 20:01 in Kolkata: nothing was used in this hour there yet, but all four calls since 14:30 UTC.
    assert api.evaluate()["limit_state"][0]["used"] == 4
    assert recount.check(environment).drifts == ()


def test_a_report_is_charged_as_evaluated(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 3, per: feature}"))
    held = api.evaluate(feature="chat")

    assert api.report(held["request_id"], "somebody_else").status == 422
    assert api.report(held["request_id"], feature="search").status == 201
    assert [row.feature for row in ledger(environment)] == ["chat"]
    assert recount.check(environment).held.requests == 0


def test_a_model_is_met_by_the_name_the_price_book_knows(api: Api, environment: Environment) -> None:
    set_price("gpt-4o")
    apply_policies(environment, 'policies: [{name: P, models: {deny: ["gpt-4o"]}}]')

    assert api.evaluate(model="azure/gpt-4o")["reason_code"] == "MODEL_DENIED"
    assert api.evaluate(model=" GPT-4o")["reason_code"] == "MODEL_DENIED"


def test_a_lost_counter_never_holds_less_than_nothing(api: Api, environment: Environment) -> None:
    from usage.counting.store import store

    apply_policies(environment, limits(DAILY_5))
    held = [api.evaluate()["request_id"] for _ in range(3)]
    for key in store.client.scan_iter(match="tv:{*}:c:*"):
        store.client.delete(key)
    api.evaluate()
    for request_id in held:
        assert api.report(request_id).status == 201

    state = api.evaluate(dry_run=True)["limit_state"][0]
    assert (state["used"], state["held"]) == (3, 1)


def test_an_explanation_does_not_make_it_another_call(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_5))
    first = api.evaluate(request_id="r-1")

    assert api.evaluate(request_id="r-1", explain=True)["expires_at"] == first["expires_at"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"user_id": 1}', b"[" * 60_000])
def test_evaluate_decodes_nothing_of_strangers(api: Api, environment: Environment, body: bytes) -> None:
    stranger, reader = Api(environment), caller_with(environment, "usage:read")
    stranger.text = stranger.text[:-4] + "AAAA"

    assert_problem(stranger.request("POST", "/v1/evaluate", body), 401, "INVALID_API_KEY")
    assert_problem(reader.request("POST", "/v1/evaluate", body), 403, "INSUFFICIENT_SCOPE")
