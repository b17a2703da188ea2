from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit import chain
from audit.chain import Head
from audit.models import chain_name


class Command(BaseCommand):
    help = (
        "Checks the hash chains of the audit log and prints their heads; names what is broken and exits 1 if "
        "there is any. Keep the output elsewhere: `--expect` takes it back and names what is gone since."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--expect",
            metavar="FILE|HEADS",
            help="what this command printed before, in a file or as it is: each chain must still hold those heads",
        )

    def handle(self, *_args: Any, expect: str | None, **_options: Any) -> None:
        expected = [] if expect is None else _heads(expect)
        verdicts = list(chain.verify_all())
        flaws = [verdict.broken for verdict in verdicts if verdict.broken]
        flaws += [flaw for head in expected if (flaw := chain.missing_since(head)) and flaw not in flaws]
        if flaws:
            raise CommandError("\n".join(f"broken: {flaw}" for flaw in flaws))
        self.stdout.write(
            f"ok: {sum(verdict.entries for verdict in verdicts)} entries, {len(verdicts)} chains"
        )
        for verdict in verdicts:
            if verdict.unkeyed:
                self.stdout.write(
                    f"{chain_name(verdict.tenant_id)}: unauthenticated up to entry {verdict.unkeyed}, "
                    "written before there was a key"
                )
        for verdict in verdicts:
            self.stdout.write(str(verdict.head))


def _heads(given: str) -> list[Head]:
    """Raises CommandError if there are none: an empty file must not pass for a log in order."""
    try:
        text = Path(given).read_text()
    except (OSError, ValueError):
        text = given
    heads = chain.parse_heads(text)
    if not heads:
        raise CommandError(
            f"{given[:100]!r} is no readable file and holds no heads as `verify_audit` prints them."
        )
    return heads
