from collections.abc import Callable
from textwrap import dedent

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.files import file_errors
from policies.files.documents import document, rule_of
from policies.files.file_errors import PolicyFileError
from policies.files.policy_file import diff, dump, parse
from policies.files.strict_yaml import FILE_BYTES_MAX
from policies.rules import (
    COUNT_LIMIT_MAX,
    Kind,
    LimitRule,
    Mode,
    ModelRules,
    OnUnavailable,
    OnUnsettled,
    PerRequest,
    PolicyRule,
    PolicySet,
    Scope,
    UnknownPrice,
)
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import MAX_LIMIT_NANO
from usage.windows import Window

EXAMPLE = """
version: 1
plans: [free, pro, enterprise]
policies:
  - name: Free plan
    scope: {plan: free}              # user, feature, plan; omit for the default policy
    kind: override                   # or guardrail
    mode: enforce                    # or monitor, or off
    priority: 0
    models: {allow: ["gpt-4o-mini"], deny: []}          # globs
    per_request: {cost_usd: "0.05", input_tokens: 8000, output_tokens: 1000}
    limits:
      - {metric: requests, window: day, amount: 50, per: user}
      - {metric: cost_usd, window: month, amount: "5.00", per: user}
    on_unavailable: block            # or allow
    on_unsettled: release            # or charge
    unknown_price: block             # or allow
"""
FREE_PLAN = PolicyRule(
    name="Free plan",
    scope=Scope(plan="free"),
    models=ModelRules(allow=("gpt-4o-mini",)),
    per_request=PerRequest(cost_nano=50_000_000, input_tokens=8000, output_tokens=1000),
    limits=(
        LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=50, per=Per.USER),
        LimitRule(metric=Metric.COST_USD, window=Window.MONTH, amount=5_000_000_000, per=Per.USER),
    ),
)


def file_of(policies: str, head: str = "version: 1\nplans: [free]\n") -> str:
    return f"{head}policies:\n{dedent(policies).strip()}\n"


def limit(text: str) -> str:
    return file_of(f"- {{name: A, limits: [{text}]}}")


def errors_of(text: str) -> dict[str, str]:
    with pytest.raises(PolicyFileError) as raised:
        parse(text)
    return {error.path: error.message for error in raised.value.errors}


def test_the_example_of_the_contract_is_read() -> None:
    assert parse(EXAMPLE) == PolicySet(plans=("free", "pro", "enterprise"), policies=(FREE_PLAN,))


def test_a_policy_needs_nothing_but_a_name() -> None:
    assert parse(file_of("- name: Default")).policies == (PolicyRule(name="Default"),)


def test_mode_off_needs_no_quotes() -> None:
    assert parse(file_of("- {name: A, mode: off}")).policies[0].mode is Mode.OFF


def test_words_and_numbers_are_those_of_yaml_1_2() -> None:
    text = file_of("- {name: yes, priority: 010, scope: {user: 2026-11-23}}", "version: 1\nplans: [no, on]\n")
    found = parse(text)
    assert found.plans == ("no", "on")
    assert found.policies[0] == PolicyRule(name="yes", priority=10, scope=Scope(user="2026-11-23"))


