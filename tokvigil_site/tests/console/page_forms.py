"""What the forms of a page would send, each of their buttons and actions once."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

Fields = dict[str, list[str]]


@dataclass
class PageForm:
    """`choices` are the values of the select `action` of a list, one of which is sent."""

    action: str
    method: str
    fields: Fields = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)

    def submissions(self) -> list[Fields]:
        actions: list[Fields] = [{"action": [choice]} for choice in self.choices if choice] or [{}]
        buttons: list[Fields] = [{name: [value]} for name, value in self.buttons if name] or [{}]
        return [self.fields | action | button for action in actions for button in buttons]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[PageForm] = []
        self._by_id: dict[str, PageForm] = {}
        self._open: PageForm | None = None
        self._area: tuple[Fields, str] | None = None
        self._select: tuple[PageForm, str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag == "form":
            self._open = PageForm(given.get("action", ""), given.get("method", "get").lower())
            self.forms.append(self._open)
            self._by_id[given.get("id", "")] = self._open
            return
        form = self._by_id.get(given.get("form", ""), self._open) if "form" in given else self._open
        name, kind = given.get("name", ""), given.get("type", "text")
        if form is None:
            return
        if tag == "button" or (tag == "input" and kind == "submit"):
            form.buttons.append((name, given.get("value", "")))
        elif tag == "input" and name:
            is_box = kind in ("checkbox", "radio")
            if not is_box or "checked" in given or name == "_selected_action":
                form.fields.setdefault(name, []).append(given.get("value", "on" if is_box else ""))
        elif tag == "textarea":
            form.fields[name] = [""]
            self._area = form.fields, name
        elif tag == "select":
            self._select = form, name
        elif tag == "option" and self._select:
            self._offer(given)

    def _offer(self, option: dict[str, str]) -> None:
        assert self._select is not None
        form, name = self._select
        if name == "action":
            form.choices.append(option.get("value", ""))
        elif "selected" in option:
            form.fields.setdefault(name, []).append(option.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None
        elif tag == "select":
            self._select = None
        elif tag == "form":
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._area:
            fields, name = self._area
            fields[name][0] += data


def posting(page: str) -> list[PageForm]:
    """The forms of a page that change something."""
    return [form for form in forms(page) if form.method == "post"]


def forms(page: str) -> list[PageForm]:
    reader = _Reader()
    reader.feed(page)
    return reader.forms
