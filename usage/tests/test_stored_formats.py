"""What stands in the counter store and in the ledger, written by another version of TokVigil.

The bytes and digests below were written down by the version of November 2026. They never change.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from usage import assessment
from usage.amounts import Amounts, Per
from usage.assessment import Assessment, LimitRef, PolicyRef, Reading, Refusal, Unreadable
from usage.counting.reserve import unpack_readings
from usage.ledger.writing import digest_of
from usage.metrics import Metric
from usage.settling.usage_report import UsageReport
from usage.windows import Window

HELD = (
    b"\xdc\x00\x10\xb8held-by-the-first-format\xa6user_1\xa4chat\xa3pro\xa0\xaatest-model\x92"
    b"\x94\xd9$0191d7c8-0000-7000-8000-000000000001\xa8Everyone\x03\xa7default"
    b"\x94\xd9$0191d7c8-0000-7000-8000-000000000002\xa6Budget\x01\xa4plan\xc3\x92"
    b"\x97\x00\xa8requests\xa3day\xa4user2\xcf\x00\x00\x01\xa2\x10\x00\x88\x00\xc3"
    b"\x97\x01\xa8cost_usd\xa5month\xa4plan\xcf\x00\x00\x00\x01*\x05\xf2\x00\xcf\x00\x00\x01\xa2.\xe6\xb0\x00\xc2\xc0"
    b"\x93\xacMODEL_DENIED\xd9,Model test-model is denied by policy Budget.\x01\xcd\x01v,\xce\x00\x03\x05p\xc3,"
)
READINGS = (Reading(3, 1), Reading(2_000_000_000, 198_000))
LIMITS = 8


def changed(change: Callable[[list[Any]], None]) -> bytes:
    """The record above as another version might have written it."""
    fields = msgspec.msgpack.decode(HELD)
    change(fields)
    return msgspec.msgpack.encode(fields)


class TestAssessments:
    def test_one_of_the_first_format_is_read_to_the_letter(self) -> None:
        found = assessment.unpack(HELD)

        assert found == Assessment(
            request_id="held-by-the-first-format",
            user_id="user_1",
            feature="chat",
            plan="pro",
            run_id="",
            model="test-model",
            policies=(
                PolicyRef("0191d7c8-0000-7000-8000-000000000001", "Everyone", 3, "default"),
                PolicyRef("0191d7c8-0000-7000-8000-000000000002", "Budget", 1, "plan"),
            ),
            has_override=True,
            limits=(
                LimitRef(0, Metric.REQUESTS, Window.DAY, Per.USER, 50, 1_795_564_800_000, enforce=True),
                LimitRef(
                    1,
                    Metric.COST_USD,
                    Window.MONTH,
                    Per.PLAN,
                    5_000_000_000,
                    1_796_083_200_000,
                    enforce=False,
                ),
            ),
            refusal=None,
            shadow_refusal=Refusal("MODEL_DENIED", "Model test-model is denied by policy Budget.", 1),
            input_tokens=374,
            output_tokens=44,
            cost_nano=198_000,
            priced=True,
            max_output_tokens=44,
        )
        assert found.amounts == Amounts(1, 374, 44, 198_000)

    def test_the_first_version_reads_what_this_one_writes(self) -> None:
        """It took what stands at its 16 places, and at the 7 of each limit, and passed over what follows."""
        written = msgspec.msgpack.decode(assessment.pack(assessment.unpack(HELD)))
        limits = assessment.Assessment.__struct_fields__.index("limits")
        written[limits] = [limit[:7] for limit in written[limits]]

        assert written[:16] == msgspec.msgpack.decode(HELD)
        assert written[16] == assessment.FORMAT

    def test_a_record_with_more_fields_than_this_version_knows_is_read(self) -> None:
        newer = assessment.unpack(assessment.pack(assessment.unpack(HELD)))
        packed = msgspec.msgpack.encode([*msgspec.msgpack.decode(assessment.pack(newer)), "eu", {"later": 1}])

        assert assessment.unpack(packed) == newer

    @pytest.mark.parametrize(("place", "later"), [(1, "moons"), (2, "fortnight"), (3, "team")])
    def test_a_limit_that_only_a_later_version_knows_is_left_out(self, place: int, later: str) -> None:
        packed = changed(lambda fields: fields[LIMITS][0].__setitem__(place, later))

        found, readings = assessment.unpack_decided(packed, READINGS)

        assert found.limits == assessment.unpack(HELD).limits[1:]
        assert readings == READINGS[1:]
        assert assessment.unpack(packed) == found

    @pytest.mark.parametrize(
        "packed",
        [
            b"",
            b"\xc1",
            b"\x90",
            HELD[:-3],
            msgspec.msgpack.encode({"request_id": "r"}),
            msgspec.msgpack.encode("r"),
            msgspec.msgpack.encode(msgspec.msgpack.decode(HELD)[:-2]),
            changed(lambda fields: fields.__setitem__(0, 7)),
            changed(lambda fields: fields.__setitem__(LIMITS, "none")),
            changed(lambda fields: fields.append(assessment.FORMAT + 1)),
            b"\x91" * 3_000,
        ],
    )
    def test_what_cannot_be_read_is_said_to_be_unreadable(self, packed: bytes) -> None:
        with pytest.raises(Unreadable):
            assessment.unpack(packed)

    def test_readings_that_are_not_those_of_the_limits_are_unreadable(self) -> None:
        with pytest.raises(Unreadable):
            assessment.unpack_decided(HELD, READINGS[:1])

    @pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x91\xa1x", b"\x91\xc0", b"\x07"])
    def test_readings_that_cannot_be_read_are_unreadable(self, packed: bytes) -> None:
        with pytest.raises(Unreadable):
            unpack_readings(packed)

    def test_readings_as_lua_packs_them(self) -> None:
        """No limits are an empty map, and what is beyond 32 bits a double."""
        assert unpack_readings(b"\x80") == ()
        assert unpack_readings(b"\x94\x03\x01\xcbA\xdd\xcde\x00\x00\x00\x00\xce\x00\x03\x05p") == READINGS


class TestBodyDigests:
    def test_of_a_report_that_says_little(self) -> None:
        report = UsageReport(
            request_id="a-report", user_id="user_1", model="gpt-4o-mini", input_tokens=374, output_tokens=44
        )

        assert digest_of(report).hex() == "2612b33a881a52970c446ae1789f4b078038611a6b6f5eb8520aca73377765e7"

    def test_of_a_report_that_says_all(self) -> None:
        in_paris = timezone(timedelta(hours=1))
        report = UsageReport(
            request_id="a-report",
            user_id="user_1",
            model="gpt-4o-mini",
            input_tokens=374,
            output_tokens=44,
            cached_input_tokens=100,
            cache_write_tokens=20,
            reasoning_tokens=10,
            plan="pro",
            feature="chat",
            run_id="run-7",
            provider="openai",
            status="partial",
            batch=True,
            latency_ms=812,
            reported_cost_usd="0.0002",
            occurred_at=datetime(2026, 11, 24, 12, 30, tzinfo=in_paris).astimezone(UTC),
            metadata={"region": "eu", "tries": 2},
        )

        assert digest_of(report).hex() == "4a7b7b37f41efaf8b82711fe20c327542bc50df0b04536c296652ee3a0b77a9b"

    def test_a_field_of_a_later_version_changes_nothing_unless_it_is_sent(self) -> None:
        later = msgspec.defstruct(
            "Later",
            [("service_tier", str, "default"), ("quantities", dict[str, int] | None, None)],
            bases=(UsageReport,),
            kw_only=True,
            omit_defaults=True,
        )
        body = b'{"request_id":"r","user_id":"u","model":"m","input_tokens":1,"output_tokens":2'
        first = digest_of(msgspec.json.decode(body + b"}", type=UsageReport))

        assert digest_of(msgspec.json.decode(body + b"}", type=later)) == first
        said = msgspec.json.decode(body + b',"service_tier":"default"}', type=later)
        assert digest_of(said) == first
        other = msgspec.json.decode(body + b',"service_tier":"batch"}', type=later)
        assert digest_of(other) != first
