"""Filters above a list of our own, of which a page says how many are set."""

from __future__ import annotations

from collections.abc import Set
from typing import ClassVar

from django import forms


class FilterForm(forms.Form):
    """`apart`: fields that are no filters, such as the order of the list."""

    apart: ClassVar[Set[str]] = frozenset()

    @property
    def set_count(self) -> int:
        return sum(bool(self.data.get(name)) for name in self.fields if name not in self.apart)

    @property
    def are_set(self) -> bool:
        return self.set_count > 0
