"""Replays as stored jobs: asked for, run by a worker, looked after, cancelled.

    ask -> waiting -> running -> done, failed or cancelled

A run says at most once a second that it goes on. One that has not said so for long is taken for dead: the replay is
begun again, and called failed when that was tried too. Whatever a run writes, it writes as that run: one that was
cancelled, or that another has taken over, finds so at its next word and ends.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from audit import log as audit_log
from policies import policy_rows
from policies.changing import drafts
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.models import Draft, PolicyReplay, ReplayState
from policies.models.replays import ERROR_LENGTH_MAX, OPEN_STATES
from policies.replaying import past_calls
from policies.replaying.replay import replay
from policies.replaying.report import SimulationReport
from policies.rules import PolicySet
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import Environment

logger = logging.getLogger("tokvigil.replays")

# Of an environment: how many are kept, the newest, and how many may wait or run.
KEPT_MAX = 50
OPEN_MAX = 5
# In the whole installation, so that the worker has hands left for what is due every few seconds.
RUNNING_MAX = 1
HEARTBEAT_S = 1.0
DEAD_AFTER = timedelta(seconds=120)
ATTEMPTS_MAX = 2


class TooMany(Exception):
    """As many are open as an environment may have."""


class _Ended(Exception):
    """The run was cancelled, or another has taken the replay over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The policies to replay, and where they come from."""

    policies: PolicySet
    source: str
    draft: Draft | None = None

    @classmethod
    def of_draft(cls, draft: Draft) -> Candidate:
        return cls(policies=drafts.wanted(draft), source=draft.name, draft=draft)

    @classmethod
    def in_force(cls, environment: Environment) -> Candidate:
        return cls(policies=policy_rows.policy_set(environment), source="the policies in force")


def ask(
    environment: Environment,
    candidate: Candidate,
    start: datetime,
    end: datetime,
    *,
    actor: str,
    self_check: bool = False,
) -> PolicyReplay:
    """A replay that waits for a worker. The oldest of the environment go. Raises TooMany."""
    calls = past_calls.count(environment.pk, start, end)
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        if environment.replays.filter(state__in=OPEN_STATES).count() >= OPEN_MAX:
            raise TooMany(f"{OPEN_MAX} replays of {environment} wait or run already; cancel one, or wait")
        asked = PolicyReplay.objects.create(
            environment=environment,
            asked_by=actor,
            start=start,
            end=end,
            document=_document(candidate.policies),
            source=candidate.source[:TITLE_LENGTH_MAX],
            draft=candidate.draft,
            draft_edits=None if candidate.draft is None else candidate.draft.edits,
            calls_in_all=calls,
            self_check=self_check,
        )
        _forget_old(environment)
        _audit("replay.asked", asked)
    return asked


def cancel(asked: PolicyReplay, *, actor: str) -> bool:
    """Whether it was not finished yet. A run of it ends at its next word."""
    with audit_log.acting_as(actor), transaction.atomic():
        found = PolicyReplay.objects.select_for_update(of=("self",)).get(pk=asked.pk)
        if not found.is_open:
            return False
        found.state, found.finished_at = ReplayState.CANCELLED, timezone.now()
        found.save(update_fields=["state", "finished_at"])
        _audit("replay.cancelled", found)
    return True


def run_next() -> PolicyReplay | None:
    """Runs the replay that has waited longest, if one may run now. What it was, however it ended."""
    claimed = _claim()
    if claimed is not None:
        _run(claimed)
    return claimed


def answers(asked: PolicyReplay) -> bool:
    """Whether its run has given a sign of life lately."""
    return asked.heartbeat_at is not None and asked.heartbeat_at > timezone.now() - DEAD_AFTER


def report_of(asked: PolicyReplay) -> SimulationReport | None:
    """None: there is none yet, or it cannot be read (`unreadable` says so)."""
    if asked.report is None:
        return None
    try:
        return msgspec.convert(asked.report, SimulationReport)
    except msgspec.ValidationError:
        return None


def unreadable(asked: PolicyReplay) -> str:
    """Of a report that another version of the product wrote; empty for all others."""
    if asked.report is None or report_of(asked) is not None:
        return ""
    return "The report is of another version of TokVigil and cannot be read; ask again."


def _document(policies: PolicySet) -> dict[str, Any]:
    return {
        "version": documents.VERSION,
        "plans": [*policies.plans],
        "policies": [documents.document(rule) for rule in policies.policies],
    }


def policy_set(document: dict[str, Any]) -> PolicySet:
    """Raises PolicyFileError. A draft may be for plans that are still to come, so these are not compared."""
    rules = tuple(map(documents.rule_of, document["policies"]))
    return PolicySet(plans=tuple(document["plans"]), policies=rules)


def _forget_old(environment: Environment) -> None:
    kept = environment.replays.order_by("-asked_at", "-id").values("pk")[:KEPT_MAX]
    environment.replays.exclude(state__in=OPEN_STATES).exclude(
        pk__in=list(kept.values_list("pk", flat=True))
    ).delete()


def _audit(action: str, asked: PolicyReplay) -> None:
    audit_log.log(
        action,
        asked,
        tenant_id=asked.environment.tenant_id,
        environment=asked.environment.slug,
        period=f"{asked.start.isoformat()} to {asked.end.isoformat()}",
    )


def _claim() -> PolicyReplay | None:
    """The oldest that may run, marked as run by us.

    All open ones are locked, so two workers do not claim at once: who comes second finds what the first claimed.
    """
    now = timezone.now()
    with transaction.atomic():
        unfinished = list(
            PolicyReplay.objects.select_for_update(of=("self",))
            .filter(state__in=OPEN_STATES)
            .select_related("environment__tenant")
            .order_by("asked_at", "id")
        )
        alive = [each for each in unfinished if each.state == ReplayState.RUNNING and answers(each)]
        rest = [each for each in unfinished if each not in alive]
        for given_up in (each for each in rest if each.attempts >= ATTEMPTS_MAX):
            _give_up(given_up, now)
        due = [each for each in rest if each.attempts < ATTEMPTS_MAX]
        if not due or len(alive) >= RUNNING_MAX:
            return None
        claimed = due[0]
        claimed.state, claimed.run, claimed.attempts = ReplayState.RUNNING, uuid.uuid4(), claimed.attempts + 1
        claimed.started_at = claimed.heartbeat_at = now
        claimed.calls_done = 0
        claimed.save(update_fields=["state", "run", "attempts", "started_at", "heartbeat_at", "calls_done"])
    return claimed


def _give_up(asked: PolicyReplay, now: datetime) -> None:
    asked.state, asked.finished_at = ReplayState.FAILED, now
    asked.error = f"The worker that ran it ended before it was done, {ATTEMPTS_MAX} times."
    asked.save(update_fields=["state", "finished_at", "error"])
    logger.error("the replay %s is given up: its worker ended %d times", asked.pk, ATTEMPTS_MAX)


def _run(claimed: PolicyReplay) -> None:
    """However it ends, it is written down."""
    try:
        found = replay(
            claimed.environment,
            policy_rows.supposed(claimed.environment_id, policy_set(claimed.document).policies),
            claimed.start,
            claimed.end,
            check=claimed.self_check,
            progress=_teller(claimed),
        )
        _write(
            claimed, state=ReplayState.DONE, finished_at=timezone.now(), report=msgspec.to_builtins(found),
            calls_done=found.calls.replayed + found.retries_left_out,
        )  # fmt: skip
    except _Ended:
        logger.info("the replay %s was cancelled or taken over", claimed.pk)
    except PolicyFileError as error:
        _fail(claimed, f"Its policies cannot be read by this version: {error}")
    except Exception as error:
        logger.exception("the replay %s failed", claimed.pk)
        _fail(claimed, f"It could not be finished: {type(error).__name__}. The log of the worker says more.")


def _teller(claimed: PolicyReplay) -> Callable[[int], None]:
    told_at = monotonic()

    def tell(done: int) -> None:
        nonlocal told_at
        if monotonic() - told_at >= HEARTBEAT_S:
            told_at = monotonic()
            _write(claimed, calls_done=done, heartbeat_at=timezone.now())

    return tell


def _fail(claimed: PolicyReplay, error: str) -> None:
    """If it cannot be written, the replay has no sign of life from then on, and is taken up again."""
    try:
        _write(claimed, state=ReplayState.FAILED, finished_at=timezone.now(), error=error[:ERROR_LENGTH_MAX])
    except _Ended:
        return


def _write(claimed: PolicyReplay, **columns: Any) -> None:
    """As this run. Raises _Ended if it is no longer the one."""
    own = PolicyReplay.objects.filter(pk=claimed.pk, state=ReplayState.RUNNING, run=claimed.run)
    if not own.update(**columns):
        raise _Ended