@pytest.mark.parametrize(
    ("text", "path", "fix"),
    [
        ("", "version", "begin the file with `version: 1`"),
        ("version: 2", "version", "must be 1"),
        ("- a", "", "must be a mapping"),
        (
            "version: 1\nrules: []",
            "rules",
            "unknown key; known here are version, plans, deployments, policies",
        ),
        ("version: 1\nplans: free", "plans", "must be a list"),
        ("version: 1\nplans: [free, free]", "plans[1]", "listed twice"),
        ("version: 1\nplans: [' free']", "plans[0]", "blank"),
        ("version: 1\nplans: [7]", "plans[0]", "in quotes"),
        ('version: 1\nplans: ["a\\0b"]', "plans[0]", "control character"),
        (file_of("- {}"), "policies[0].name", "is missing"),
        (file_of("- {name: ''}"), "policies[0].name", "is missing"),
        (file_of(f"- {{name: {'x' * 101}}}"), "policies[0].name", "at most 100"),
        (file_of("- {name: A, limitz: []}"), "policies[0].limitz", "unknown key"),
        (file_of("- {name: A}\n- {name: A}"), "policies[1].name", "name of policies[0] too"),
        (file_of("- {name: A, kind: soft}"), "policies[0].kind", "one of override, guardrail"),
        (file_of("- {name: A, mode: false}"), "policies[0].mode", "one of enforce, monitor, off"),
        (file_of("- {name: A, on_unavailable: x}"), "policies[0].on_unavailable", "one of block, allow"),
        (file_of("- {name: A, on_unsettled: x}"), "policies[0].on_unsettled", "one of release, charge"),
        (file_of("- {name: A, unknown_price: x}"), "policies[0].unknown_price", "one of block, allow"),
        (file_of("- {name: A, priority: 10001}"), "policies[0].priority", "from -10000 to 10000"),
        (file_of("- {name: A, priority: true}"), "policies[0].priority", "whole number"),
        (
            file_of("- {name: A, scope: {team: a}}"),
            "policies[0].scope.team",
            "known here are user, feature, plan",
        ),
        (file_of("- {name: A, scope: {user: 7}}"), "policies[0].scope.user", "in quotes"),
        (file_of(f"- {{name: A, scope: {{user: {'u' * 256}}}}}"), "policies[0].scope.user", "at most 255"),
        (file_of("- {name: A, scope: {plan: pro}}"), "policies[0].scope.plan", "add it to `plans`"),
        (file_of("- {name: A, models: {allow: gpt-4}}"), "policies[0].models.allow", "must be a list"),
        (file_of("- {name: A, models: {deny: [7]}}"), "policies[0].models.deny[0]", "in quotes"),
        (
            file_of(f"- {{name: A, models: {{deny: {[f'm{n}' for n in range(101)]}}}}}"),
            "policies[0].models.deny",
            "at most 100",
        ),
        (file_of("- {name: A, per_request: {usd: 1}}"), "policies[0].per_request.usd", "unknown key"),
        (
            file_of("- {name: A, per_request: {cost_usd: 0.05}}"),
            "policies[0].per_request.cost_usd",
            "in quotes",
        ),
        (
            file_of("- {name: A, per_request: {cost_usd: '-1'}}"),
            "policies[0].per_request.cost_usd",
            "not an amount",
        ),
        (
            file_of("- {name: A, per_request: {input_tokens: 1.5}}"),
            "policies[0].per_request.input_tokens",
            "whole number",
        ),
        (limit("{window: day, amount: 1}"), "policies[0].limits[0].metric", "one of requests, tokens"),
        (limit("{metric: requests, amount: 1}"), "policies[0].limits[0].window", "one of minute, hour"),
        (limit("{metric: requests, window: day}"), "policies[0].limits[0].amount", "is missing"),
        (
            limit("{metric: requests, window: day, amount: -1}"),
            "policies[0].limits[0].amount",
            "whole number from 0",
        ),
        (
            limit("{metric: requests, window: day, amount: '5'}"),
            "policies[0].limits[0].amount",
            "without quotes",
        ),
        (
            limit(f"{{metric: tokens, window: day, amount: {COUNT_LIMIT_MAX + 1}}}"),
            "policies[0].limits[0].amount",
            f"to {COUNT_LIMIT_MAX}",
        ),
        (
            limit("{metric: cost_usd, window: day, amount: 5.00}"),
            "policies[0].limits[0].amount",
            'such as "5.00"',
        ),
        (
            limit("{metric: cost_usd, window: day, amount: '9000000.01'}"),
            "policies[0].limits[0].amount",
            "at most 9000000",
        ),
        (
            limit("{metric: cost_usd, window: day, amount: '0.0000000001'}"),
            "policies[0].limits[0].amount",
            "more than 9 decimals",
        ),
        (
            limit("{metric: requests, window: day, amount: 1, per: team}"),
            "policies[0].limits[0].per",
            "one of user, user_feature",
        ),
        (
            limit("{metric: concurrency, window: day, amount: 1}"),
            "policies[0].limits[0].window",
            "write `window: total`",
        ),
        (
            limit(", ".join(["{metric: tokens, window: day, amount: 1}"] * 2)),
            "policies[0].limits[1]",
            "is in policies[0].limits[0] too",
        ),
        (limit(", ".join(["{}"] * 33)), "policies[0].limits", "at most 32"),
    ],
)
def test_an_error_names_its_place_and_the_fix(text: str, path: str, fix: str) -> None:
    errors = errors_of(text)
    assert fix in errors[path]


def test_all_errors_of_a_file_are_told_at_once() -> None:
    errors = errors_of(
        file_of(
            """
            - {name: A, kind: soft, limits: [{metric: requests, window: dya, amount: -1}]}
            - {mode: strict}
            """
        )
    )
    assert list(errors) == [
        "policies[0].kind",
        "policies[0].limits[0].window",
        "policies[0].limits[0].amount",
        "policies[1].name",
        "policies[1].mode",
    ]


def test_a_file_of_errors_has_a_bounded_answer() -> None:
    with pytest.raises(PolicyFileError) as raised:
        parse(file_of("\n".join(["- {}"] * 1000)))
    assert len(raised.value.errors) == file_errors.ERRORS_MAX + 1
    assert "900 more" in str(raised.value.errors[-1])


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("version: 1\nplans: &all [free]", "anchors"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchors"),
        ("version: 1\nplans: !!python/object/apply:os.system [ls]", "tags"),
        ("version: !!int '1'", "tags"),
        ("[" * 500 + "]" * 500, "levels deep"),
        ("[" * 100_000, "not valid YAML|levels deep"),
        ("? [a]\n: b", "a key must be a word"),
        ("version: 1\n---\nversion: 1", "second document"),
        ("version: [", "not valid YAML"),
        ("plans: ['\ud800']", "UTF-8"),
        ("#" * (FILE_BYTES_MAX + 1), "at most 8388608"),
    ],
)
def test_what_a_policy_file_has_no_use_for_is_refused(text: str, fix: str) -> None:
    with pytest.raises(PolicyFileError, match=fix):
        parse(text)


