"""Who used most of those whom a question is about: told as by looking at each subject, whichever way it is found."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import pytest

from tenants.models import Environment
from usage.amounts import Amounts, Per, Subjects
from usage.ledger import leading
from usage.ledger.leading import Question
from usage.ledger.writing import record
from usage.metrics import Metric
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import report

START = datetime(2026, 10, 1, 22, tzinfo=UTC)
END = START + timedelta(days=7)
FEATURES = ("chat", "code", "")
USERS = 40
MOST = 3
# Every call of the last users is on a plan that nobody else is on, and they use least.
RARE = USERS - 4
METRICS = (Metric.COST_USD, Metric.TOKENS, Metric.REQUESTS)
KINDS = {
    "all": frozenset((feature, plan) for feature in FEATURES for plan in ("free", "pro", "rare")),
    "pro chat": frozenset({("chat", "pro")}),
    "rare": frozenset((feature, "rare") for feature in FEATURES),
    "nobody": frozenset({("chat", "gold")}),
    "none": frozenset(),
}
Calls = list[tuple[Subjects, Amounts]]


@pytest.fixture
def calls(environment: Environment) -> Calls:
    """Half of them rolled up; and some outside of the period, that count for nothing."""
    drawn = random.Random(7)
    made: Calls = []
    for part in range(2):
        reports = []
        for number in range(220):
            user = drawn.randrange(USERS)
            subjects = Subjects(
                user_id=f"user-{user:02}",
                feature=drawn.choice(FEATURES),
                plan="rare" if user >= RARE else drawn.choice(("free", "free", "pro")),
            )
            size = 1 if user >= RARE else drawn.randrange(10, 400)
            used = Amounts(1, size, size // 3, size * 1000)
            is_outside = number % 20 == 0
            at = END if is_outside else START + (END - START) * drawn.random()
            reports.append(
                report(environment, f"{part}-{number}", used=used, charged_at=at, subjects=subjects)
            )
            made += [] if is_outside else [(subjects, used)]
        record(reports)
        if part == 0:
            roll_all(environment.pk)
    return made


def by_looking_at_each(
    calls: Calls, per: Per, question: Question, left_out: Collection[str]
) -> list[tuple[Subjects, Amounts]]:
    used: dict[Subjects, Amounts] = defaultdict(Amounts)
    met = set()
    for subjects, amounts in calls:
        if subjects.name(per) is None:
            continue
        feature = subjects.feature if per is Per.USER_FEATURE else ""
        subject = Subjects(user_id=subjects.user_id, feature=feature)
        used[subject] = Amounts(*map(sum, zip(used[subject], amounts, strict=True)))
        if (subjects.feature, subjects.plan) in question.kinds:
            met.add(subject)
    those = [each for each in met if not (question.leaves_out and each.user_id in left_out)]
    those.sort(key=lambda each: (-used[each].of(question.metric), each.user_id, each.feature))
    return [(each, used[each]) for each in those[:MOST]]


@pytest.mark.parametrize("times", [1, 2, 4, 1000])
@pytest.mark.parametrize("per", [Per.USER, Per.USER_FEATURE])
def test_the_first_are_those_whom_looking_at_each_finds(
    environment: Environment, calls: Calls, per: Per, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leading, "FIRST_TIMES", times)
    left_out = ["user-01", "user-02", "user-03", "user-04"]
    questions = [
        Question(metric=metric, kinds=kinds, leaves_out=leaves_out)
        for metric in METRICS
        for kinds in KINDS.values()
        for leaves_out in (True, False)
    ]
    found = leading.leading(environment.pk, per, START, END, questions, most=MOST, left_out=left_out)
    assert found == {each: by_looking_at_each(calls, per, each, left_out) for each in questions}
    assert found[Question(metric=Metric.COST_USD, kinds=KINDS["rare"])]


def test_calls_of_all_are_read_only_for_questions_that_the_first_do_not_answer(
    environment: Environment, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {name: Question(metric=Metric.COST_USD, kinds=kinds) for name, kinds in KINDS.items()}
    of_all: list[Question] = []

    def watched(at: object, questions: list[Question]) -> dict[Question, list[tuple[Subjects, Amounts]]]:
        of_all.extend(questions)
        return {question: [] for question in questions}

    monkeypatch.setattr(leading, "_of_all", watched)
    leading.leading(environment.pk, Per.USER, START, END, asked.values(), most=MOST)
    assert set(of_all) == {asked["rare"], asked["nobody"]}
