from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tokvigil import TokVigilError

from tokvigil_site import first_steps, running
from tokvigil_site.demo import month, play, stage, summary
from tokvigil_site.demo.month import Month
from tokvigil_site.demo.progress import Progress
from tokvigil_site.demo.provider.process import start_provider
from tokvigil_site.demo.replay import replay
from tokvigil_site.demo.stage import Stage
from tokvigil_site.demo.summary import Check
from tokvigil_site.demo.trace import ROWS_MAX, Trace, TraceError, open_trace
from tokvigil_site.management.commands import up
from tokvigil_site.management.commands.up import between
from tokvigil_site.running import Site
from usage.counting.store import StoreUnavailable
from usage.prices.genai import load_shared_prices
from usage.settling import recount


class Command(BaseCommand):
    help = (
        "`up`, a demo tenant and real traffic through the Python SDK and a local AI provider; shows what was allowed "
        "and blocked and why."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        up.add_arguments(parser)
        parser.add_argument(
            "--exit", action="store_true", help="stop at the end; status 0 if all that was expected happened"
        )
        parser.add_argument(
            "--parallel", type=between(1, play.PARALLEL_MAX), default=play.PARALLEL, help="users at a time"
        )
        parser.add_argument("--trace", type=Path, metavar="FILE.csv", help="replay a public LLM trace, too")
        parser.add_argument(
            "--limit", type=between(1, ROWS_MAX), help="rows of the trace to replay; all if left out"
        )

    def handle(
        self,
        *_args: Any,
        port: int,
        workers: int,
        exit: bool,
        parallel: int,
        trace: Path | None,
        limit: int | None,
        **_options: Any,
    ) -> None:
        try:
            opened = None if trace is None else open_trace(trace, limit=limit)
        except TraceError as error:
            raise CommandError(str(error)) from error
        with (
            running.running(port=port, workers=workers, say=self.stdout.write) as site,
            start_provider() as provider_url,
        ):
            try:
                load_shared_prices()
                found = stage.set_up()
                checks = self._play(site, provider_url, found, parallel, opened)
                made = self._make_month(site, found)
                checks += self._show(month.story(made), month.checks(made))
                failed = [check for check in checks if not check.ok]
                visitor = stage.set_up_for_visitor(found)
            except (TokVigilError, StoreUnavailable) as error:
                site.require_running()
                raise CommandError(f"The demo broke off: {error} {site.logs} may say why.") from error
            first_steps.let_go_of_the_database()
            if not exit:
                self.stdout.write(summary.where_to_look(site, found))
                self.stdout.write(summary.how_to_call(site, visitor, provider_url))
                self.stdout.write(month.where_to_look(site, made))
                self.stdout.write("\nIt stays up. Ctrl-C stops all of it.")
                site.watch()
            elif failed:
                raise CommandError(f"{failed[0].what}: not so, {failed[0].found}.")
            else:
                self.stdout.write("\nLook around with `make demo`.")

    def _make_month(self, site: Site, found: Stage) -> Month:
        made = month.set_up(found, datetime.now(UTC))
        with play.connect(site.url, made.stage) as client:
            month.call(client, made)
        return made

    def _play(
        self, site: Site, provider_url: str, found: Stage, parallel: int, trace: Trace | None
    ) -> list[Check]:
        self.stdout.write(f"Playing in the new environment {found.environment}")
        with play.connect(site.url, found) as client:
            played = play.play(client, provider_url, self.stdout, parallel=parallel)
            meters = summary.read_meters(client, played)
        for part in summary.story(site, found, played, meters):
            self.stdout.write(part)
        checks = summary.checks(found, played, meters)
        if trace is not None:
            checks += self._replay(found, trace)
        return self._show("\nPromises", checks)

    def _show(self, title: str, checks: list[Check]) -> list[Check]:
        self.stdout.write(title)
        for check in checks:
            self.stdout.write(str(check))
        return checks

    def _replay(self, found: Stage, trace: Trace) -> list[Check]:
        environment = stage.set_up_for_trace(found)
        progress = Progress(self.stdout, f"requests of {trace.file.name}", trace.count)
        outcome = replay(trace, environment, step=progress.step)
        for part in summary.trace_story(trace, outcome, str(environment)):
            self.stdout.write(part)
        return summary.ledger_checks(recount.check(environment), of=f" in {environment}")
