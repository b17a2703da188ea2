"""Writing the audit log: one call inside the transaction of the change it records.

    register_action("policy.published", "Policy published")     # once, when the app is loaded

    with acting_as("admin:alice"), transaction.atomic():
        policy.publish()
        log("policy.published", policy, tenant_id=7, version=3)

The chain is locked from then until the transaction ends. So log last; and a transaction that writes to
several chains must always do so in the same order.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from django.db import connection
from django.db.models import Model
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from audit import origin
from audit.chain import current_key_id, link
from audit.models import (
    ACTION_LENGTH_MAX,
    ACTOR_LENGTH_MAX,
    ADDRESS_LENGTH_MAX,
    DATA_LENGTH_MAX,
    GENESIS,
    REQUEST_ID_LENGTH_MAX,
    TARGET_NAME_LENGTH_MAX,
    ChainHead,
    Entry,
)
from audit.telling import Tell

SYSTEM = "system"
# Who has not proven who they are.
NOBODY = "nobody"

# A key with one of these words, or that ends in one of the others, names a secret. `tokens` are a metric.
_SECRET_WORDS = {"secret", "secrets", "password", "passwords", "passphrase", "pepper", "credentials", "hmac"}
_SECRET_ENDINGS = {"key", "keys", "apikey", "token", "authorization", "cookie"}
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_ACTION = re.compile(r"[a-z_]+(\.[a-z_]+)+")

_actor: ContextVar[str] = ContextVar("audit_actor", default=SYSTEM)
_labels: dict[str, str] = {}
_sentences: dict[str, str | Tell] = {}


@dataclass(frozen=True, slots=True)
class Target:
    """What has no row of its own: the whole price book, a user who does not exist. `id` may be empty."""

    model: str
    name: str
    id: str = ""


def register_action(action: str, label: str, sentence: str | Tell = "") -> None:
    """Makes a dotted action known to `log`. Raises ValueError for a bad name or a second label.

    The sentence says what was done with the name of the target and data of the entry, such as "published {name} as
    version {version}"; or it is told of the entry by a function, where data must be put into words. Without one
    audit/wording.py makes it of the action: "changed the plan Pro".
    """
    if not _ACTION.fullmatch(action) or len(action) > ACTION_LENGTH_MAX:
        raise ValueError(f"not a dotted action name of at most {ACTION_LENGTH_MAX} characters: {action!r}")
    if _labels.setdefault(action, label) != label:
        raise ValueError(f"{action} is already registered as {_labels[action]!r}")
    if sentence:
        _sentences[action] = sentence


def action_label(action: str) -> str:
    """The registered label, or the action itself: the log outlives the code that wrote it."""
    return _labels.get(action, action)


def action_sentence(action: str) -> str | Tell | None:
    """The registered sentence, if there is one."""
    return _sentences.get(action)


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Names who makes the changes inside, such as "admin:alice"; without it, it is "system"."""
    if not 1 <= len(actor) <= ACTOR_LENGTH_MAX:
        raise ValueError(f"an actor has 1 to {ACTOR_LENGTH_MAX} characters, not {len(actor)}")
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def log(action: str, target: Model | Target, /, *, tenant_id: int | None, **data: object) -> Entry:
    """Appends an entry to the chain of the tenant, or of the installation for None, and returns it.

    The target must be saved; its `str()` is kept as a name, cut to 200 characters. Data is JSON, where
    Decimal, UUID and dates become strings. `changes`, of the form of `changes` below, are shown as before and after.
    Raises TransactionManagementError outside a transaction, TypeError
    for a float or another type without exact JSON, ValueError for an unregistered action, a key that names a
    secret, or too much data.
    """
    if not connection.in_atomic_block:
        raise TransactionManagementError("log() must run in the transaction of the change it records")
    if action not in _labels:
        raise ValueError(f"unregistered action: {action}")
    named = _named(target)
    plain = _plain_object(data)
    if len(json.dumps(plain, ensure_ascii=False)) > DATA_LENGTH_MAX:
        raise ValueError(f"the data of {action} has more than {DATA_LENGTH_MAX} characters")

    here = origin.current()
    head = _locked_head(tenant_id)
    entry = Entry(
        tenant_id=tenant_id,
        seq=head.seq + 1,
        at=timezone.now(),
        actor=_actor.get(),
        action=action,
        target_type=named.model,
        target_id=named.id,
        target_name=named.name[:TARGET_NAME_LENGTH_MAX],
        data=plain,
        address=here.address[:ADDRESS_LENGTH_MAX],
        request_id=here.request_id[:REQUEST_ID_LENGTH_MAX],
        prev_hash=head.hash,
        key_id=current_key_id(),
    )
    entry.hash = link(head.hash, entry)
    entry.save(force_insert=True)
    head.seq, head.hash = entry.seq, entry.hash
    head.save(update_fields=["seq", "hash"])
    return entry


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Each value of `after` that differs from the one `before`, with both."""
    return {
        name: {"before": before.get(name), "after": after[name]}
        for name in after
        if name not in before or before[name] != after[name]
    }


def _named(target: Model | Target) -> Target:
    if isinstance(target, Target):
        return target
    if target.pk is None:
        raise ValueError("the target has no id: log after it is saved and before it is deleted")
    # A proxy's rows are known by the model that they are stored as.
    model = target._meta.concrete_model or target
    return Target(model._meta.label_lower, str(target), str(target.pk))


def _locked_head(tenant_id: int | None) -> ChainHead:
    heads = ChainHead.objects.select_for_update().filter(tenant_id=tenant_id)
    head = heads.first()
    if head is None:
        # Of several first writers one inserts; the others wait for its commit here and then find its row.
        ChainHead.objects.bulk_create(
            [ChainHead(tenant_id=tenant_id, seq=0, hash=GENESIS)], ignore_conflicts=True
        )
        head = heads.get()
    return head


def _plain(value: object) -> object:
    """As JSON that PostgreSQL gives back unchanged, so that the hash can be computed again."""
    match value:
        case None | bool() | int():
            return value
        case str() | Decimal() | UUID():
            return str(value)
        case datetime() | date():
            return value.isoformat()
        case Mapping():
            return _plain_object(value)
        case list() | tuple():
            return [_plain(item) for item in value]
    raise TypeError(f"the audit log takes no {type(value).__name__}: {value!r}")


def _plain_object(mapping: Mapping[str, object]) -> dict[str, object]:
    for key in mapping:
        if not isinstance(key, str):
            raise TypeError(f"the audit log takes no key of type {type(key).__name__}: {key!r}")
        if _names_a_secret(key):
            raise ValueError(f"the audit log takes no secrets: {key!r}")
    return {key: _plain(value) for key, value in mapping.items()}


def _names_a_secret(key: str) -> bool:
    words = [word.lower() for word in _WORD.findall(key)]
    return bool(words) and (not _SECRET_WORDS.isdisjoint(words) or words[-1] in _SECRET_ENDINGS)
