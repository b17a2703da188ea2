"""The form that asks for a replay: which policies, and which period."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.utils import timezone

from policies.changing.drafts import DRAFTS_MAX
from policies.files import policy_file
from policies.files.file_errors import PolicyFileError
from policies.files.strict_yaml import FILE_BYTES_MAX
from policies.models import PolicyReplay
from policies.replaying import jobs
from policies.replaying.jobs import Candidate
from policies.replaying.named_periods import WORDS, Named, named, of_days
from policies.replaying.periods import PeriodError
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import Environment
from usage.ledger.periods import PERIOD_MAX

IN_FORCE, FILE, DATES = "in_force", "file", "dates"
PASTED = "a policy file"


def of_draft(draft_id: int) -> str:
    """The choice of `what` that is this draft."""
    return f"draft-{draft_id}"


def _day() -> forms.DateInput:
    return forms.DateInput(attrs={"class": "tv-input", "type": "date"}, format="%Y-%m-%d")


class ReplayForm(forms.Form):
    what = forms.ChoiceField(label="Policies", widget=forms.Select(attrs={"class": "tv-input"}))
    period = forms.ChoiceField(
        label="Calls of",
        choices=[*((each.value, WORDS[each]) for each in Named), (DATES, "These days:")],
        initial=Named.LAST_30_DAYS.value,
        widget=forms.Select(attrs={"class": "tv-input"}),
    )
    first_day = forms.DateField(required=False, widget=_day(), help_text="For “These days”.")
    last_day = forms.DateField(required=False, widget=_day(), help_text="It is in the period too.")
    upload = forms.FileField(
        label="Policy file",
        required=False,
        widget=forms.FileInput(attrs={"class": "tv-file", "accept": ".yaml,.yml"}),
    )
    text = forms.CharField(
        label="Or pasted here",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"class": "tv-input tv-code", "rows": 8, "spellcheck": "false"}),
        help_text="As docs/policies.md says; it begins with version: 1.",
    )
    self_check = forms.BooleanField(
        label="Check the replay itself",
        required=False,
        help_text="Replays the policies that were in force too, and says how far that agrees with what was decided "
        "then. Takes about twice as long.",
    )
    candidate: Candidate
    start: datetime
    end: datetime

    def __init__(self, environment: Environment, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._environment = environment
        self._drafts = {
            of_draft(draft.pk): draft
            for draft in environment.drafts.filter(published_at=None).order_by("-begun_at")[:DRAFTS_MAX]
        }
        self.fields["what"].choices = [  # type: ignore[attr-defined]
            *((key, f"The draft {draft.name}") for key, draft in self._drafts.items()),
            (FILE, "A policy file"),
            (IN_FORCE, "The policies in force"),
        ]

    def clean(self) -> dict[str, Any]:
        self._read_policies(self.cleaned_data.get("what", ""))
        self._read_period(self.cleaned_data.get("period", ""))
        return self.cleaned_data

    def _read_policies(self, what: str) -> None:
        if what in self._drafts:
            draft = self._drafts[what]
            draft.environment = self._environment
            self.candidate = Candidate.of_draft(draft)
        elif what == IN_FORCE:
            self.candidate = Candidate.in_force(self._environment)
        elif what == FILE:
            self._read_file()

    def _read_file(self) -> None:
        upload, text = self.cleaned_data.get("upload"), self.cleaned_data.get("text", "")
        if upload is None and not text.strip():
            self.add_error("upload", "Choose a policy file, or paste one below.")
            return
        field, source = ("text", PASTED) if upload is None else ("upload", _plain(upload.name))
        try:
            read = text if upload is None else upload.read(FILE_BYTES_MAX + 1).decode()
            self.candidate = Candidate(policies=policy_file.parse(read), source=source)
        except UnicodeDecodeError:
            self.add_error(field, "This is no text in UTF-8; choose the YAML file.")
        except PolicyFileError as error:
            self.add_error(field, [str(each) for each in error.errors])

    def _read_period(self, period: str) -> None:
        now, zone = timezone.now(), ZoneInfo(self._environment.tenant.timezone)
        if period != DATES:
            if period:
                self.start, self.end = named(Named(period), now, zone)
            return
        first, last = self.cleaned_data.get("first_day"), self.cleaned_data.get("last_day")
        if first is None or last is None:
            for name in ("first_day", "last_day"):
                if not self.cleaned_data.get(name) and name not in self.errors:
                    self.add_error(name, "Choose a day.")
            return
        try:
            self.start, end = of_days(first, last, zone)
        except PeriodError:
            self.add_error("first_day", "Choose days between 1970 and 9998.")
            return
        self.end = min(end, now)
        if last < first:
            self.add_error("last_day", "This is before the first day.")
        elif self.start >= now:
            self.add_error("first_day", "This day has not come yet.")
        elif self.end - self.start > PERIOD_MAX:
            self.add_error("first_day", f"A period has at most {PERIOD_MAX.days} days.")


def again(asked: PolicyReplay) -> dict[str, Any]:
    """What the form is filled in with to ask the same of another period."""
    zone = ZoneInfo(asked.environment.tenant.timezone)
    found: dict[str, Any] = {
        "what": FILE,
        "period": DATES,
        "first_day": asked.start.astimezone(zone).date(),
        "last_day": (asked.end - timedelta(microseconds=1)).astimezone(zone).date(),
        "self_check": asked.self_check,
    }
    if asked.draft is not None and asked.draft.published_at is None:
        return found | {"what": of_draft(asked.draft.pk)}
    return found | {"text": policy_file.dump(jobs.policy_set(asked.document))}


def _plain(name: str) -> str:
    """The name of an upload as it may be shown and stored."""
    shown = "".join(each for each in name if unicodedata.category(each)[0] != "C")
    return shown.strip()[:TITLE_LENGTH_MAX] or PASTED
