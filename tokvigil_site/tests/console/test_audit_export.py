"""The audit log as a file: what is in it, what it says of itself, and that nobody gets another tenant's."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.log import Target, acting_as, log
from audit.models import Entry
from tenants import audit_export
from tenants.audit_export import COLUMNS
from tenants.exporting import safe_cell
from tenants.models import Tenant
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

EXPORT = reverse("admin:audit_entry_export")


def renamed(name: str, tenant: Tenant | None, **data: Any) -> Entry:
    return log(
        "tenant.changed",
        Target("tenants.tenant", name),
        tenant_id=None if tenant is None else tenant.pk,
        **data,
    )


def exported(client: Client, form: str, query: str = "") -> str:
    response = client.post(f"{EXPORT}?{query}", {"format": form})
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]


def csv_of(client: Client, query: str = "") -> tuple[dict[str, str], list[dict[str, str]]]:
    """What the file says of itself, and its rows."""
    lines = list(csv.reader(io.StringIO(exported(client, "csv", query))))
    about = {name: value for mark, name, value in lines[:5] if mark == "#"}
    return about, [dict(zip(lines[5], line, strict=True)) for line in lines[6:]]


def test_a_csv_says_what_it_is_and_has_a_line_for_each_entry(mia: Client, acme: Tenant) -> None:
    with acting_as("admin:bob"):
        entry = renamed("Acme", acme, changes={"name": {"before": "Old", "after": "New"}})
    about, rows = csv_of(mia, "action=tenant.changed")
    assert (about["log"], about["time_zone"], about["exported_by"]) == ("acme", "Europe/Berlin", "mia")
    assert json.loads(about["filters"]) == {"Action": "tenant.changed"}
    assert about["exported_at"].endswith("+01:00")
    (row,) = rows
    assert tuple(row) == COLUMNS
    assert (row["entry"], row["actor"], row["hash"]) == (str(entry.seq), "admin:bob", entry.hash)
    assert row["sentence"] == "bob changed the tenant Acme: name Old → New"
    assert json.loads(row["data"]) == entry.data


def test_json_lines_say_the_same(mia: Client, acme: Tenant) -> None:
    about, *rows = [json.loads(line) for line in exported(mia, "jsonl").splitlines()]
    assert about["about"] | {"exported_at": ""} == {
        "log": "acme",
        "filters": {},
        "time_zone": "Europe/Berlin",
        "exported_by": "mia",
        "exported_at": "",
    }
    assert [row["action"] for row in rows] == ["tenant.created"]
    assert rows[0]["data"]["environments"] == ["dev", "staging", "prod"]


def test_the_export_is_one_entry_in_the_log_that_it_is_of(mia: Client, acme: Tenant) -> None:
    exported(mia, "csv", "find=acme")
    (entry,) = Entry.objects.filter(action="audit.exported")
    assert (entry.tenant_id, entry.actor, entry.target_name) == (acme.pk, "admin:mia", "acme")
    assert entry.data == {"format": "csv", "filters": {"Request id, address or name": "acme"}}


def test_every_entry_is_in_it_once_however_many_there_are(
    mia: Client, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_export, "BATCH", 3)
    for number in range(7):
        renamed(f"t{number}", acme)
    _, rows = csv_of(mia)
    assert [row["entry"] for row in rows] == [str(number) for number in range(8, 0, -1)]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_is_a_formula(mia: Client, acme: Tenant, start: str) -> None:
    evil = f'{start}HYPERLINK("http://evil.example")'
    with acting_as(evil):
        renamed(evil, acme)
    _, rows = csv_of(mia, "action=tenant.changed")
    assert (rows[0]["actor"], rows[0]["object_name"]) == (f"'{evil}", f"'{evil}")
    assert safe_cell("plain = text") == "plain = text"


def test_nobody_gets_another_tenants(mia: Client, acme: Tenant, other: Tenant) -> None:
    renamed("theirs", other)
    for chain in (str(other.pk), "installation", "x", "9" * 40):
        assert mia.post(f"{EXPORT}?chain={chain}", {"format": "csv"}).status_code == 400
    assert "theirs" not in exported(mia, "csv")
    assert not Entry.objects.filter(action="audit.exported").exclude(tenant_id=acme.pk).exists()


def test_of_several_tenants_one_is_chosen(sign_in: SignIn, acme: Tenant, other: Tenant) -> None:
    liz = sign_in("liz", acme, other)
    assert liz.post(EXPORT, {"format": "csv"}).status_code == 400
    about, rows = csv_of(liz, f"chain={other.pk}")
    assert (about["log"], [row["object_name"] for row in rows]) == ("other", ["other"])


@pytest.mark.parametrize(("query", "form"), [("", ""), ("", "pdf"), ("since=x", "csv"), ("data=x", "csv")])
def test_what_cannot_be_exported_is_refused(mia: Client, query: str, form: str) -> None:
    assert mia.post(f"{EXPORT}?{query}", {"format": form}).status_code == 400
    assert not Entry.objects.filter(action="audit.exported").exists()


def test_a_link_exports_nothing(mia: Client, sign_in: SignIn, acme: Tenant) -> None:
    assert mia.get(EXPORT).status_code == 405
    outsider = sign_in("out", acme)
    acme.memberships.all().delete()
    assert outsider.post(EXPORT, {"format": "csv"}).status_code == 403
