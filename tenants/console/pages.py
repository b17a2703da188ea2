"""Pages of the console that are no list or form of rows: the overview, Try it, the search.

The admin package of an app declares them with `@page`; the site (tokvigil_site/console/site.py) gives them an address,
and the navigation names them by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse

from tenants.console.access import may_somewhere
from tenants.roles import May

View = Callable[..., HttpResponseBase]
MayView = Callable[[HttpRequest], bool]


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """`name` is that of its address, `admin:<name>`; `path` stands behind that of the console.

    `of`: the label of the model of which it shows one row, whose id its address takes.
    """

    name: str
    path: str
    view: View
    may_view: MayView
    of: str = ""

    def __call__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.may_view(request):
            raise PermissionDenied
        return self.view(request, *args, **kwargs)


_pages: dict[str, ConsolePage] = {}


def may_look(request: HttpRequest) -> bool:
    """Into any tenant."""
    return may_somewhere(request, May.SEE)


def refuse_unknown(given: Iterable[str], known: Collection[str], *, page: str = "This page") -> None:
    """Parameters of an address that a page does not have. Raises BadRequest."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadRequest(f"{page} has no filter {unknown[0][:100]!r}.")


def page(name: str, path: str, *, may_view: MayView = may_look, of: str = "") -> Callable[[View], View]:
    """Declares a view as a page. Whoever may not view it is answered 403."""

    def declare(view: View) -> View:
        _pages[name] = ConsolePage(name, path, view, may_view, of)
        return view

    return declare


def declared() -> dict[str, ConsolePage]:
    """By name."""
    return _pages


def rendered(request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
    """A template that extends `admin/base.html`, in the frame of the console."""
    return TemplateResponse(
        request, template, {**admin.site.each_context(request), "title": title, **context}
    )
