import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from policies.files.policy_file import parse
from policies.policy_rows import policy_set
from tenants.models import Environment, Tenant

pytestmark = pytest.mark.django_db

FILE = """
version: 1
plans: [free]
policies:
  - {name: Default, limits: [{metric: requests, window: day, amount: 50}]}
  - {name: Free, scope: {plan: free}, mode: off}
"""


@pytest.fixture
def environment() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="prod")


@pytest.fixture
def file(tmp_path: Path, environment: Environment) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(FILE)
    return path


def run(*arguments: Any) -> str:
    out = io.StringIO()
    call_command(*map(str, arguments), stdout=out)
    return out.getvalue()


def test_a_file_is_applied_and_the_diff_shown(file: Path, environment: Environment) -> None:
    run("apply_policies", "acme/prod", file)
    file.write_text(FILE.replace("amount: 50", "amount: 60").replace("  - {name: Free", "  - {name: Trial"))
    told = run("apply_policies", "acme/prod", file)
    assert "policy 'Default': changed, version 2" in told
    assert "    +  - {metric: requests, window: day, amount: 60, per: user}" in told
    assert told.endswith("1 added, 1 changed, 1 archived, 0 unchanged\n")
    assert policy_set(environment) == parse(file.read_text())


def test_a_dry_run_shows_the_same_and_changes_nothing(file: Path, environment: Environment) -> None:
    told = run("apply_policies", "acme/prod", file, "--dry-run")
    assert "2 added, 0 changed, 0 archived, 0 unchanged (dry run" in told
    assert not environment.policies.exists()


def test_applying_again_finds_all_unchanged(file: Path) -> None:
    run("apply_policies", "acme/prod", file)
    assert run("apply_policies", "acme/prod", file) == "0 added, 0 changed, 0 archived, 2 unchanged\n"


def test_standard_input_is_read_for_a_dash(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(FILE.encode())))
    assert run("apply_policies", "acme/prod", "-").endswith("2 added, 0 changed, 0 archived, 0 unchanged\n")


def test_what_is_exported_can_be_applied(file: Path, environment: Environment, tmp_path: Path) -> None:
    run("apply_policies", "acme/prod", file)
    exported = tmp_path / "exported.yaml"
    exported.write_text(run("export_policies", "acme/prod"))
    assert run("apply_policies", "acme/prod", exported) == "0 added, 0 changed, 0 archived, 2 unchanged\n"
    run("apply_policies", "acme/dev", exported)
    assert policy_set(environment.tenant.environments.get(slug="dev")) == policy_set(environment)


def test_the_errors_of_a_file_are_told_one_a_line(file: Path, environment: Environment) -> None:
    file.write_text(FILE.replace("mode: off", "mode: strict").replace("amount: 50", "amount: 5.5"))
    with pytest.raises(CommandError) as raised:
        run("apply_policies", "acme/prod", file)
    assert str(raised.value).splitlines() == [
        "policies[0].limits[0].amount: must be a whole number from 0 to 9000000000000000, without quotes",
        "policies[1].mode: must be one of enforce, monitor, off",
    ]
    assert raised.value.returncode == 1
    assert not environment.policies.exists()


@pytest.mark.parametrize("command", [("apply_policies", "acme/nowhere", "-"), ("export_policies", "x/y")])
def test_an_unknown_environment_is_named(
    command: tuple[str, ...], environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(FILE.encode())))
    with pytest.raises(CommandError, match=f"no environment '{command[1]}'"):
        run(*command)


def test_a_file_that_cannot_be_read_is_named(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        run("apply_policies", "acme/prod", tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"version: \xff")
    with pytest.raises(CommandError, match="cannot be read"):
        run("apply_policies", "acme/prod", tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    "default", ["{name: Default, mode: monitor}", "{name: Chat, scope: {feature: chat}}"]
)
def test_a_set_that_binds_not_everyone_says_so_unless_others_are_blocked(
    environment: Environment, file: Path, default: str
) -> None:
    warning = (
        "No policy without a scope is enforced: calls that no policy is for are allowed without a limit.\n"
    )
    assert warning not in run("apply_policies", "acme/prod", file, "--dry-run")

    file.write_text(f"version: 1\npolicies: [{default}]\n")

    assert run("apply_policies", "acme/prod", file, "--dry-run").endswith(warning)
    Environment.objects.filter(pk=environment.pk).update(default_action="block")
    assert warning not in run("apply_policies", "acme/prod", file)
