from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from tenants.api.problems import Problem
from tenants.management import environments
from tokvigil_site.demo import replay, summary
from tokvigil_site.demo.progress import Progress
from tokvigil_site.demo.trace import ROWS_MAX, TraceError, open_trace
from tokvigil_site.management.commands.up import between


def above_zero(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return speed


class Command(BaseCommand):
    help = (
        "Replay a public trace of LLM traffic (columns of the Azure LLM inference trace or of BurstGPT) as calls of an "
        "environment, from now on: evaluate and usage for each row."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE.csv")
        environments.add_argument(parser)
        parser.add_argument(
            "--speed",
            type=above_zero,
            help="1 is as recorded, 60 an hour in a minute; left out: as fast as it goes",
        )
        parser.add_argument("--limit", type=between(1, ROWS_MAX), help="rows to replay; all if left out")
        parser.add_argument(
            "--parallel",
            type=int,
            choices=range(1, replay.PARALLEL_MAX + 1),
            default=replay.PARALLEL,
            help="threads",
        )

    def handle(
        self,
        *_args: Any,
        file: Path,
        environment: str,
        speed: float | None,
        limit: int | None,
        parallel: int,
        **_options: Any,
    ) -> None:
        chosen = environments.named(environment)
        try:
            trace = open_trace(file, limit=limit)
            progress = Progress(self.stdout, f"requests of {file.name}", trace.count)
            outcome = replay.replay(trace, chosen, speed=speed, parallel=parallel, step=progress.step)
        except TraceError as error:
            raise CommandError(str(error)) from error
        except (Problem, DatabaseError) as error:
            raise CommandError(f"The replay broke off: {error}") from error
        for part in summary.trace_story(trace, outcome, environment):
            self.stdout.write(part)
