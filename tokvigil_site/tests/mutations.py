"""All ways to change something: found in the registry of the console, the URLconf and the commands."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import get_commands
from django.http import HttpRequest
from django.test import RequestFactory
from django.urls import URLPattern

from tenants.console import pages as console_pages
from tokvigil_site.urls import urlpatterns

CHANGING_METHODS = ("post", "put", "patch", "delete")
# What each page of a model has, whether or not it is allowed there.
_USUAL = ("changelist", "add", "change", "delete", "history")


def found(root: User) -> set[str]:
    """By name: `policies.policy change`, `PUT v1/end-users/<any:user_id>`, `manage.py load_prices`."""
    return {*_console(root), *_pages(), *_api(), *_commands()}


def _console(root: User) -> Iterator[str]:
    request: HttpRequest = RequestFactory().get("/")
    request.user = root
    request.session = {}  # type: ignore[assignment]
    for model, page in admin.site._registry.items():
        name = model._meta.label_lower
        rights = {
            "add": page.has_add_permission(request),
            "change": page.has_change_permission(request),
            "delete": page.has_delete_permission(request),
        }
        yield from (f"{name} {verb}" for verb, allowed in rights.items() if allowed)
        yield from (f"{name} action {action}" for action in page.get_actions(request))
        usual = {f"{name.replace('.', '_')}_{each}" for each in _USUAL}
        yield from (f"page {url.name}" for url in page.get_urls() if url.name and url.name not in usual)


def _pages() -> Iterator[str]:
    yield from (f"page {name}" for name in ("login", "logout", "password_change"))
    yield from (f"page {name}" for name in console_pages.declared())


def _api() -> Iterator[str]:
    for pattern in urlpatterns:
        view = getattr(getattr(pattern, "callback", None), "view_class", None)
        if isinstance(pattern, URLPattern) and view is not None and str(pattern.pattern).startswith("v1/"):
            yield from (
                f"{method.upper()} {pattern.pattern}" for method in CHANGING_METHODS if hasattr(view, method)
            )


def _commands() -> Iterator[str]:
    ours = {config.name for config in apps.get_app_configs() if "site-packages" not in config.path}
    yield from (f"manage.py {name}" for name, app in get_commands().items() if app in ours)
