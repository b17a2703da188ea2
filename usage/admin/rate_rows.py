"""Fields of a price's form that are tables: rates of other quantities, tiers of service and regions, a row for each.

What was typed is kept row by row, and an error stands beside its row. Rows that are empty are left out; some are always
there to fill in, so that no script is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from usage.prices.rates import parse_other_rates, parse_regions, parse_service_tiers
from usage.quantities import MAPPED, OWN_COLUMNS, ServiceTier, noun, per_words

EMPTY_ROWS = 3
ROWS_MAX = 300

Row = list[str]
Choices = Sequence[tuple[str, str]]


class Column:
    """Of a table: a list to choose from, or a text."""

    def __init__(self, name: str, label: str, choices: Choices = (), hint: str = "") -> None:
        self.name, self.label, self.hint = name, label, hint
        self.choices = [("", "—"), *choices] if choices else []


def _quantities(names: Sequence[str]) -> Choices:
    return [(name, f"{noun(name).capitalize()}, for {per_words(name)}") for name in names]


class HiddenTable(forms.HiddenInput):
    """The rows as they were when the page was opened."""

    def format_value(self, value: Any) -> str:
        return json.dumps(value)

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        try:
            return json.loads(data.get(name) or "[]")
        except (ValueError, RecursionError):
            return []


class TableWidget(forms.Widget):
    """Rows of inputs. `errors`: by the number of a row, set by the field that was cleaned."""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = columns
        self.errors: dict[int, str] = {}

    def id_for_label(self, id_: str) -> str:
        return f"{id_}-0-{self.columns[0].name}"

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[Row]:
        numbers = {int(found[1]) for key in data if (found := self._key(name).fullmatch(key))}
        return [
            [data.get(f"{name}-{number}-{column.name}", "").strip() for column in self.columns]
            for number in sorted(numbers)[:ROWS_MAX]
        ]

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return not any(self._key(name).fullmatch(key) for key in data)

    def _key(self, name: str) -> re.Pattern[str]:
        return re.compile(
            rf"{re.escape(name)}-(\d{{1,4}})-(?:{'|'.join(column.name for column in self.columns)})"
        )

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        rows: list[Row] = list(value or [])
        typed = len(rows)
        while rows and not any(rows[-1]):
            rows.pop()
        # As many as were there when it was sent, so that errors stay beside their rows.
        rows += [[""] * len(self.columns) for _ in range(max(typed - len(rows), EMPTY_ROWS))]
        id_ = (attrs or {}).get("id", f"id_{name}")
        return render_to_string(
            "console/parts/rate_rows.html",
            {
                "columns": self.columns,
                "id": id_,
                "rows": [
                    {
                        "number": number + 1,
                        "error": self.errors.get(number, ""),
                        "cells": self._cells(name, id_, number, row),
                    }
                    for number, row in enumerate(rows)
                ],
            },
        )

    def _cells(self, name: str, id_: str, number: int, row: Row) -> list[dict[str, Any]]:
        return [
            {
                "column": column,
                "name": f"{name}-{number}-{column.name}",
                "id": f"{id_}-{number}-{column.name}",
                "value": value,
                # What the list lacks is shown all the same, for the refusal names it.
                "unknown": column.choices and value not in [choice for choice, _ in column.choices],
            }
            for column, value in zip(self.columns, row, strict=True)
        ]


class TableField(forms.Field):
    """Rows to a dictionary of JSON, as the column of the price holds it, and back."""

    hidden_widget = HiddenTable
    columns: ClassVar[Sequence[Column]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, widget=TableWidget(self.columns), **kwargs)

    def rows_of(self, stored: Mapping[str, Any]) -> list[Row]:
        """In the order of the list to choose from, or of the alphabet: the database keeps none."""
        return sorted(([name, str(said)] for name, said in stored.items()), key=self._order)

    def _order(self, row: Row) -> list[tuple[int, str]]:
        return [
            (
                [choice for choice, _ in column.choices].index(said) if said in dict(column.choices) else -1,
                said,
            )
            for column, said in zip(self.columns, row, strict=True)
        ]

    def take(self, found: dict[str, Any], row: Row) -> None:
        """Adds what the row says. Raises ValueError, saying what is wrong with it."""
        raise NotImplementedError

    def prepare_value(self, value: Any) -> Any:
        """Of a new price an address fills it in with the text of the dictionary."""
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return []
        if isinstance(value, dict):
            value = self.rows_of(value)
        return value if isinstance(value, list) and all(map(self._is_row, value)) else []

    def _is_row(self, row: object) -> bool:
        """A hidden copy and an address may hold anything."""
        return (
            isinstance(row, list)
            and len(row) == len(self.columns)
            and all(isinstance(cell, str) for cell in row)
        )

    def to_python(self, value: Any) -> dict[str, Any]:
        found, errors = self._read(value)
        if errors:
            raise ValidationError("Mend what is marked above; nothing was saved.")
        return found

    def clean(self, value: Any) -> dict[str, Any]:
        # Here and not in `to_python`, by which the hidden copy is read too.
        _, self.widget.errors = self._read(value)
        found: dict[str, Any] = super().clean(value)
        return found

    def _read(self, value: Any) -> tuple[dict[str, Any], dict[int, str]]:
        """What the rows say, and by the number of a row what is wrong with it."""
        if isinstance(value, dict):
            return value, {}
        found: dict[str, Any] = {}
        errors: dict[int, str] = {}
        for number, row in enumerate(self.prepare_value(value)):
            try:
                if "\0" in "".join(row):
                    raise ValueError("Null characters are not allowed.")
                if any(row):
                    self.take(found, row)
            except ValueError as error:
                errors[number] = str(error)
        return found, errors

    def has_changed(self, initial: Any, data: Any) -> bool:
        if self.disabled:
            return False
        opened, sent = (self._read(self.prepare_value(value)) for value in (initial, data))
        return opened != sent


def _once(found: Mapping[str, Any], name: str, what: str) -> None:
    if name in found:
        raise ValueError(f"This {what} is there twice; keep one row.")


class OtherRatesField(TableField):
    columns = (
        Column("quantity", "Quantity", _quantities(MAPPED)),
        Column("rate", "Rate in USD", hint="such as 32"),
    )

    def take(self, found: dict[str, Any], row: Row) -> None:
        name, rate = row
        if not name:
            raise ValueError("Choose the quantity that the rate is of.")
        _once(found, name, "quantity")
        if not rate:
            raise ValueError("Give a rate; 0, if it is free.")
        parse_other_rates({name: rate})
        found[name] = rate


class ServiceTiersField(TableField):
    columns = (
        Column(
            "tier",
            "Tier",
            [(tier, tier.capitalize()) for tier in ServiceTier if tier is not ServiceTier.DEFAULT],
        ),
        Column("quantity", "Quantity", _quantities((*OWN_COLUMNS, *MAPPED))),
        Column("rate", "Rate in USD", hint="such as 0.45"),
    )

    def rows_of(self, stored: Mapping[str, Any]) -> list[Row]:
        rows = [
            [tier, name, str(rate)]
            for tier, rates in stored.items()
            if isinstance(rates, dict)
            for name, rate in (rates.items() or [("", "")])
        ]
        return sorted(rows, key=self._order)

    def take(self, found: dict[str, Any], row: Row) -> None:
        """A tier alone: it costs what the default does."""
        tier, name, rate = row
        if not tier:
            raise ValueError("Choose the tier that the rate is of.")
        if not name and rate:
            raise ValueError("Choose the quantity that the rate is of.")
        if name and not rate:
            raise ValueError("Give a rate; 0, if it is free. Without the row it costs as by default.")
        given = {name: rate} if name else {}
        _once(found.get(tier, {}), name, "quantity of the tier")
        parse_service_tiers({tier: given})
        found.setdefault(tier, {}).update(given)


class RegionsField(TableField):
    columns = (Column("region", "Region", hint="such as us"), Column("factor", "Factor", hint="such as 1.1"))

    def take(self, found: dict[str, Any], row: Row) -> None:
        region, factor = row
        if not region:
            raise ValueError("Name the region that the factor is of.")
        region = region.lower()
        _once(found, region, "region")
        if not factor:
            raise ValueError("Give the factor, such as 1.1.")
        parse_regions({region: factor})
        found[region] = factor
