"""When a limit runs out at the present pace: worked examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from policies.standing import pace_wording
from policies.standing.pace import Course, Ending, Outlook

MIDNIGHT = datetime(2026, 11, 27, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def day_at(hour: float) -> Course:
    return Course(MIDNIGHT, MIDNIGHT + timedelta(days=1), MIDNIGHT + timedelta(hours=hour))


@pytest.mark.parametrize(
    ("hour", "taken", "limit", "runs_out_at"),
    [
        # 30 in 6 hours are 5 an hour: the other 20 last 4 hours.
        (6, 30, 50, 10),
        # 40 in 8 hours: the other 10 last 2 hours.
        (8, 40, 50, 10),
        # 49 of 50 in 23 hours: the last one is gone after 28 minutes, before midnight.
        (23, 49, 50, 23 + 23 / 49),
        # 45 within 10 minutes count as 45 in an hour, a 24th of the day: the other 5 last 6 min 40 s.
        (1 / 6, 45, 50, 1 / 6 + 5 / 45),
    ],
)
def test_it_runs_out_when_the_rest_is_used_at_the_pace_of_the_window_so_far(
    hour: float, taken: int, limit: int, runs_out_at: float
) -> None:
    outlook = day_at(hour).outlook(taken, limit)
    assert outlook.ending is Ending.RUNS_OUT
    assert outlook.at is not None
    assert abs(outlook.at - (MIDNIGHT + timedelta(hours=runs_out_at))) < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("hour", "taken", "limit"),
    [
        # 25 of 50 at noon would last exactly until midnight.
        (12, 25, 50),
        (12, 0, 50),
        # One call a second after midnight is one an hour, not one a second.
        (1 / 3600, 1, 50),
        (12, 1, 9 * 10**18),
        # More was taken back than charged.
        (12, -5, 50),
    ],
)
def test_it_does_not_run_out_before_the_window_ends(hour: float, taken: int, limit: int) -> None:
    assert day_at(hour).outlook(taken, limit) == Outlook(Ending.NOT_BEFORE_RESET)


@pytest.mark.parametrize(("taken", "limit"), [(50, 50), (51, 50), (0, 0)])
def test_what_has_nothing_left_is_used_up(taken: int, limit: int) -> None:
    assert day_at(1).outlook(taken, limit) == Outlook(Ending.USED_UP)


def test_what_is_used_up_comes_first_and_then_what_runs_out_first() -> None:
    course = day_at(12)
    outlooks = [course.outlook(taken, 50) for taken in (10, 30, 40, 50)]
    assert sorted(outlooks, key=lambda each: each.order) == [
        outlooks[3],
        outlooks[2],
        outlooks[1],
        outlooks[0],
    ]


@pytest.mark.parametrize(
    ("ahead", "says"),
    [
        (timedelta(seconds=20), "in 20 s"),
        (timedelta(minutes=47), "in 47 min"),
        # It is 13:00 in Berlin.
        (timedelta(hours=5), "today about 18:00"),
        (timedelta(hours=24), "Saturday 28 November about 13:00"),
        (timedelta(days=6), "Thursday 3 December about 13:00"),
        (timedelta(days=8), "Saturday 5 December about 13:00"),
        # To a quarter of an hour today, to an hour later on; into the next day too.
        (timedelta(hours=5, minutes=7), "today about 18:00"),
        (timedelta(hours=5, minutes=8), "today about 18:15"),
        (timedelta(hours=10, minutes=55), "Saturday 28 November about 00:00"),
        (timedelta(days=6, minutes=29), "Thursday 3 December about 13:00"),
        (timedelta(days=6, minutes=31), "Thursday 3 December about 14:00"),
    ],
)
def test_the_time_is_said_as_people_say_it(ahead: timedelta, says: str) -> None:
    now = MIDNIGHT + timedelta(hours=12)
    said = pace_wording.of(Outlook(Ending.RUNS_OUT, now + ahead), now, BERLIN)
    assert said.says == f"runs out {says}"
    assert said.at == now + ahead


@pytest.mark.parametrize(
    ("hour", "taken", "says"),
    [
        (6, 30, "runs out today about 11:00 at the pace of the last 6 h"),
        # 15 hours and a half are said in whole hours.
        (15.5, 40, "runs out today about 20:30 at the pace of the last 15 h"),
        (1.5, 49, "runs out in 1 min 50 s at the pace of the last 1 h 30 min"),
        (1 / 6, 45, "runs out in 6 min 40 s at the pace so far, taken as of 1 h"),
    ],
)
def test_it_says_of_which_time_the_pace_is(hour: float, taken: int, says: str) -> None:
    course = day_at(hour)
    assert pace_wording.of(course.outlook(taken, 50), course.now, BERLIN).says == says


def test_of_a_month_the_pace_is_said_in_days() -> None:
    month = Course(MIDNIGHT - timedelta(days=9, hours=7), MIDNIGHT + timedelta(days=21), MIDNIGHT)
    says = pace_wording.of(month.outlook(40, 50), MIDNIGHT, BERLIN).says
    assert says.endswith("at the pace of the last 9 days")


def test_what_does_not_run_out_has_no_time() -> None:
    assert pace_wording.of(Outlook(Ending.USED_UP), MIDNIGHT, BERLIN).says == "used up"
    assert pace_wording.of(Outlook(Ending.NOT_BEFORE_RESET), MIDNIGHT, BERLIN).says == "not before it resets"
    too_little = pace_wording.of(Outlook(Ending.TOO_LITTLE), MIDNIGHT, BERLIN)
    assert (too_little.says, too_little.at) == ("too little to tell when it runs out", None)
