import io

import pytest
from django.core.management import CommandError, call_command

from audit.models import Entry
from tenants import keys
from tenants.models import ApiKey, Tenant
from tenants.scopes import PRESETS

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_a_tenant_is_made_with_its_environments() -> None:
    told = run("create_tenant", "acme", "--timezone", "Europe/Berlin")
    assert told == "Created acme/dev, acme/staging, acme/prod in Europe/Berlin.\n"
    tenant = Tenant.objects.get()
    assert (tenant.name, tenant.timezone) == ("acme", "Europe/Berlin")
    assert sorted(map(str, tenant.environments.all())) == ["acme/dev", "acme/prod", "acme/staging"]
    entry = Entry.objects.get()
    assert (entry.action, entry.tenant_id, entry.actor) == ("tenant.created", tenant.pk, "cli:create_tenant")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acme"], "There is a tenant 'acme' already: use it, or choose another slug"),
        (["Acme Inc"], "create_tenant acme-inc --name 'Acme Inc'"),
        (["other", "--timezone", "Mars/Olympus"], "Europe/Berlin"),
        (["s" * 51], "50 characters"),
    ],
)
def test_a_bad_tenant_is_refused_whole(arguments: list[str], message: str) -> None:
    run("create_tenant", "acme")
    with pytest.raises(CommandError, match=message):
        run("create_tenant", *arguments)
    assert Tenant.objects.count() == 1


def test_a_key_is_printed_and_nothing_else() -> None:
    run("create_tenant", "acme")
    told = run(
        "issue_key", "acme/staging", "--name", "app", "--preset", "viewer", "--requests-per-minute", "60"
    )
    presented = keys.parse(told.removesuffix("\n"))
    assert presented is not None
    key = ApiKey.objects.get(key_id=presented.key_id)
    assert str(key.environment) == "acme/staging"
    assert (key.name, tuple(key.scopes), key.requests_per_minute) == ("app", PRESETS["viewer"], 60)
    assert Entry.objects.get(action="api_key.issued").actor == "cli:issue_key"


def test_a_key_is_made_for_a_server_unless_said_otherwise() -> None:
    run("create_tenant", "acme")
    run("issue_key", "acme/prod", "--name", "app")
    assert tuple(ApiKey.objects.get().scopes) == PRESETS["server"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("acme", "write TENANT/ENV; acme has dev, staging, prod"),
        ("acme/nowhere", "no environment 'acme/nowhere'; acme has dev, staging, prod"),
        ("other/prod", "no environment 'other/prod': make its tenant with `create_tenant other`"),
        ("", "write TENANT/ENV, such as acme/prod"),
    ],
)
def test_a_key_for_an_unknown_environment_is_refused_with_what_there_is(path: str, message: str) -> None:
    run("create_tenant", "acme")
    with pytest.raises(CommandError, match=message):
        run("issue_key", path, "--name", "app")
    assert not ApiKey.objects.exists()
