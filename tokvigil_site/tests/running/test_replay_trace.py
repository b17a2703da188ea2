"""Public traces as traffic: what is read, what is refused, and what lands in the ledger."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tenants.models import ApiKey, Environment
from tokvigil_site.demo.replay import assign
from tokvigil_site.demo.trace import Row, TraceError, open_trace
from tokvigil_site.testing import apply_policies, ledger, limits, set_price
from usage.settling import recount

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,879,55
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
118,ChatGPT,417,0,417,Conversation log
"""


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    return written(tmp_path, AZURE)


@pytest.fixture
def burstgpt(tmp_path: Path) -> Path:
    return written(tmp_path, BURSTGPT)


def written(folder: Path, text: str) -> Path:
    file = folder / "trace.csv"
    file.write_text(text)
    return file


def replay(file: Path, environment: Environment, *options: str) -> str:
    out = io.StringIO()
    call_command("replay_trace", str(file), str(environment), "--parallel", "2", *options, stdout=out)
    return out.getvalue()


def test_rows_keep_their_times_and_tokens(azure: Path) -> None:
    rows = list(open_trace(azure).rows())
    assert [(row.number, row.input_tokens, row.output_tokens) for row in rows] == [
        (1, 374, 44),
        (2, 396, 109),
        (3, 879, 55),
    ]
    assert rows[1].at_s - rows[0].at_s == pytest.approx(4.314579)


def test_a_trace_that_names_models_keeps_them(burstgpt: Path) -> None:
    assert [row.model for row in open_trace(burstgpt).rows()] == ["gpt-3.5-turbo", "gpt-4", "gpt-3.5-turbo"]


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    file = written(tmp_path, AZURE + "no,row,at all\n")
    assert open_trace(file, limit=3).count == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            AZURE + "2023-11-16 18:15:52,many,3\n",
            "line 5, column 'ContextTokens': 'many' is no number of tokens",
        ),
        (AZURE + "2023-11-16 18:15:52,1,-3\n", "line 5, column 'GeneratedTokens': '-3' is no number"),
        (AZURE + "2023-11-16 18:15:52,1,999999999\n", "line 5, column 'GeneratedTokens'"),
        (AZURE + "yesterday,1,3\n", "line 5, column 'TIMESTAMP': 'yesterday' is no time"),
        (AZURE + "2023-11-16 18:15:52,1\n", "line 5: 2 columns instead of 3"),
        (BURSTGPT + "nan,ChatGPT,1,1,2,API log\n", "line 5, column 'Timestamp': 'nan' is no time"),
        (BURSTGPT + "9,Claude,1,1,2,API log\n", "line 5, column 'Model': 'Claude' is none of ChatGPT, GPT-4"),
        ("time,tokens\n1,2\n", "line 1: unknown columns 'time, tokens'"),
        ("", "line 1: unknown columns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no rows"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(TraceError) as refused:
        open_trace(file)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_row_is_always_assigned_to_the_same() -> None:
    rows = [Row(number=number, at_s=0, input_tokens=1, output_tokens=1, model="") for number in range(1000)]
    assert [assign(row) for row in rows] == [assign(row) for row in rows]
    assert len({assign(row).user for row in rows}) > 100
    plans = {assign(row).user: assign(row).plan for row in rows}
    assert all(plans[assign(row).user] == assign(row).plan for row in rows), "a user has one plan"


def test_what_passes_is_in_the_ledger_and_counters_agree(azure: Path, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100000, per: environment}"))
    said = replay(azure, environment)
    assert sorted((row.amounts.input_tokens, row.amounts.output_tokens) for row in ledger(environment)) == [
        (374, 44),
        (396, 109),
        (879, 55),
    ]
    found = recount.check(environment)
    assert (found.drifts, found.open_reservations) == ((), 0)
    assert "3 requests into acme/prod" in said
    assert "Azure Public Dataset, Microsoft, CC BY 4.0" in said
    assert "assigned by a hash" in said


def test_what_the_policies_block_is_told_and_not_recorded(azure: Path, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: total, amount: 2, per: environment}"))
    said = replay(azure, environment)
    assert "TOTAL_REQUEST_LIMIT_EXCEEDED      1" in said
    assert len(ledger(environment)) == 2


def test_a_failed_request_costs_nothing(burstgpt: Path, environment: Environment) -> None:
    for model in ("gpt-3.5-turbo", "gpt-4"):
        set_price(model, input_usd="1", output_usd="1")
    replay(burstgpt, environment)
    failed = ledger(environment, status="failed")
    assert [(row.amounts.input_tokens, row.amounts.output_tokens, row.cost_nano) for row in failed] == [
        (0, 0, 0)
    ]


def test_it_keeps_the_pace_it_is_given(azure: Path, environment: Environment) -> None:
    said = replay(azure, environment, "--speed", "9")
    took = re.search(r"^  ([\d.]+) s, ", said, re.MULTILINE)
    assert took, said
    assert 0.5 <= float(took[1]) < 4.5, "4.54 s at nine times the speed"


def test_its_key_is_of_no_use_afterwards(azure: Path, environment: Environment) -> None:
    replay(azure, environment)
    assert ApiKey.objects.get(environment=environment).revoked_at is not None


def test_a_bad_row_stops_it_before_anything_is_recorded(tmp_path: Path, environment: Environment) -> None:
    with pytest.raises(CommandError, match="line 5, column 'ContextTokens'"):
        replay(written(tmp_path, AZURE + "2023-11-16 18:15:52,many,3\n"), environment)
    assert ledger(environment) == []


def test_an_unknown_environment_is_named(azure: Path, environment: Environment) -> None:
    with pytest.raises(CommandError, match="There is no environment 'acme/nowhere'"):
        call_command("replay_trace", str(azure), "acme/nowhere")