def test_a_key_given_twice_is_an_error() -> None:
    assert errors_of("version: 1\npolicies:\n- {name: A, mode: off, mode: enforce}") == {
        "policies[0].mode": "given twice; keep one"
    }


def test_money_may_be_a_whole_number_without_quotes() -> None:
    rule = parse(limit("{metric: cost_usd, window: day, amount: 5}")).policies[0]
    assert rule.limits[0].amount == 5_000_000_000


def test_the_diff_shows_a_limit_on_one_line() -> None:
    before = PolicyRule(name="A", limits=FREE_PLAN.limits[:1])
    changed = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=60, per=Per.USER)
    after = PolicyRule(name="A", limits=(changed,))
    assert [line for line in diff(before, after) if line[0] in "+-"] == [
        "-  - {metric: requests, window: day, amount: 50, per: user}",
        "+  - {metric: requests, window: day, amount: 60, per: user}",
    ]
    assert diff(before, before) == ()


# Letters beyond the alphabet, and what YAML might take for something else than text.
words = st.sampled_from(
    ["off", "no", "null", "~", "1e3", "010", "0x1F", "5.00", "2026-11-23", ".iNF", "a: b", "#"]
)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20) | words
names = texts.filter(lambda text: text == text.strip())
counts = st.integers(0, COUNT_LIMIT_MAX)
money = st.integers(0, MAX_LIMIT_NANO)
globs = st.lists(names, max_size=3, unique=True).map(tuple)


@st.composite
def limit_rules(draw: st.DrawFn) -> LimitRule:
    metric = draw(st.sampled_from(Metric))
    return LimitRule(
        metric=metric,
        window=Window.TOTAL if metric is Metric.CONCURRENCY else draw(st.sampled_from(Window)),
        amount=draw(money if metric is Metric.COST_USD else counts),
        per=draw(st.sampled_from(Per)),
    )


def policy_rules(plans: tuple[str, ...]) -> st.SearchStrategy[PolicyRule]:
    return st.builds(
        PolicyRule,
        name=names,
        scope=st.builds(
            Scope, user=st.just("") | texts, feature=st.just("") | texts, plan=st.sampled_from(("", *plans))
        ),
        kind=st.sampled_from(Kind),
        mode=st.sampled_from(Mode),
        priority=st.integers(-10_000, 10_000),
        models=st.builds(ModelRules, allow=globs, deny=globs),
        per_request=st.builds(
            PerRequest,
            cost_nano=st.none() | money,
            input_tokens=st.none() | counts,
            output_tokens=st.none() | counts,
        ),
        limits=st.lists(
            limit_rules(), max_size=4, unique_by=lambda limit: (limit.metric, limit.pair, limit.per)
        ).map(tuple),
        on_unavailable=st.sampled_from(OnUnavailable),
        on_unsettled=st.sampled_from(OnUnsettled),
        unknown_price=st.sampled_from(UnknownPrice),
    )


@st.composite
def policy_sets(draw: st.DrawFn) -> PolicySet:
    plans = tuple(draw(st.lists(names, max_size=3, unique=True)))
    policies = draw(st.lists(policy_rules(plans), max_size=3, unique_by=lambda rule: rule.name))
    deployments = draw(st.none() | st.dictionaries(names, names, max_size=3))
    if deployments is not None:
        by_case = {name.lower(): (name, model) for name, model in deployments.items()}
        return PolicySet(plans=plans, deployments=tuple(sorted(by_case.values())), policies=tuple(policies))
    return PolicySet(plans=plans, policies=tuple(policies))


@given(policy_sets())
def test_what_is_dumped_is_read_back_as_the_same(policy_set: PolicySet) -> None:
    assert parse(dump(policy_set)) == policy_set


@given(policy_sets())
def test_a_dump_means_the_same_to_any_yaml_reader(policy_set: PolicySet) -> None:
    read = yaml.safe_load(dump(policy_set))
    assert read["plans"] == list(policy_set.plans)
    assert [rule_of(found) for found in read["policies"]] == list(policy_set.policies)


@given(policy_rules(("free",)))
def test_a_document_is_read_back_as_the_same_policy(rule: PolicyRule) -> None:
    assert rule_of(document(rule)) == rule


def is_refused_well(read: Callable[[], object], path: str = "") -> bool:
    """Whether it is read, or refused with an error at this path or below."""
    try:
        read()
    except PolicyFileError as error:
        return bool(error.errors) and error.errors[0].path.startswith(path)
    return True


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_but_never_a_crash(text: str) -> None:
    assert is_refused_well(lambda: parse(text))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=3,
)
KEYS = ["name", "scope", "models", "per_request", "limits", "priority", "mode"]


@given(st.sampled_from(KEYS), values)
def test_any_value_in_any_place_is_read_or_refused(key: str, value: object) -> None:
    assert is_refused_well(lambda: rule_of({"name": "A", key: value}), key)
