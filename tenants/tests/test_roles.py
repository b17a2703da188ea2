"""The table of roles, and that the docs and the admin pages have no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import settings
from django.contrib import admin

from tenants.console.rows import ReadOnlyAdmin, TenantRowsAdmin
from tenants.models import Role
from tenants.roles import IN_WORDS, RIGHTS, May, allows

DOCS = Path(settings.BASE_DIR) / "docs" / "roles.md"


def test_every_role_and_right_is_in_the_table() -> None:
    assert set(RIGHTS) == set(Role)
    assert list(IN_WORDS) == list(May)
    assert frozenset().union(*RIGHTS.values()) == frozenset(May)


def test_only_the_owner_decides_about_members_and_the_tenant() -> None:
    for right in (May.EDIT_MEMBERS, May.EDIT_TENANT):
        assert [role for role in Role if allows(role, right)] == [Role.OWNER]


def test_an_editor_has_no_say_about_keys() -> None:
    assert not allows(Role.EDITOR, May.EDIT_KEYS)
    assert allows(Role.EDITOR, May.FREEZE)


def test_what_is_no_role_allows_nothing() -> None:
    assert not any(allows("former", right) for right in May)


def test_the_docs_show_this_table() -> None:
    rows = [line.strip("|").split("|") for line in DOCS.read_text().splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in row] for row in rows]
    assert table[0] == ["may", *Role]
    assert table[2:] == [
        [IN_WORDS[right], *("yes" if allows(role, right) else "" for role in Role)] for right in May
    ]


@pytest.mark.parametrize(
    "page",
    [page for page in admin.site._registry.values() if isinstance(page, TenantRowsAdmin)],
    ids=lambda page: page.model._meta.label_lower,
)
def test_every_page_of_rows_says_who_changes_them(page: TenantRowsAdmin) -> None:
    assert isinstance(page, ReadOnlyAdmin) or page.to_change is not None
