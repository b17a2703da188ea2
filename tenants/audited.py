"""What the audit log says of tenants, environments, API keys, members and accounts."""

from __future__ import annotations

from collections.abc import Collection

from audit.models import Entry
from audit.telling import Told, listed, phrase, place, when_of, why
from audit.wording import changed
from tenants import scopes

_FORMATS = {"csv": "CSV", "json": "JSON", "jsonl": "JSON Lines"}
_DEFAULTS = {"allow": "allowed", "block": "blocked"}
_UNMATCHED = "calls that no override policy matches are"


def freezing(entry: Entry) -> Told:
    """`froze feature summarize in demo/prod`"""
    changes = entry.data["changes"]
    whole = changes.get("frozen", {"before": False, "after": False})
    features = changes.get("frozen_features", {"before": [], "after": []})
    before, after = set(features["before"]), set(features["after"])
    parts = {
        "froze": _calls(whole["after"], after - before),
        "unfroze": _calls(whole["before"], before - after),
    }
    did = " and ".join(f"{verb} {what}" for verb, what in parts.items() if what)
    if not did:
        raise ValueError("nothing that is frozen or unfrozen")
    return Told(f"{did} in", entry.target_name, details=why(entry.data))


def _calls(whole: bool, features: Collection[str]) -> str:
    named = (
        f"{'feature' if len(features) == 1 else 'features'} {listed(sorted(features))}" if features else ""
    )
    return " and ".join(part for part in ("all calls" if whole else "", named) if part)


def environment_created(entry: Entry) -> Told:
    said = f"{_UNMATCHED} {_DEFAULTS[entry.data['default_action']]}"
    return Told("created the environment", entry.target_name, details=(said,))


def environment_changed(entry: Entry) -> Told:
    action = entry.data["changes"]["default_action"]
    said = f"{_UNMATCHED} {_DEFAULTS[action['after']]} now, no longer {_DEFAULTS[action['before']]}"
    rest = tuple(changed(entry.data, leave=("default_action",)))
    return Told("changed the environment", entry.target_name, details=(said, *rest))


def tenant_created(entry: Entry) -> Told:
    details = f"times in {entry.data['timezone']}", f"environments {listed(entry.data['environments'])}"
    return Told("created the tenant", entry.target_name, details=details)


def key_issued(entry: Entry) -> Told:
    expires = entry.data.get("expires_at")
    ends = f"expires {when_of(entry, 'expires_at')}" if expires else ""
    details = tuple(part for part in (f"rights: {_rights(entry.data['scopes'])}", ends) if part)
    return Told("issued the API key", _key(entry), place(entry), details)


def key_changed(entry: Entry) -> Told:
    rights = entry.data["changes"].get("scopes")
    said = (f"rights: {_rights(rights['before'])} → {_rights(rights['after'])}",) if rights else ()
    rest = tuple(changed(entry.data, leave=("scopes",)))
    return Told("changed the API key", _key(entry), place(entry), (*said, *rest))


def key_rotated(entry: Entry) -> Told:
    """`rotated the API key web in prod; the old secret ends Fri 27 Nov 23:59 UTC`"""
    ends = f"ends {when_of(entry, 'old_ends_at')}" if entry.data["old_ends_at"] else "ended at once"
    return Told("rotated the API key", _key(entry), f"{place(entry)}; the old secret {ends}".lstrip())


def old_secret_ended(entry: Entry) -> Told:
    """`ended the old secret of the API key web in prod; it would have ended Fri 27 Nov 23:59 UTC`"""
    would_end = when_of(entry, "would_end_at")
    return Told(
        "ended the old secret of the API key",
        _key(entry),
        f"{place(entry)}; it would have ended {would_end}".lstrip(),
    )


def key_revoked(entry: Entry) -> Told:
    return Told("revoked the API key", _key(entry), place(entry))


def _key(entry: Entry) -> str:
    """Its name alone. Its id stands on the page of the entry, and in exports."""
    name, bracket, _ = entry.target_name.rpartition(" (")
    return name if bracket else entry.target_name


def _rights(given: list[str]) -> str:
    """`Server`, or in words what a key of its own choice may do."""
    title = scopes.title(given)
    return title if title in scopes.PRESET_TITLES.values() else scopes.in_words(given)


def role_changed(entry: Entry) -> Told:
    role = entry.data["changes"]["role"]
    member = entry.data["member"]
    return Told(f"changed the role of {member} from {role['before']} to {role['after']}")


def user_added(entry: Entry) -> Told:
    return Told("added the user", entry.target_name, _account(entry))


def user_deleted(entry: Entry) -> Told:
    return Told("deleted the user", entry.target_name, _account(entry))


def _account(entry: Entry) -> str:
    rights = entry.data
    if not rights["is_active"]:
        return "whose account is switched off"
    return "as a superuser" if rights["is_superuser"] else ""


def password_changed(entry: Entry) -> Told:
    if entry.data["usable"]:
        return Told("changed the password of", entry.target_name)
    return Told("took the password of", entry.target_name, "away")


def group_added(entry: Entry) -> Told:
    details = tuple(changed(entry.data, leave=("name",)))
    return Told("added the group", entry.target_name, details=details)


def log_exported(entry: Entry) -> Told:
    # The tenant is the name.
    filters = {label: value for label, value in entry.data["filters"].items() if label != "Tenant"}
    said = tuple(f"{label.lower()} {value}" for label, value in filters.items())
    return Told("exported the audit log of", entry.target_name, exported_as(entry), said)


def exported_as(entry: Entry) -> str:
    kind = entry.data["format"]
    return phrase("as", _FORMATS.get(kind, kind))
