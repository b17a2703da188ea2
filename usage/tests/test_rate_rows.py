"""The tables of a price's form: rows of what was typed to what the price holds, and back."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.http import QueryDict

from usage.admin.rate_rows import OtherRatesField, RegionsField, ServiceTiersField, TableField

AUDIO, SEARCHES = "input_audio_tokens", "web_searches"


def typed(field: TableField, *rows: list[str]) -> list[list[str]]:
    """As a browser sends them."""
    data = QueryDict(mutable=True)
    for number, row in enumerate(rows):
        for column, value in zip(field.columns, row, strict=True):
            data[f"rates-{number}-{column.name}"] = value
    return field.widget.value_from_datadict(data, {}, "rates")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("field", "stored"),
    [
        (OtherRatesField(), {AUDIO: "32", SEARCHES: "10", "input_image_tokens": "input_tokens"}),
        (ServiceTiersField(), {"priority": {"input_tokens": "8", AUDIO: "60"}, "flex": {}}),
        (RegionsField(), {"us": "1.1", "eu": "1.05"}),
        (OtherRatesField(), {}),
    ],
)
def test_what_is_stored_is_shown_in_rows_and_read_from_them_as_it_was(field: Any, stored: Any) -> None:
    rows = field.prepare_value(stored)
    assert field.clean(typed(field, *rows, [""] * len(field.columns))) == stored
    assert not field.has_changed(stored, typed(field, *rows))
    hidden = field.hidden_widget()
    sent = {"initial": hidden.format_value(rows)}
    assert field.to_python(hidden.value_from_datadict(sent, {}, "initial")) == stored


@pytest.mark.parametrize(
    ("field", "rows", "at", "says"),
    [
        (OtherRatesField(), [["", "3"]], 1, "Choose the quantity"),
        (OtherRatesField(), [[AUDIO, "3"], ["", ""], [AUDIO, "4"]], 3, "there twice"),
        (OtherRatesField(), [[AUDIO, ""]], 1, "Give a rate"),
        (OtherRatesField(), [[AUDIO, "dear"]], 1, "must be a decimal string"),
        (OtherRatesField(), [[SEARCHES, "output_tokens"]], 1, "must be a decimal string"),
        (OtherRatesField(), [["web_search", "3"]], 1, "web_search is not known"),
        (ServiceTiersField(), [["", AUDIO, "3"]], 1, "Choose the tier"),
        (ServiceTiersField(), [["fast", "", "3"]], 1, "Choose the quantity"),
        (ServiceTiersField(), [["fast", AUDIO, ""]], 1, "Give a rate"),
        (ServiceTiersField(), [["fast", AUDIO, "-1"]], 1, "must be a decimal string"),
        (ServiceTiersField(), [["fast", AUDIO, "1"], ["fast", AUDIO, "2"]], 2, "there twice"),
        (ServiceTiersField(), [["batch", "input_tokens", "1"]], 1, "batch_input_per_million"),
        (RegionsField(), [["us", "1.1"], ["US", "1.2"]], 2, "there twice"),
        (RegionsField(), [["us", ""]], 1, "Give the factor"),
        (RegionsField(), [["us", "11"]], 1, "above 0, 10 at most"),
        (RegionsField(), [["", "1.1"]], 1, "Name the region"),
        (RegionsField(), [["u\0s", "1.1"]], 1, "Null characters"),
    ],
)
def test_an_error_stands_beside_its_row_and_what_was_typed_is_kept(
    field: TableField, rows: list[list[str]], at: int, says: str
) -> None:
    given = typed(field, *rows)
    with pytest.raises(ValidationError, match="Mend what is marked"):
        field.clean(given)
    assert list(field.widget.errors) == [at - 1]
    shown = field.widget.render("rates", field.prepare_value(given))
    row = shown.split('<div class="tv-rates-row">')[at]
    assert says in row
    assert all(f'value="{value}"' in row for value in rows[at - 1] if value)
    assert shown.count("tv-field-errors") == 1


def test_there_are_always_rows_to_fill_in() -> None:
    field = OtherRatesField()
    assert field.widget.render("rates", []).count("tv-rates-row") == 3
    assert field.widget.render("rates", field.prepare_value({AUDIO: "1"})).count("tv-rates-row") == 4


def test_an_address_fills_a_new_price_in_and_one_that_is_none_does_nothing() -> None:
    field = OtherRatesField()
    assert field.prepare_value('{"web_searches": "10"}') == [[SEARCHES, "10"]]
    for text in ("{", "3", "[1]", '"x"', "null", "[[]]", '{"a": {"b": 1}}', "[" * 100_000):
        field.widget.render("rates", field.prepare_value(text))
        ServiceTiersField().prepare_value(text)
        field.to_python(field.hidden_widget().value_from_datadict({"initial": text}, {}, "initial"))
