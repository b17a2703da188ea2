"""Pages of buckets, as the APIs of OpenAI and Anthropic answer them: one page, or a list of pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from usage.analytics.provider_exports.lines import Refused


@dataclass(frozen=True, slots=True)
class Bucket:
    """A time, and what was used in it. `where` names it to people."""

    where: str
    fields: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]


def buckets(document: object, expected: str) -> tuple[list[Bucket], list[str]]:
    """And what is missing, in words. Raises Refused."""
    pages: list[Any] = document if isinstance(document, list) else [document]
    if not pages or not all(isinstance(page, dict) and isinstance(page.get("data"), list) for page in pages):
        raise Refused(f"It has no `data` with a list of buckets. {expected}")
    found = [bucket for page in pages for bucket in page["data"]]
    if not found:
        raise Refused("Its `data` has no buckets: nothing was asked for, or there is nothing yet.")
    notes = []
    if pages[-1].get("has_more"):
        notes.append(
            "The file is not all of it (has_more is true): ask for the next_page too, and put the pages into a list."
        )
    return [_bucket(number, bucket, expected) for number, bucket in enumerate(found)], notes


def _bucket(number: int, bucket: object, expected: str) -> Bucket:
    where = f"data[{number}]"
    if not isinstance(bucket, dict):
        raise Refused(f"{where} is no bucket. {expected}")
    results = bucket.get("results")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise Refused(f"{where}: `results` is no list of objects. {expected}")
    fields = {name: value for name, value in bucket.items() if name != "results"}
    return Bucket(where, fields, tuple(results))


def whole(value: object, where: str) -> Mapping[str, Any]:
    """An object inside of a result; nothing is an empty one. Raises Refused."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(f"{where} is no object.")
    return value
