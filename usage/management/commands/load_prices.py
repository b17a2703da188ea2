from typing import Any

from django.core.management.base import BaseCommand

from audit.log import acting_as
from usage.prices.genai import load_shared_prices

ACTOR = "cli:load_prices"


class Command(BaseCommand):
    help = "Brings the shared price book up to the installed genai-prices package. Needs no network."

    def handle(self, *_args: Any, **_options: Any) -> None:
        with acting_as(ACTOR):
            report = load_shared_prices()
        self.stdout.write(
            f"genai-prices {report.source_version}: {report.added} added, {report.changed} changed, "
            f"{report.unchanged} unchanged, {report.retired} switched off, "
            f"{report.kept} kept from other sources"
        )
        self.stdout.write(f"Left out ({len(report.left_out)}):")
        for line in report.left_out:
            self.stdout.write(f"  {line}")
