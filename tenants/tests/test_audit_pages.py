import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import RequestFactory

from audit.log import acting_as, log
from audit.models import Entry
from tenants.admin.audit_log import ActionFilter, ChainFilter, EntryAdmin

pytestmark = pytest.mark.django_db


@pytest.fixture
def root() -> User:
    return User.objects.create_superuser("root")


@pytest.fixture
def page() -> EntryAdmin:
    return EntryAdmin(Entry, AdminSite())


def request_of(user: User, **query: str) -> HttpRequest:
    request = RequestFactory().get("/", query)
    request.user = user
    return request


def found(page: EntryAdmin, user: User, **query: str) -> list[str]:
    changes = page.get_changelist_instance(request_of(user, **query))
    return [entry.target_name for entry in changes.get_queryset(request_of(user, **query))]


def test_nobody_can_add_change_or_delete_but_staff_can_look(root: User, page: EntryAdmin) -> None:
    entry = log("user.changed", root, tenant_id=7)
    request = request_of(root)

    assert page.has_view_permission(request, entry)
    assert not page.has_add_permission(request)
    assert not page.has_change_permission(request, entry)
    assert not page.has_delete_permission(request, entry)
    assert page.get_actions(request) == {}


def test_entries_are_filtered_and_searched_newest_first(root: User, page: EntryAdmin) -> None:
    ann, ben = (User.objects.create(username=name) for name in ("ann", "ben"))
    with acting_as("admin:carol"):
        log("user.changed", ann, tenant_id=7)
    log("user.deleted", ben, tenant_id=8)
    log("user.changed", root, tenant_id=None)

    assert found(page, root) == ["root", "ben", "ann"]
    assert found(page, root, action="user.changed") == ["root", "ann"]
    assert found(page, root, chain="8") == ["ben"]
    assert found(page, root, chain="installation") == ["root"]
    assert found(page, root, q="carol") == ["ann"]
    assert found(page, root, q=str(ben.pk)) == ["ben"]


@pytest.mark.parametrize("chain", ["x", "9" * 40, "-1", "²"])
def test_a_made_up_chain_does_no_harm(root: User, page: EntryAdmin, chain: str) -> None:
    log("user.changed", root, tenant_id=7)
    assert found(page, root, chain=chain) == ["root"]


def test_filters_offer_labels(root: User, page: EntryAdmin) -> None:
    log("user.changed", root, tenant_id=7)
    log("user.changed", root, tenant_id=None)
    request = request_of(root)

    assert ActionFilter(request, {}, Entry, page).lookup_choices == [("user.changed", "User changed")]
    assert ChainFilter(request, {}, Entry, page).lookup_choices == [
        ("7", "tenant 7"),
        ("installation", "installation"),
    ]
