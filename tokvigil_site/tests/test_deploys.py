"""Two versions of TokVigil on one store and one ledger, as a deploy has them: what one wrote the other lives with.

`make deploy AGAINST=commit` does the same with two checkouts and real processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from policies.blocked import decision_log
from policies.deciding.evaluate_request import EvaluateRequest, digest_of
from policies.deciding.evaluation import HOLD_MS
from policies.models import BlockedDecision
from tenants.models import Environment
from tokvigil_site import tasks
from tokvigil_site.testing import Api, apply_policies, assert_settled, later, ledger, limits
from tokvigil_site.tests.applications import DAILY_1
from usage.counting.keys import decisions_key, reservation_key, unread_decisions_key
from usage.counting.reservations import open_count
from usage.counting.store import store
from usage.settling import expiry

MONTHLY_9 = "{metric: requests, window: month, amount: 9, per: user}"
LIMITS = 8
Change = Callable[[bytes], bytes]


def first_format(packed: bytes) -> bytes:
    """As the first version packed it: sixteen fields."""
    return msgspec.msgpack.encode(msgspec.msgpack.decode(packed)[:16])


def without_the_last_field(packed: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(packed)[:15])


def with_another_window(packed: bytes) -> bytes:
    """By a version that knows a window more."""
    fields = msgspec.msgpack.decode(packed)
    fields[LIMITS][0][2] = "fortnight"
    return msgspec.msgpack.encode(fields)


def with_more_fields(packed: bytes) -> bytes:
    return msgspec.msgpack.encode([*msgspec.msgpack.decode(packed), "eu", 7])


def spoilt(packed: bytes) -> bytes:
    return b"\xc1" + packed


READABLE = [first_format, without_the_last_field, with_more_fields]
ANY = [*READABLE, with_another_window, spoilt]


def rewrite_hold(environment: Environment, request_id: str, change: Change) -> None:
    key = reservation_key(environment.pk, request_id)
    store.client.hset(key, "as", change(store.client.hget(key, "as")))


def rewrite_blocked(environment: Environment, change: Change) -> None:
    key = decisions_key(environment.pk)
    [(entry, fields)] = store.client.xrange(key)
    store.client.xdel(key, entry)
    store.client.xadd(key, {**fields, b"as": change(fields[b"as"])})


class TestHolds:
    @pytest.mark.parametrize("change", ANY)
    def test_a_call_is_reported(self, api: Api, environment: Environment, change: Change) -> None:
        apply_policies(environment, limits(DAILY_1, MONTHLY_9))
        request_id = api.evaluate(feature="chat")["request_id"]
        rewrite_hold(environment, request_id, change)

        answer = api.report(request_id, feature="chat")

        assert answer.status == 201
        assert [state["used"] for state in answer.json["limit_state"]] == (
            [1, 1] if change in READABLE else [1] if change is with_another_window else []
        )
        assert [row.feature for row in ledger(environment)] == ["chat"]
        assert_settled(environment)

    @pytest.mark.parametrize("change", ANY)
    def test_a_call_is_evaluated_again(self, api: Api, environment: Environment, change: Change) -> None:
        apply_policies(environment, limits(DAILY_1, MONTHLY_9))
        first = api.evaluate(request_id="r-1")
        rewrite_hold(environment, "r-1", change)

        again = api.evaluate(request_id="r-1")

        assert again["allowed"]
        assert again["reserved"] == first["reserved"]
        if change in (first_format, with_more_fields):
            assert again == first
        assert open_count(environment.pk) == 1

    @pytest.mark.parametrize("change", ANY)
    def test_expired_ones_hold_no_other_environment_up(
        self, api: Api, other_api: Api, environment: Environment, change: Change
    ) -> None:
        for each in (api, other_api):
            apply_policies(each.environment, limits(DAILY_1, on_unsettled="charge"))
        request_id = api.evaluate()["request_id"]
        other_api.evaluate()
        rewrite_hold(environment, request_id, change)
        later(milliseconds=HOLD_MS + 5_000)

        tasks.settle_expired()

        assert open_count(other_api.environment.pk) == 0
        assert len(ledger(environment)) == (0 if change is spoilt else 1)

    def test_one_that_cannot_be_read_is_named_and_does_not_stand_before_others(
        self,
        api: Api,
        environment: Environment,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(expiry, "BATCH_MAX", 1)
        apply_policies(environment, limits(MONTHLY_9, on_unsettled="charge"))
        unread, other = api.evaluate()["request_id"], api.evaluate("user_2")["request_id"]
        rewrite_hold(environment, unread, spoilt)
        later(milliseconds=HOLD_MS + 5_000)

        expiry.settle_expired(environment)

        assert [row.request_id for row in ledger(environment)] == [other]
        assert reservation_key(environment.pk, unread) in caplog.text

    def test_one_that_no_version_can_read_is_given_up_after_an_hour(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, limits(MONTHLY_9, on_unsettled="charge"))
        rewrite_hold(environment, api.evaluate()["request_id"], spoilt)
        later(milliseconds=HOLD_MS + 5_000)
        expiry.settle_expired(environment)
        assert open_count(environment.pk) == 1

        later(milliseconds=expiry.UNREAD_KEPT_MS)
        expiry.settle_expired(environment)

        assert_settled(environment)

    def test_one_that_a_later_version_charges_waits_for_it(self, api: Api, environment: Environment) -> None:
        apply_policies(environment, limits(MONTHLY_9, on_unsettled="charge"))
        request_id = api.evaluate()["request_id"]
        packed = store.client.hget(reservation_key(environment.pk, request_id), "as")
        rewrite_hold(environment, request_id, spoilt)
        later(milliseconds=HOLD_MS + 5_000)
        expiry.settle_expired(environment)

        rewrite_hold(environment, request_id, lambda _: packed)
        later(milliseconds=expiry.UNREAD_AGAIN_MS)
        expiry.settle_expired(environment)

        assert [row.status for row in ledger(environment)] == ["unsettled"]
        assert_settled(environment)

    def test_fields_that_an_older_version_did_not_write_are_empty(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, limits(DAILY_1))
        request_id = api.evaluate(request_id="r-1")["request_id"]
        key = reservation_key(environment.pk, request_id)
        store.client.hset(key, "am", "1 1")
        store.client.hdel(key, "zs", "vs")

        assert api.post(f"/v1/reservations/{request_id}/extend", {"seconds": 900}).status == 200
        assert api.evaluate(request_id=request_id)["allowed"]
        assert api.report(request_id).status == 201
        assert_settled(environment)


class TestBlockedDecisions:
    @pytest.mark.parametrize("change", READABLE)
    def test_one_is_stored(self, api: Api, environment: Environment, change: Change) -> None:
        apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
        api.evaluate()
        rewrite_blocked(environment, change)

        listed = api.get("/v1/decisions")

        assert listed.status == 200
        assert [each["reason_code"] for each in listed.json["decisions"]] == ["DAILY_REQUEST_LIMIT_EXCEEDED"]

    @pytest.mark.parametrize("change", [with_another_window, spoilt])
    def test_one_that_cannot_be_read_is_set_aside(
        self,
        api: Api,
        other_api: Api,
        environment: Environment,
        change: Change,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for each in (api, other_api):
            apply_policies(each.environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
            each.evaluate()
        rewrite_blocked(environment, change)
        api.evaluate("user_2")

        tasks.drain_decisions()

        assert f"environment {environment.pk}" in caplog.text
        assert store.client.xlen(decisions_key(environment.pk)) == 0
        assert store.client.xlen(unread_decisions_key(environment.pk)) == 1
        assert BlockedDecision.objects.filter(environment=other_api.environment).count() == 1
        listed = api.get("/v1/decisions")
        assert [each["user_id"] for each in listed.json["decisions"]] == ["user_2"]

    def test_a_reason_of_a_later_version_is_stored_as_it_is(self, api: Api, environment: Environment) -> None:
        def refused(packed: bytes) -> bytes:
            fields = msgspec.msgpack.decode(packed)
            fields[9] = ["REGION_NOT_ALLOWED", "Not from there.", None]
            return msgspec.msgpack.encode(fields)

        apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
        api.evaluate()
        rewrite_blocked(environment, refused)

        assert decision_log.drain(environment) == 1

        row = BlockedDecision.objects.get(environment=environment)
        assert (row.reason_code, row.reason_class) == ("REGION_NOT_ALLOWED", "forbidden")

    def test_limit_states_that_cannot_be_read_hide_no_decision(
        self, api: Api, environment: Environment
    ) -> None:
        apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
        api.evaluate()
        decision_log.drain(environment)
        BlockedDecision.objects.update(limit_state=[{"policy": "Everyone", "since": "a later version"}])

        listed = api.get("/v1/decisions")

        assert listed.status == 200
        assert [each["limit_state"] for each in listed.json["decisions"]] == [[]]


class TestEvaluatesSentAgain:
    """The digests were written down by the first version; holds of it are open while a deploy goes on."""

    def test_that_say_little(self) -> None:
        body = EvaluateRequest(user_id="user_1", model="gpt-4o-mini")

        assert digest_of(body) == "1782466f95affc55061d5683fb4728ed"

    @pytest.mark.parametrize("explain", [False, True])
    def test_that_say_all(self, *, explain: bool) -> None:
        body = EvaluateRequest(
            user_id="user_1",
            model="gpt-4o-mini",
            feature="chat",
            plan="pro",
            input_tokens=374,
            input_text="Hello",
            max_output_tokens=44,
            request_id="a-call",
            run_id="run-7",
            metadata={"region": "eu", "tries": 2},
            dry_run=True,
            explain=explain,
        )

        assert digest_of(body) == "bf3508c4669d6b7d93ce7edc37cb33c4"

    def test_with_a_field_of_a_later_version(self) -> None:
        later_body = msgspec.defstruct(
            "Later",
            [("region", str | None, None)],
            bases=(EvaluateRequest,),
            kw_only=True,
            omit_defaults=True,
        )
        fields: dict[str, Any] = {"user_id": "user_1", "model": "gpt-4o-mini"}

        assert digest_of(later_body(**fields)) == digest_of(EvaluateRequest(**fields))
        assert digest_of(later_body(**fields, region="eu")) != digest_of(EvaluateRequest(**fields))
