from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand

from tokvigil_site import running

PORT = 8000
WORKERS_MAX = 64


def between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--port", type=between(1, running.PORT_MAX), default=PORT)
    parser.add_argument(
        "--workers", type=between(1, WORKERS_MAX), default=running.WORKERS, help="processes of the web server"
    )


class Command(BaseCommand):
    help = (
        "Run the whole product in the foreground: database and counter store unless DATABASE_URL and REDIS_URL name "
        "them, web server, worker and beat. Ctrl-C stops all of it."
    )
    # The database may not be migrated, or not be there at all, yet.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)

    def handle(self, *_args: Any, port: int, workers: int, **_options: Any) -> None:
        with running.running(port=port, workers=workers, say=self.stdout.write) as site:
            self.stdout.write(running.welcome(site))
            site.watch()
