from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from policies import policy_rows
from policies.files.file_errors import PolicyFileError
from policies.files.policy_file import parse
from policies.management import file_argument
from policies.replaying import past_calls, wording
from policies.replaying.periods import PeriodError, period
from policies.replaying.replay import replay
from tenants.management import environments
from usage.ledger.periods import Period


class Command(BaseCommand):
    help = "What other policies would have decided of the calls of a past period. Changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        file_argument.add_argument(parser)
        parser.add_argument(
            "--from", dest="start", metavar="WHEN", help="a date in the tenant's zone, or an RFC 3339 time"
        )
        parser.add_argument("--to", dest="end", metavar="WHEN", help="until before this; without it, now")
        parser.add_argument(
            "--check",
            action="store_true",
            help="also replay the policies that were in force, and say how far that agrees with what was decided",
        )
        parser.add_argument("--json", action="store_true", help="the whole report as JSON, as the API has it")

    def handle(
        self,
        *_args: Any,
        environment: str,
        file: str,
        start: str | None,
        end: str | None,
        check: bool,
        json: bool,
        **_options: Any,
    ) -> None:
        target = environments.named(environment)
        zone = ZoneInfo(target.tenant.timezone)
        try:
            wanted = parse(file_argument.read(file))
            asked = period(start, end, timezone.now(), zone)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        except (PolicyFileError, PeriodError) as error:
            raise CommandError(str(error)) from error
        report = replay(
            target,
            policy_rows.supposed(target.pk, wanted.policies),
            asked.start,
            asked.end,
            check=check,
            progress=self._progress(target.pk, asked),
        )
        if json:
            self.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode())
        else:
            for line in wording.lines(report):
                self.stdout.write(line)

    def _progress(self, environment_id: int, asked: Period) -> past_calls.Progress:
        """On a terminal's standard error."""
        if not sys.stderr.isatty():
            return lambda done: None
        total = past_calls.count(environment_id, asked.start, asked.end)

        def tell(done: int) -> None:
            self.stderr.write(f"\r{done:,} of about {max(total, done):,} calls", ending="")

        return tell
