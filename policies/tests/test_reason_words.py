"""Each reason has words of its own for people."""

from policies.describing import reason_words
from policies.reasons import ALL_CODES, Reason


def test_every_reason_has_words_of_its_own() -> None:
    words = {code: reason_words.of_code(code) for code in ALL_CODES}
    assert [code for code, said in words.items() if said == code or "_" in said] == []
    assert len(set(words.values())) == len(words)


def test_a_filter_offers_every_reason_that_blocks() -> None:
    passes = {Reason.ALLOWED.value, Reason.DEGRADED_ALLOWED.value}
    assert dict(reason_words.of_blocks()) == {
        code: reason_words.of_code(code) for code in ALL_CODES if code not in passes
    }


def test_a_reason_that_only_a_later_version_knows_is_its_code() -> None:
    assert reason_words.of_code("REGION_NOT_ALLOWED") == "REGION_NOT_ALLOWED"
