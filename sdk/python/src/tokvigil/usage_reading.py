"""What a provider's answer says it used, in TokVigil's terms.

`usage_forms.json` has where each provider says what, with its sources. What is a rule stands here:

- What only the total contains is output: xAI and Gemini behind OpenAI's form name what their models reason nowhere
  else. With Mistral it is what a recording and connectors gave the model to read. Without a total, reasoning that is
  more than the output stands beside it.
- What was written to a cache is kept for five minutes unless the answer says for an hour.
- Whole floats are counts, fractions are rounded up, and a figure that is none costs no other figure.
- Parts are cut to their totals, so that TokVigil takes the report; the usage is then `doubtful`. Cached tokens that
  must be audio or images, because there is no other room, count as such.
- Searches and other hosted tools count as often as they are billed; what another model used is kept apart.

Reading never fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokvigil import containing
from tokvigil.answered_model import model_of
from tokvigil.billing_terms import region, reported_cost, service_tier
from tokvigil.checked import TOKENS_MAX, is_name
from tokvigil.hosted_tools import has_pictures, hosted_tools, pictures, video
from tokvigil.models import COUNTS, Usage
from tokvigil.quantities import FORMS
from tokvigil.usage_counts import term, whole
from tokvigil.usage_fitting import fitted
from tokvigil.usage_forms import ALL, BLOCKS, Form, mapping, path, value, values

DOUBT_CHARS_MAX = 500
# A model that an answer does not name.
UNNAMED_MODEL = "unspecified"

_OTHERS = [
    {**other, "block": path(other["block"]), "model": path(other["model"])} for other in FORMS["other_models"]
]


def read_usage(answer: Any) -> Usage | None:
    """The usage of an answer, or of its usage alone: a provider SDK's object, or its JSON as a mapping. None if it says
    none."""
    try:
        return _read(mapping(answer))
    except Exception as error:
        containing.say("what a provider's answer used cannot be read", error)
        return None


def read_usage_block(usage: Mapping[str, Any]) -> Usage | None:
    """Of the `usage` of an answer alone."""
    return read_usage({"usage": usage})


def _read(answer: Mapping[str, Any]) -> Usage | None:
    doubts: list[str] = []
    for way in BLOCKS:
        block = mapping(value(answer, way))
        usage = _of_block(block, answer, doubts) if block else None
        if usage is not None:
            return usage
    usage = _of_block(answer, answer, doubts, stands_alone=True)
    if usage is None:
        pieces = pictures(answer) | video(answer, doubts)
        usage = Usage(input_tokens=0, output_tokens=0, quantities=pieces) if pieces else None
    return usage


def _of_block(
    block: Mapping[str, Any], answer: Mapping[str, Any], doubts: list[str], *, stands_alone: bool = False
) -> Usage | None:
    for form in ALL:
        if stands_alone and not form.may_stand_alone:
            continue
        is_known = any(value(block, way) is not None for way in form.known_by)
        if is_known and all(answer.get(name) == said for name, said in form.only_in.items()):
            counts = _counts(form, block, answer, doubts)
            if counts is not None:
                return _usage(counts, block, answer, doubts)
    return None


def _usage(
    counts: dict[str, int], block: Mapping[str, Any], answer: Mapping[str, Any], doubts: list[str]
) -> Usage:
    for name, amount in hosted_tools(answer, doubts).items():
        counts.setdefault(name, amount)
    parts = fitted(counts, doubts)
    totals: dict[str, Any] = {name: parts.pop(name, 0) for name in COUNTS}
    usage = Usage(
        **totals,
        quantities=parts,
        service_tier=service_tier(block, answer, doubts),
        region=region(block),
        reported_cost_usd=reported_cost(block),
        other_models=_other_models(answer, doubts),
    )
    return replace(usage, doubtful="; ".join(dict.fromkeys(doubts))[:DOUBT_CHARS_MAX] or None)


def _counts(
    form: Form, block: Mapping[str, Any], answer: Mapping[str, Any], doubts: list[str]
) -> dict[str, int] | None:
    """What the block says of each quantity, input and output as totals. None: it does not say what was used."""
    blocks = [block, *_beside_totals(form, block)]
    counts: dict[str, int] = {}
    said = set()
    for name, terms in form.reads.items():
        if all(form.begins[name].isdisjoint(each) for each in blocks):
            continue
        found = [term(spellings, each, doubts) for each in blocks for spellings in terms]
        if any(amount is not None for amount in found):
            counts[name] = sum(amount or 0 for amount in found)
        if found[0] is not None:
            said.add(name)
    total = None if form.total is None else whole(value(block, form.total))
    if total is not None and total >= counts.get("input_tokens", total + 1) and _says_no_output(form, block):
        # Embeddings have no completion, and say so by their total.
        said.add("output_tokens")
    if not said.issuperset(form.needs) or (form.needs_one_of and said.isdisjoint(form.needs_one_of)):
        return None
    _add_written(form, counts)
    _add_what_is_beside(form, block, counts, total)
    if form.bills_searches_of is not None and form.bills_searches_of not in model_of(answer).lower():
        counts.pop("web_searches", None)
        counts["provider_requests"] = 1
    _tell_pages_apart(form, answer, counts)
    kind = form.output_of_pictures_is
    if kind is not None and kind not in counts and has_pictures(answer):
        counts[kind] = max(0, counts["output_tokens"] - counts.get("reasoning_tokens", 0))
    return None if max(counts.get("input_tokens", 0), counts.get("output_tokens", 0)) > TOKENS_MAX else counts


def _says_no_output(form: Form, block: Mapping[str, Any]) -> bool:
    return all(value(block, way) is None for way in form.reads["output_tokens"][0])


def _beside_totals(form: Form, block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not form.beside_totals:
        return []
    items = map(mapping, values(block, path(form.beside_totals["list"] + "[]")))
    return [item for item in items if item.get("type") in form.beside_totals["types"]]


def _add_written(form: Form, counts: dict[str, int]) -> None:
    """To a cache. What is kept for an hour has a price of its own."""
    hour, minutes = counts.get("cache_write_1h_tokens", 0), counts.pop("cache_write_5m_tokens", 0)
    written = max(counts.pop("written_tokens", 0), hour + minutes)
    counts["cache_write_tokens"] = written - hour
    if form.written_are_beside_input:
        counts["input_tokens"] += written


def _add_what_is_beside(
    form: Form, block: Mapping[str, Any], counts: dict[str, int], total: int | None
) -> None:
    """What the totals of input and output do not contain."""
    if form.total is None:
        return
    output_tokens = counts.setdefault("output_tokens", 0)
    if total is None:
        if counts.get("reasoning_tokens", 0) > output_tokens:
            counts["output_tokens"] += counts["reasoning_tokens"]
        return
    beyond = max(0, total - counts["input_tokens"] - output_tokens)
    read = 0
    for mark, amount in form.read_beyond_total.items():
        if block.get(mark) and not read:
            read = beyond if amount is None else min(beyond, whole(value(block, amount)) or 0)
    counts["input_tokens"] += read
    counts["output_tokens"] += beyond - read


def _tell_pages_apart(form: Form, answer: Mapping[str, Any], counts: dict[str, int]) -> None:
    if "input_pages" not in counts:
        return
    if any(value(answer, way) is not None for way in form.all_annotated_if):
        counts["input_annotated_pages"] = max(counts["input_pages"], counts.get("input_annotated_pages", 0))
    counts["input_pages"] = max(0, counts["input_pages"] - counts.get("input_annotated_pages", 0))


def _other_models(answer: Mapping[str, Any], doubts: list[str]) -> dict[str, Usage]:
    found = {}
    for other in _OTHERS:
        block = mapping(value(answer, other["block"]))
        usage = _of_block(block, {}, doubts) if block else None
        if usage is None or usage == Usage(input_tokens=0, output_tokens=0):
            continue
        kind = other.get("output_is")
        if kind is not None and kind not in usage.quantities:
            usage = replace(usage, quantities={**usage.quantities, kind: usage.output_tokens})
        model = value(answer, other["model"])
        found[model if is_name(model) else UNNAMED_MODEL] = usage
    return found
