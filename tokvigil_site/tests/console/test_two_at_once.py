"""Two people, or two tabs, do the same in the console at the same moment: it happens once, and is said once."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from policies import boosts
from policies.changing import drafts
from policies.models import Boost, Draft, PolicyVersion
from tenants import members
from tenants.models import ApiKey, Environment, Membership, Role
from tenants.scopes import EVALUATE
from tokvigil_site.testing import Answer, Api, apply_policies, at_once, limits
from tokvigil_site.tests.console import page_forms
from tokvigil_site.tests.console.conftest import SignIn

PASSWORDS = [f"a long enough one {number}" for number in range(4)]
LIMIT = "{metric: requests, window: day, amount: 5, per: user}"


def entries(action: str) -> int:
    return Entry.objects.filter(action=action).count()


def form_of(client: Client, url: str, button: str = "") -> page_forms.Fields:
    """What the page would send, with this button pressed."""
    answer = client.get(url)
    assert answer.status_code == 200
    sent = [each for form in page_forms.posting(answer.content.decode()) for each in form.submissions()]
    return next(fields for fields in sent if "csrfmiddlewaretoken" in fields and button in str(fields))


def both(*clients: Client, url: str, form: Any) -> list[int]:
    return at_once(len(clients), lambda number: clients[number].post(url, form).status_code, len(clients))


@pytest.fixture
def pair(environment: Environment, sign_in: SignIn) -> tuple[Client, Client]:
    tenant = environment.tenant
    return sign_in("ada", tenant, role=Role.OWNER), sign_in("bo", tenant, role=Role.OWNER)


def test_an_invitation_is_accepted_by_one(environment: Environment) -> None:
    membership, link = members.invite(environment.tenant, "new@example.com", Role.VIEWER)
    assert link is not None
    browsers = [Client() for _ in PASSWORDS]
    url = reverse("admin:invitation", args=[link.uid, link.token])
    urls = [browser.get(url, follow=True).redirect_chain[-1][0] for browser in browsers]

    def accept(number: int) -> None:
        password = PASSWORDS[number]
        browsers[number].post(urls[number], {"new_password1": password, "new_password2": password})

    at_once(len(browsers), accept)
    user = User.objects.get(pk=membership.user_id)
    inside = [browser.get(reverse("admin:index")).status_code == 200 for browser in browsers]
    assert [user.check_password(password) for password in PASSWORDS] == inside
    assert sum(inside) == 1
    assert entries("user.password_changed") == 1


def test_a_key_is_revoked_once(pair: tuple[Client, Client], environment: Environment) -> None:
    key, _ = ApiKey.issue(environment, "app", (EVALUATE,))
    both_read = [ApiKey.objects.get(pk=key.pk) for _ in range(2)]
    for each in both_read:
        each.revoke()
    assert entries("api_key.revoked") == 1
    other, _ = ApiKey.issue(environment, "app", (EVALUATE,))
    both(*pair, url=reverse("admin:tenants_apikey_revoke", args=[other.pk]), form={})
    assert entries("api_key.revoked") == 2


def test_a_key_is_rotated_once_by_a_double_click(
    pair: tuple[Client, Client], environment: Environment
) -> None:
    """Twice would end the secret that calls are made with, whatever was chosen for it."""
    api = Api(environment)
    url = reverse("admin:tenants_apikey_rotate", args=[api.key.pk])
    form = form_of(pair[0], url, "seen") | {"when": ["day"]}
    assert sorted(both(*pair, url=url, form=form)) == [200, 302]
    assert entries("api_key.rotated") == 1
    assert api.get("/v1/me").status == 200
    assert "was rotated since" in pair[0].post(url, form, follow=True).content.decode()


def test_a_boost_is_given_once_by_a_double_click(
    pair: tuple[Client, Client], environment: Environment
) -> None:
    apply_policies(environment, limits(LIMIT))
    url = reverse("admin:policies_boost_add")
    form = form_of(pair[0], url, "subject") | {
        "raises": [boosts.raisable(environment.pk)[0].key],
        "subject": ["ann"],
        "anyway": ["on"],
        "until": [""],
        "extra": ["5"],
        "ends_at_0": [f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"],
        "ends_at_1": ["00:00:00"],
        "reason": ["A pilot."],
    }
    tabs = [Client(), Client()]
    for tab in tabs:
        tab.cookies = pair[0].cookies
    assert both(*tabs, url=url, form=form) == [302, 302]
    assert Boost.objects.count() == entries("boost.given") == 1
    # Sent again after going back, with another content.
    assert tabs[0].post(url, form | {"extra": ["6"]}).status_code == 302
    assert Boost.objects.count() == entries("boost.given") == 2


def test_a_draft_is_published_once(pair: tuple[Client, Client], environment: Environment) -> None:
    apply_policies(environment, limits(LIMIT))
    draft = drafts.begin(environment, "Tighter", actor="test")
    draft = drafts.leave_out(draft, "Everyone", edits=0, actor="test")
    url = reverse("admin:policy_draft", args=[draft.pk])
    both(*pair, url=url, form={"action": "publish", "edits": str(draft.edits), "note": ""})
    assert Draft.objects.get().published_at is not None
    assert (entries("draft.published"), PolicyVersion.objects.count()) == (1, 2)


def test_of_a_draft_and_a_rollback_at_once_neither_undoes_the_other_unseen(
    pair: tuple[Client, Client], environment: Environment
) -> None:
    apply_policies(environment, limits(LIMIT))
    apply_policies(environment, limits(LIMIT.replace("5", "6")))
    policy = environment.policies.get()
    draft = drafts.begin(environment, "Without", actor="test")
    draft = drafts.leave_out(draft, "Everyone", edits=0, actor="test")
    asked = (
        (reverse("admin:policy_roll_back", args=[policy.pk, 1]), {"opened_version": "2"}),
        (reverse("admin:policy_draft", args=[draft.pk]), {"action": "publish", "edits": "1", "note": ""}),
    )
    at_once(2, lambda number: pair[number].post(*asked[number]).status_code)
    assert PolicyVersion.objects.filter(policy=policy).count() == 3


def test_a_tenant_keeps_an_owner(pair: tuple[Client, Client], environment: Environment) -> None:
    ada, bo = (environment.tenant.memberships.get(user__username=name) for name in ("ada", "bo"))
    leave = reverse("admin:tenants_membership_change", args=[ada.pk])
    remove = reverse("admin:tenants_membership_delete", args=[bo.pk])

    def act(number: int) -> int:
        # Ada makes herself a viewer, and in another tab removes Bo.
        client = Client()
        client.cookies = pair[0].cookies
        form = {"role": Role.VIEWER} if number == 0 else {"post": "yes"}
        return client.post((leave, remove)[number], form).status_code

    at_once(2, act)
    assert Membership.objects.filter(tenant=environment.tenant, role=Role.OWNER).count() == 1
    assert entries("membership.changed") + entries("membership.removed") == 1


def test_of_changes_that_name_the_same_revision_one_is_made(environment: Environment) -> None:
    api = Api(environment)
    seen = api.get("/v1/plans").headers["ETag"]

    def change(number: int) -> Answer:
        return api.request("PUT", f"/v1/plans/plan-{number}", **{"If-Match": seen})

    found = Counter(answer.status for answer in at_once(16, change))
    assert (found[201] + found[200], found[412]) == (1, 15), found
    assert environment.plans.count() == entries("plan.added") == 1


def test_the_same_boost_sent_by_many_is_given_once(environment: Environment) -> None:
    api = Api(environment)
    body = {
        "per": "user", "subject": "ann", "metric": "requests", "window": "day", "extra": 5, "reason": "A pilot.",
        "ends_at": f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}",
    }  # fmt: skip
    path = "/v1/boosts/6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f"
    found = Counter(answer.status for answer in at_once(16, lambda _: api.request("PUT", path, body)))
    assert found == {201: 1, 200: 15}
    assert Boost.objects.count() == entries("boost.given") == 1


@pytest.mark.parametrize("gone", ["membership", "active", "staff", "password", "role"])
def test_what_a_person_may_ends_with_the_next_request(
    environment: Environment, sign_in: SignIn, gone: str
) -> None:
    client = sign_in("mia", environment.tenant)
    url, change = reverse("admin:policies_plan_changelist"), reverse("admin:policies_plan_add")
    assert client.get(change).status_code == 200
    user, membership = User.objects.get(username="mia"), Membership.objects.get()
    if gone == "membership":
        members.remove(membership)
    elif gone == "role":
        Membership.objects.update(role=Role.VIEWER)
    elif gone == "password":
        user.set_password("another one 4711")
        user.save()
    else:
        User.objects.update(**{f"is_{gone}": False})
    assert client.post(change, {"environment": environment.pk, "name": "gold"}).status_code in (302, 403)
    assert not environment.plans.exists()
    assert (client.get(url).status_code == 200) == (gone == "role")
    assert re.search("acme", client.get(url, follow=True).content.decode()) is None or gone == "role"
