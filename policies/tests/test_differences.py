from policies.describing.differences import changes, summary
from policies.rules import LimitRule, ModelRules, PerRequest, PolicyRule, Scope
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

DAILY = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=50, per=Per.USER)
FEWER = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=40, per=Per.USER)
BUDGET = LimitRule(metric=Metric.COST_USD, window=Window.MONTH, amount=5_000_000_000, per=Per.ENVIRONMENT)
FREE = PolicyRule(name="Free", scope=Scope(plan="free"), limits=(DAILY,))


def test_policies_that_say_the_same_differ_in_nothing() -> None:
    assert changes(FREE, FREE) == ()


def test_a_limit_is_compared_with_the_one_that_counts_the_same() -> None:
    changed = PolicyRule(name="Free", scope=Scope(plan="free"), limits=(FEWER, BUDGET))
    assert [str(line) for line in changes(FREE, changed)] == [
        "Requests a day, each user: 50 requests → 40 requests",
        "Spend a month, everybody together: $5.00, new",
    ]


def test_what_is_said_no_more_is_named() -> None:
    before = PolicyRule(
        name="Free", models=ModelRules(allow=("gpt-*",)), per_request=PerRequest(input_tokens=8000)
    )
    assert summary(before, PolicyRule(name="Free")) == (
        "Models allowed: no longer gpt-*; One call may read: no longer 8,000 input tokens"
    )


def test_being_put_in_force_and_archived_is_said() -> None:
    assert (summary(None, FREE), summary(FREE, None)) == ("Put in force", "Archived")
