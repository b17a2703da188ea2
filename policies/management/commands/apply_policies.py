from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from policies.changing.publishing import ChangeKind, PolicyChange, publish
from policies.files.file_errors import PolicyFileError
from policies.files.policy_file import parse
from policies.management import file_argument
from tenants.management import environments
from tenants.models import DefaultAction

ACTOR = "cli:apply_policies"


class Command(BaseCommand):
    help = "Make a policy file what is in force in an environment; policies it does not name are archived."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        file_argument.add_argument(parser)
        parser.add_argument("--dry-run", action="store_true", help="show what would change, change nothing")

    def handle(self, *_args: Any, environment: str, file: str, dry_run: bool, **_options: Any) -> None:
        target = environments.named(environment)
        try:
            wanted = parse(file_argument.read(file))
            changes = publish(target, wanted, actor=ACTOR, dry_run=dry_run)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        except PolicyFileError as error:
            raise CommandError(str(error)) from error
        for change in changes:
            self.stdout.write(str(change))
            for line in change.diff:
                self.stdout.write(f"    {line}")
        counts = Counter(change.kind for change in changes if isinstance(change, PolicyChange))
        added, changed = counts[ChangeKind.ADDED], counts[ChangeKind.CHANGED]
        unchanged = len(wanted.policies) - added - changed
        self.stdout.write(
            f"{added} added, {changed} changed, {counts[ChangeKind.ARCHIVED]} archived, {unchanged} unchanged"
            + (" (dry run: nothing was changed)" if dry_run else "")
        )
        if target.default_action == DefaultAction.ALLOW and not wanted.binds_everyone:
            self.stdout.write(
                "No policy without a scope is enforced: calls that no policy is for are allowed without a limit."
            )
