"""Which provider's export a file is, by its content."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

from usage.analytics.provider_exports import anthropic, focus, openai
from usage.analytics.provider_exports.lines import Export, Refused
from usage.analytics.provider_exports.pages import Bucket, buckets

BYTES_MAX = 256 * 1024 * 1024
CELL_CHARACTERS_MAX = 1_000_000
EXPECTED = (
    "Expected one of: OpenAI's usage or costs, as the organization API answers (JSON with `data` of buckets with "
    "`start_time`) or as its dashboard exports (CSV with start_time, and amount_value or num_model_requests); "
    "Anthropic's usage or cost report (JSON with `data` of buckets with `starting_at`); "
    "a FOCUS file of AWS, Azure or others (CSV with ChargePeriodStart, and BilledCost or EffectiveCost)."
)


def read(content: bytes) -> Export:
    """Raises Refused, which says what was expected."""
    if len(content) > BYTES_MAX:
        raise Refused(f"It has more than {BYTES_MAX // 1024**2} MiB. Export a shorter time.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(f"It is no text in UTF-8 (is it compressed?). {EXPECTED}") from None
    return _json(text) if text.lstrip()[:1] in ("{", "[") else _csv(text)


def _json(text: str) -> Export:
    try:
        document = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise Refused(f"It is no JSON: {error}. {EXPECTED}") from None
    found, notes = buckets(document, EXPECTED)
    if all(openai.is_bucket(bucket) for bucket in found):
        return openai.of_buckets(found, notes)
    if all(anthropic.is_bucket(bucket) for bucket in found):
        return anthropic.of_buckets(found, notes)
    raise Refused(f"Its buckets are of no provider that is known ({_keys(found)}). {EXPECTED}")


def _keys(found: list[Bucket]) -> str:
    return ", ".join(sorted({key for bucket in found for key in bucket.fields})[:10])


def _csv(text: str) -> Export:
    header = text.partition("\n")[0]
    delimiter = max(",\t;", key=header.count)
    csv.field_size_limit(CELL_CHARACTERS_MAX)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
    try:
        columns = [name.strip() for name in rows.fieldnames or []]
        rows.fieldnames = columns
        if focus.is_header(columns):
            return focus.of_rows(columns, rows)
        if openai.is_header(columns):
            return openai.of_rows(columns, rows)
    except csv.Error as error:
        raise Refused(f"Line {rows.line_num} is no CSV: {error}. {EXPECTED}") from None
    said = ", ".join(columns[:10]) if len(columns) > 1 else "no columns"
    raise Refused(f"It is a table of no provider that is known ({said[:200]}). {EXPECTED}")
