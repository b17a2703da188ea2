"""A form of the console as a browser would send it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from django.test import Client


class _Fields(HTMLParser):
    """What the inputs of a page hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, list[str]] = {}
        self._select = self._textarea = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        is_box = given.get("type") in ("checkbox", "radio")
        if tag == "input" and name and ("checked" in given or not is_box):
            self.values.setdefault(name, []).append(given.get("value", "on" if is_box else ""))
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and "selected" in given:
            self.values.setdefault(self._select, []).append(given.get("value", ""))
        elif tag == "textarea":
            self._textarea = name

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._textarea = ""

    def handle_data(self, data: str) -> None:
        if self._textarea:
            self.values[self._textarea] = [data.removeprefix("\n")]


def fields_of(html: str) -> dict[str, list[str]]:
    """What the inputs of a page hold, by name."""
    return _Fields(html).values


def submit(client: Client, url: str, *, form_at: str | None = None, **values: Any) -> None:
    """Opens the page, or the one that has its form, fills these fields in, and saves. None takes a field out."""
    opened = client.get(form_at or url)
    assert opened.status_code == 200, url
    fields = {name: value for name, value in fields_of(opened.content.decode()).items() if name[0] != "_"}
    answer = client.post(
        url, {name: value for name, value in {**fields, **values}.items() if value is not None}
    )
    assert answer.status_code == 302, answer.context and answer.context.get("errors")
