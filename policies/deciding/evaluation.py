"""Evaluate: may this call be made, and if so, hold what it may use.

Snapshot and end user (from the process) -> resolve -> boosts -> assess -> reserve (the one round trip) -> decide.

The process may be out of date. The reserve script refuses a stale revision, a changed end user, windows and boosts that
are over, and counters that are not complete; none of these answers takes effect. What was missing is then read from
PostgreSQL and the call tried again. If the counter store cannot be reached, or PostgreSQL does not answer in time, the
policies' `on_unavailable` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError

from policies import end_users
from policies.deciding import boosting, compiling, decision, snapshot
from policies.deciding.assessing import Call, EnvironmentState, assess
from policies.deciding.call_terms import CallTerms
from policies.deciding.compiling import Compiling
from policies.deciding.decision import Decision
from policies.deciding.evaluate_request import EvaluateRequest, digest_of
from policies.deciding.known_users import KnownUsers
from policies.deciding.snapshot import CallsAtOnce, Snapshot
from policies.deciding.suggesting import suggested_model
from tenants import revisions
from tenants.api import problems
from tenants.api.authentication import Credential
from tenants.api.callers import Admits, Caller
from usage import assessment
from usage.amounts import Amounts, Subjects
from usage.assessment import Assessment, Reading, Unreadable
from usage.counting import carry, remember_user, reserve
from usage.counting.reserve import (
    AlreadySettled,
    Check,
    ClockDiffers,
    Cold,
    Conflict,
    Done,
    HoldsElsewhere,
    RateLimited,
    Replay,
    Request,
    Stale,
    UserUnknown,
)
from usage.counting.store import StoreUnavailable, Unanswered, store
from usage.counting.stored_user import UNKNOWN, StoredUser, parse_record
from usage.counting.sync import JUST_READ
from usage.counting.tracked import Counter, CurrentWindows
from usage.instants import from_ms
from usage.ledger.expected_output import expected_output
from usage.prices.book import Match
from usage.prices.tokens import count_tokens
from usage.settling import catching_up, given_up, recount
from usage.timebox import patience

logger = logging.getLogger("tokvigil.evaluate")
HOLD_MS = 600_000
REQUEST_ID_BYTES = 16
EVALUATION_ID_BYTES = 8
# Each attempt learns one thing that the process did not know; many in one call mean that the store is not usable.
ATTEMPTS_MAX = 12
USERS_KEPT_MAX = 100_000


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """A decision and what it was made of."""

    assessment: Assessment
    decision: Decision
    # When the hold ends, in ms; None: nothing is held.
    expires_at_ms: int | None
    # For a call that is blocked for its model or its cost.
    suggested_model: str | None
    degraded: bool
    # What `explain` shows.
    snapshot: Snapshot
    user: StoredUser
    match: Match | None


_users = KnownUsers(USERS_KEPT_MAX)


def forget_all() -> None:
    """As in a new process."""
    _users.forget_all()
    snapshot.forget_all()


class Admitted(msgspec.Struct, frozen=True):
    """A caller who may ask, as far as this process knows; the reserve script verifies it."""

    caller: Admits
    snapshot: Snapshot
    credential: Credential


def admit(caller: Caller) -> Admitted:
    """Raises Problem; and OperationalError if PostgreSQL is away and this process does not know the environment.

    Waits for PostgreSQL for settings.EVALUATE_WAIT_S at most.
    """
    with patience.within(settings.EVALUATE_WAIT_S):
        return Admitted(caller, *caller.admitted(compiling.of_key, compiling.latest))


def evaluate(body: EvaluateRequest, admitted: Admitted) -> Evaluated:
    """Raises Problem. Waits for PostgreSQL for settings.EVALUATE_WAIT_S at most."""
    with patience.within(settings.EVALUATE_WAIT_S):
        return _evaluate(body, admitted)


def _evaluate(body: EvaluateRequest, admitted: Admitted) -> Evaluated:
    return Evaluation(admitted.caller, first_attempt(body, admitted)).decided()


def first_attempt(body: EvaluateRequest, admitted: Admitted) -> Attempt:
    return Attempt(
        body=body,
        snapshot=admitted.snapshot,
        credential=admitted.credential,
        evaluation_id=token_hex(EVALUATION_ID_BYTES),
        request_id=body.request_id or token_hex(REQUEST_ID_BYTES),
        asked=body.asked(_input_tokens(body)),
        digest=digest_of(body),
    )


class Evaluation:
    """The tries at one call. `attempt` is the latest: whatever fails, nothing that was read meanwhile is forgotten."""

    def __init__(self, caller: Admits, attempt: Attempt) -> None:
        self._caller = caller
        self._attempt = attempt

    def decided(self) -> Evaluated:
        try:
            catching_up.before_use(self._attempt.snapshot.environment_id)
            return self._reserved()
        except Compiling as error:
            logger.info("evaluate degraded, policies are being compiled: %s", error)
            self._read(snapshot.all_but_policies)
        except Unanswered as error:
            return self._unanswered(error)
        except StoreUnavailable as error:
            self._read_uncounted(error)
        except (OperationalError, InterfaceError) as error:
            logger.info("evaluate degraded, counters that are cold cannot be completed: %s", error)
        return self._attempt.degraded()

    def _unanswered(self, error: Unanswered) -> Evaluated:
        """The call may hold what it asked for, which is its own only if it may be made."""
        evaluated = None
        try:
            self._read_uncounted(error)
            evaluated = self._attempt.degraded()
            return evaluated
        finally:
            if evaluated is None or not evaluated.decision.verdict.allowed:
                self._attempt.give_up()

    def _read_uncounted(self, error: StoreUnavailable) -> None:
        logger.info("evaluate degraded, no counters: %s", error)
        self._read(compiling.latest)

    def _read(self, latest: Callable[[Snapshot], Snapshot]) -> None:
        """Environment and end user as PostgreSQL knows them now, for the store cannot tell what changed."""
        with suppress(OperationalError, InterfaceError):
            known = latest(self._attempt.snapshot)
            self._attempt = self._attempt.with_snapshot(known, known.edition, caller=self._caller)
        with suppress(OperationalError, InterfaceError):
            self._attempt.remember(
                end_users.load_record(self._attempt.snapshot.environment_id, self._attempt.body.user_id)
            )

    def _reserved(self) -> Evaluated:
        for _ in range(ATTEMPTS_MAX):
            attempt = self._attempt
            prepared = attempt.prepare()
            match reserve.reserve(prepared.request()):
                case Done() as done:
                    return prepared.done(done)
                case Replay() as replay:
                    return prepared.replayed(replay)
                case Stale():
                    self._attempt = attempt.with_snapshot(
                        *compiling.renew(attempt.snapshot), caller=self._caller
                    )
                case UserUnknown() as unknown:
                    self._attempt = attempt.with_user(unknown)
                case ClockDiffers(now_ms):
                    self._attempt = msgspec.structs.replace(attempt, now_ms=now_ms)
                case Cold() as cold:
                    attempt.complete(cold, prepared.assessment.subjects)
                case HoldsElsewhere(token):
                    carry.carry(attempt.snapshot.environment_id, attempt.snapshot.counting.tracked, token)
                case RateLimited(wait_ms):
                    raise problems.rate_limited(-(-wait_ms // 1000))
                case Conflict():
                    raise problems.idempotency_conflict(attempt.request_id)
                case AlreadySettled():
                    raise problems.already_settled(
                        f"The call {attempt.request_id!r} was reported, or charged as its hold expired; nothing more "
                        "is held for it. Use a new request_id for another call."
                    )
        raise StoreUnavailable("the environment did not come to rest")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a call, with what the process knows at the moment."""

    body: EvaluateRequest
    snapshot: Snapshot
    credential: Credential
    evaluation_id: str
    request_id: str
    asked: Amounts
    # Of the body: the same request asked again has the same.
    digest: str
    # The store's time, once it had to tell.
    now_ms: int | None = None
    # The snapshot's, or JUST_READ if the snapshot is what PostgreSQL says since the call began.
    edition: str | None = None
    # Whether the same is true of the end user.
    user_just_read: bool = False

    def with_snapshot(self, known: Snapshot, edition: str, *, caller: Admits) -> Attempt:
        """Checks the key again, for it may be what changed. Raises Problem 401, 403."""
        return msgspec.structs.replace(
            self, snapshot=known, edition=edition, credential=caller.credential(known)
        )

    def prepare(self) -> Prepared:
        """What the call is measured by, before anything is counted. Try it, with a draft, comes through here too."""
        body, known = self.body, self.snapshot
        now_ms = self.now_ms or store.now_ms()
        record = self._user_record()
        user = parse_record(record)
        subjects = Subjects(
            user_id=body.user_id,
            feature=body.feature or "",
            plan=(user.plan if user.known else "") or body.plan or "",
            run_id=body.run_id or "",
        )
        matched = known.policies.resolve(user=subjects.user_id, feature=subjects.feature, plan=subjects.plan)
        present = known.counting.tracked.at(now_ms)
        terms = known.terms.find(matched, subjects, present.spans, body.model, known.counting.tracked.groups)
        if known.state.boosts or user.boosts:
            boosts = (*known.state.boosts, *user.boosts)
            terms, right = boosting.boosted(terms, boosts, subjects, now_ms)
            present = present.within(right)
        call = Call(
            request_id=self.request_id,
            subjects=subjects,
            model=body.model,
            asked=self.asked,
            max_output_tokens=body.max_output_tokens,
            user_blocked=user.blocked,
            provider=body.provider or "",
            served=body.served,
            said=None if body.quantities is None else body.quantities.used,
            api_key_id=self.credential.id,
        )
        assessed, match = self.assess(call, terms, now_ms)
        return Prepared(
            attempt=self,
            call=call,
            assessment=assessed,
            terms=terms,
            record=record,
            user=user,
            present=present,
            match=match,
        )

    def assess(self, call: Call, terms: CallTerms, now_ms: int) -> tuple[Assessment, Match | None]:
        """With the price that it was made with: of several the one whose output is the dearest."""
        known = self.snapshot
        book = known.counting.prices
        named, elsewhere = book.candidates(call.model, from_ms(now_ms), call.provider or None)
        output = output_tokens(call, terms, known.environment_id)
        assessed = assess(
            call,
            terms,
            known.state,
            None if named is None else named.price,
            output,
            book.deployed(call.model),
            [match.price for match in elsewhere],
        )
        found = elsewhere if named is None else (named, *elsewhere)
        return assessed, max(found, key=lambda match: match.price.rates.dearest[::-1], default=None)

    def request(self, prepared: Prepared) -> Request:
        known, body = self.snapshot, self.body
        assessed, terms, present = prepared.assessment, prepared.terms, prepared.present
        subjects = prepared.call.subjects
        counted = present.counters(subjects, body.model)
        sets = self._concurrency_sets(subjects) if known.calls_at_once else {}
        return Request(
            environment_id=known.environment_id,
            edition=self.edition or known.edition,
            evaluation_id=self.evaluation_id,
            request_id=self.request_id,
            request_digest=self.digest,
            user_id=body.user_id,
            user_record=JUST_READ if self.user_just_read else prepared.record,
            amounts=assessed.amounts,
            least=None if assessed.least_output_tokens is None else assessed.least,
            input_rate=assessed.input_rate,
            output_rate=assessed.output_rate,
            fees_nano=assessed.fees_nano,
            counters=counted,
            concurrency_keys=tuple(sets.values()),
            checks=_checks(terms, counted, list(sets)),
            zone=known.counting.tracked.zone.key,
            right_from_ms=present.since_ms,
            right_until_ms=present.until_ms,
            assessment=assessment.pack(assessed),
            hold=not body.dry_run and assessed.refusal is None,
            record_block=not body.dry_run,
            hold_ms=HOLD_MS,
            charge_on_expiry=terms.charge_on_expiry,
            api_key_id=self.credential.id,
            requests_per_minute=self.credential.requests_per_minute,
        )

    def _concurrency_sets(self, subjects: Subjects) -> dict[CallsAtOnce, str]:
        """Every call takes its place in the sets of all kinds of subject that some limit names, if that counts it."""
        tracked = self.snapshot.counting.tracked
        keys = {
            (per, models): tracked.concurrency_key(per, models, subjects)
            for per, models in self.snapshot.calls_at_once
            if tracked.groups.counts(models, self.body.model)
        }
        return {kind: key for kind, key in keys.items() if key is not None}

    def _user_record(self) -> str:
        return _users.find(self.snapshot.environment_id, self.body.user_id) or UNKNOWN

    def with_user(self, unknown: UserUnknown) -> Attempt:
        """Reads what the store does not know, and tells it unless a change of the user is under way."""
        environment_id, user_id = self.snapshot.environment_id, self.body.user_id
        under_way = revisions.under_way(unknown.changing)
        record = end_users.load_record(environment_id, user_id)
        self.remember(record)
        told = not under_way and remember_user.remember_user(environment_id, user_id, record, unknown)
        return msgspec.structs.replace(self, user_just_read=not told)

    def remember(self, record: str) -> None:
        _users.remember(self.snapshot.environment_id, self.body.user_id, record)

    def complete(self, cold: Cold, subjects: Subjects) -> None:
        recount.complete(self.snapshot.environment_id, subjects, cold)

    def give_up(self) -> None:
        given_up.keep(self.snapshot.environment_id, self.request_id, self.evaluation_id)

    def degraded(self) -> Evaluated:
        """Decides without counters."""
        prepared = self.prepare()
        allowed = passes_uncounted(prepared.terms, self.snapshot.state)
        return Evaluated(
            assessment=prepared.assessment,
            decision=decision.degraded(prepared.assessment, allowed=allowed),
            expires_at_ms=None,
            suggested_model=None,
            degraded=True,
            snapshot=self.snapshot,
            user=prepared.user,
            match=prepared.match,
        )


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt, ready for the reserve script."""

    attempt: Attempt
    call: Call
    assessment: Assessment
    terms: CallTerms
    # The end user's as the process knows it, and read.
    record: str
    user: StoredUser
    # For as long as the terms are right.
    present: CurrentWindows
    match: Match | None

    def request(self) -> Request:
        return self.attempt.request(self)

    def done(self, done: Done) -> Evaluated:
        decided = decision.decide(self.assessment, done.readings, done.at_ms)
        return self._evaluated(
            self.assessment,
            decided,
            done.deadline_ms if done.held else None,
            suggested_model(
                decided.verdict,
                self.assessment.limits,
                self.terms.named_models,
                lambda model: self._with_model(model, done),
                done.at_ms,
            ),
        )

    def _with_model(self, model: str, done: Done) -> tuple[Assessment, list[Reading]] | None:
        """None: how limits stand that count this model and not the one asked for was not read."""
        counts = self.attempt.snapshot.counting.tracked.groups.counts
        if any(
            counts(named, model) and not counts(named, self.call.model)
            for named in self.terms.matched.models_of_limits
        ):
            return None
        read = zip(self.terms.limits, self.terms.pairs, done.readings, strict=True)
        met = [each for each in read if counts(each[0].models, model)]
        terms = replace(
            self.terms, limits=tuple(limit for limit, _, _ in met), pairs=tuple(pair for _, pair, _ in met)
        )
        call = msgspec.structs.replace(self.call, model=model)
        assessed, _ = self.attempt.assess(call, terms, done.at_ms)
        return assessed, [reading for _, _, reading in met]

    def replayed(self, replay: Replay) -> Evaluated:
        """As decided the first time; if a version wrote it that this one cannot read, without its limits."""
        try:
            first, readings = assessment.unpack_decided(replay.assessment, replay.readings)
        except Unreadable as error:
            logger.error("the hold of %s cannot be read by this version: %s", self.call.request_id, error)
            first, readings = msgspec.structs.replace(self.assessment, limits=(), refusal=None), ()
        return self._evaluated(first, decision.decide(first, readings, replay.at_ms), replay.deadline_ms)

    def _evaluated(
        self, assessed: Assessment, decided: Decision, expires_at_ms: int | None, suggested: str | None = None
    ) -> Evaluated:
        return Evaluated(
            assessment=assessed,
            decision=decided,
            expires_at_ms=expires_at_ms,
            suggested_model=suggested,
            degraded=False,
            snapshot=self.attempt.snapshot,
            user=self.user,
            match=self.match,
        )


def passes_uncounted(terms: CallTerms, state: EnvironmentState) -> bool:
    """Whether a call may be made while the counters cannot be read."""
    if terms.allow_unavailable is not None:
        return terms.allow_unavailable
    return terms.matched.override is not None or state.allow_without_policy


def _input_tokens(body: EvaluateRequest) -> int:
    if body.input_tokens is not None:
        return body.input_tokens
    return 0 if body.input_text is None else count_tokens(body.input_text, body.model)


def output_tokens(call: Call, terms: CallTerms, environment_id: int) -> int:
    """What to hold for the answer: as asked, else the policy's cap, else what such calls used lately."""
    if call.max_output_tokens is not None:
        return call.max_output_tokens
    if terms.output_cap is not None:
        return terms.output_cap
    return expected_output(environment_id, call.subjects.feature, call.model)


def _checks(terms: CallTerms, counted: tuple[Counter, ...], sets: list[CallsAtOnce]) -> tuple[Check, ...]:
    places = {counter.slot.pair: place for place, counter in enumerate(counted)}
    return tuple(
        [
            reserve.check(
                limit.metric,
                sets.index((limit.per, limit.models)) if pair is None else places[pair],
                limit.amount,
                enforce=limit.enforce,
            )
            for limit, pair in zip(terms.limits, terms.pairs, strict=True)
        ]
    )
