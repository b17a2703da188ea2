"""Another commit of this repository beside the one measured: web processes with a database and a store of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from django.db import connection

from bench import scene
from bench.checkouts import checkout_of, manage
from bench.servers import wsgi_web

DATABASE = "bench_baseline"
STORE_NUMBER = 1


@dataclass(frozen=True, slots=True)
class Baseline:
    commit: str
    url: str
    key: str


@contextmanager
def baseline(commit: str) -> Iterator[Baseline]:
    """`commit` as git names it."""
    with checkout_of(commit) as checkout:
        variables = _servers_of_its_own()
        key = _prepared(checkout, variables)
        with wsgi_web(folder=checkout, variables=variables) as url:
            yield Baseline(commit, url, key)


def _servers_of_its_own() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        cursor.execute(f"CREATE DATABASE {DATABASE}")
    database = urlsplit(os.environ["DATABASE_URL"])
    store = urlsplit(os.environ["REDIS_URL"])
    return {
        **os.environ,
        "DATABASE_URL": database._replace(path=f"/{DATABASE}").geturl(),
        "REDIS_URL": store._replace(path=f"/{STORE_NUMBER}").geturl(),
        "DJANGO_SETTINGS_MODULE": "tokvigil_site.settings",
    }


def _prepared(checkout: Path, variables: dict[str, str]) -> str:
    """Its database is migrated and has the bench's environment; the API key."""
    policies = checkout.parent / "policies.yaml"
    policies.write_text(scene.POLICIES)
    for arguments in (
        ["migrate", "--verbosity", "0"],
        ["load_prices"],
        ["create_tenant", "bench"],
        ["apply_policies", "bench/prod", str(policies)],
    ):
        manage(checkout, variables, *arguments)
    return manage(checkout, variables, "issue_key", "bench/prod", "--name", "bench").strip()
