"""What the audit log says of policies, plans, boosts, end users, alerts and replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from audit.models import Entry
from audit.telling import Told, listed, phrase, place, when, when_of, why
from audit.wording import label, value
from policies.alert_events import IN_WORDS
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.money import NANO, to_nano
from usage.windows import Window

_SUBJECTS = {
    Per.USER: "{}",
    Per.FEATURE: "the feature {}",
    Per.PLAN: "the plan {}",
    Per.ENVIRONMENT: "everybody together",
}


def boost_given(entry: Entry) -> Told:
    """`gave ben 20 more requests a day in prod until Fri 27 Nov 23:59 UTC: A pilot.`"""
    starts = f"from {when_of(entry, 'starts_at')}" if entry.data["starts_at"] else ""
    until = f"until {when_of(entry, 'ends_at')}"
    return Told(
        f"gave {_whom(entry.data)}", _extra(entry.data), phrase(place(entry), starts, until), why(entry.data)
    )


def boost_ended(entry: Entry) -> Told:
    return Told("ended the boost of", _extra(entry.data), phrase("for", _whom(entry.data), place(entry)))


def _whom(boost: dict[str, Any]) -> str:
    return _SUBJECTS[Per(boost["per"])].format(boost["subject"])


def _extra(boost: dict[str, Any]) -> str:
    """`20 more requests a day`, `$5.00 more a month`"""
    metric, window, extra = Metric(boost["metric"]), Window(boost["window"]), Decimal(boost["extra"])
    amount = wording.amount(metric, to_nano(extra) if metric is Metric.COST_USD else int(extra))
    number, _, noun = amount.partition(" ")
    return phrase(number, "more", noun, wording.window(metric, window))


def policy_added(entry: Entry) -> Told:
    """What it says, without the defaults that it was compared with."""
    new = {name: both["after"] for name, both in entry.data["changes"].items() if both["after"]}
    details = (f"{name}: {after}" for name, after in new.items())
    return Told("published the new policy", entry.target_name, place(entry), (*details, *_because(entry)))


def policy_changed(entry: Entry) -> Told:
    did, version = "published", f"as version {entry.data['version']}"
    return Told(did, entry.target_name, phrase(version, place(entry)), _policy_changes(entry))


def policy_rolled_back(entry: Entry) -> Told:
    back = f"back to version {entry.data['restores']}"
    return Told("rolled", entry.target_name, phrase(back, place(entry)), _policy_changes(entry))


def policy_archived(entry: Entry) -> Told:
    return Told("archived the policy", entry.target_name, place(entry), _because(entry))


def _policy_changes(entry: Entry) -> tuple[str, ...]:
    return *(_line(*each) for each in entry.data["changes"].items()), *_because(entry)


def _line(name: str, both: dict[str, Any]) -> str:
    before, after = both["before"], both["after"]
    if not before:
        return f"{name}: {after}, new"
    return f"{name}: {before} → {after}" if after else f"{name}: no longer {before}"


def _because(entry: Entry) -> tuple[str, ...]:
    draft = entry.data.get("draft")
    return *((f"by the draft {draft}",) if draft else ()), *why(entry.data)


def draft_published(entry: Entry) -> Told:
    done = wording.counted(entry.data["changes"], "change")
    return Told("published the draft", entry.target_name, place(entry), (done, *why(entry.data)))


def end_user_changed(entry: Entry) -> Told:
    """`blocked the end user ben in prod: A stolen card.`, `put the end user ben on the plan pro in prod`"""
    changes = entry.data["changes"]
    plan, blocked = changes.get("plan"), changes.get("blocked")
    did = "added" if not changes else "changed"
    if blocked:
        did = "blocked" if blocked["after"] else "unblocked"
    elif plan:
        return _plan_changed(entry, plan["before"], plan["after"])
    return Told(f"{did} the end user", entry.target_name, place(entry), tuple(_user_details(changes)))


def _plan_changed(entry: Entry, before: str | None, after: str | None) -> Told:
    if not after:
        return Told("took the end user", entry.target_name, phrase(f"off the plan {before}", place(entry)))
    was = (f"before: {before}",) if before else ()
    return Told("put the end user", entry.target_name, phrase(f"on the plan {after}", place(entry)), was)


def _user_details(changes: dict[str, Any]) -> Iterator[str]:
    if plan := changes.get("plan"):
        yield f"and changed the plan: {plan['before'] or 'none'} → {plan['after'] or 'none'}"
    if (reason := changes.get("blocked_reason")) and reason["after"]:
        yield reason["after"]


def end_user_removed(entry: Entry) -> Told:
    plan, blocked = entry.data["plan"], entry.data["blocked"]
    was = [*([f"was on the plan {plan}"] if plan else []), *(["was blocked"] if blocked else [])]
    return Told("removed the end user", entry.target_name, place(entry), tuple(was))


def rule_added(entry: Entry) -> Told:
    return Told("added the alert rule", entry.target_name, place(entry), tuple(_rule(entry.data)))


def _rule(said: dict[str, Any]) -> Iterator[str]:
    yield f"fires when: {_event(said['event'])}"
    if said["thresholds"]:
        yield f"at {_percents(said['thresholds'])}"
    if said["policy"]:
        yield f"of the policy {said['policy']}"
    if said["metric"]:
        yield f"of {label(said['metric'])}"
    if not said["active"]:
        yield "switched off"


def rule_changed(entry: Entry) -> Told:
    return Told("changed the alert rule", entry.target_name, place(entry), tuple(_changes(entry)))


def endpoint_added(entry: Entry) -> Told:
    kind = "by email to" if entry.data["kind"] == "email" else f"a {entry.data['kind']} at"
    details = (f"{kind} {entry.data['place']}", f"for: {_events(entry.data['events'])}")
    return Told("added the alert endpoint", entry.target_name, place(entry), details)


def endpoint_changed(entry: Entry) -> Told:
    return Told("changed the alert endpoint", entry.target_name, place(entry), tuple(_changes(entry)))


def endpoint_rotated(entry: Entry) -> Told:
    rest = f"{place(entry)}; the old secret signs until {when_of(entry, 'old_signs_until')}".lstrip()
    return Told("rotated the signing secret of the alert endpoint", entry.target_name, rest)


def _changes(entry: Entry) -> Iterator[str]:
    changes: dict[str, Any] = entry.data["changes"]
    for name, both in changes.items():
        before, after = both["before"], both["after"]
        if name == "active":
            yield "switched on" if after else "switched off"
        elif name == "address":
            # A mark of it, which says that it is another one.
            yield "the address is another one"
        elif say := _WORDS.get(name):
            yield f"{label(name)}: {say(before) or 'none'} → {say(after) or 'none'}"
        else:
            yield f"{label(name)}: {value(before)} → {value(after)}"


def _event(name: str) -> str:
    words: str = IN_WORDS.get(name, name)  # type: ignore[call-overload]
    return words[:1].lower() + words[1:]


def _events(names: list[str]) -> str:
    return "all events" if {*names} >= {*IN_WORDS} else listed(map(_event, names))


def _percents(thresholds: list[int]) -> str:
    return f"{listed(map(str, thresholds))} %" if thresholds else ""


_WORDS: dict[str, Callable[[Any], str]] = {"event": _event, "events": _events, "thresholds": _percents}


def caller_kept(entry: Entry) -> Told:
    return _caller("kept the caller", "for Try it", entry)


def caller_dropped(entry: Entry) -> Told:
    return _caller("dropped the caller", "of Try it", entry)


def _caller(did: str, where: str, entry: Entry) -> Told:
    data = entry.data
    named = [
        ("user", "user_id"),
        ("feature", "feature"),
        ("plan", "plan"),
        ("model", "model"),
        ("run", "run_id"),
    ]
    details = tuple(f"{said} {data[name]}" for said, name in named if data[name])
    return Told(did, entry.target_name, phrase(where, place(entry)), details)


def replay_asked(entry: Entry) -> Told:
    return Told("asked what", entry.target_name, phrase("would have decided", place(entry)), _period(entry))


def replay_cancelled(entry: Entry) -> Told:
    return Told("cancelled the replay of", entry.target_name, place(entry), _period(entry))


def _period(entry: Entry) -> tuple[str, ...]:
    start, end = (datetime.fromisoformat(each) for each in entry.data["period"].split(" to "))
    return (f"calls from {when(start, entry.at)} to {when(end, entry.at)}",)


def usage_repriced(entry: Entry) -> Told:
    """`began to re-price 12 calls of acme/prod, 2026-11-01 to 2026-11-30: by $0.50 in all`"""
    data = entry.data
    calls = wording.counted(data["calls"], "call")
    by = f"by {wording.money(int(Decimal(data['difference_usd']) * NANO))} in all"
    models = (f"of {listed(data['models'])}",) if data["models"] else ()
    return Told(f"began to re-price {calls} of", entry.target_name, data["days"], (by, *models))


def month_closed(entry: Entry) -> Told:
    exceeded = entry.data["exceeded"]
    budgets = wording.counted(entry.data["budgets"], "budget")
    return Told(
        f"closed {entry.data['month']} of", entry.target_name, details=(f"{budgets}, {exceeded} exceeded",)
    )
