"""The hash chain: how entries are linked, and whether they still are.

An entry's hash covers the entry and the hash before it. It is an HMAC with a key that is not in the database. Whoever
can write to the database, but has no key, can take entries away from the end of a chain, but cannot write one. What was
taken away shows against heads that were kept elsewhere. docs/audit.md says what that proves and what it does not.
"""

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from hashlib import sha256

from django.conf import settings

from audit.models import GENESIS, HASH_LENGTH, UNKEYED, ChainHead, Entry, chain_name

BATCH = 1_000

_HEAD = re.compile(rf"\b(?:(installation)|tenant-(\d{{1,19}})):(\d{{1,19}}):([0-9a-f]{{{HASH_LENGTH}}})\b")


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain. As text it is one word: `tenant-7:5:<hash>` or `installation:12:<hash>`."""

    tenant_id: int | None
    seq: int
    hash: str

    def __str__(self) -> str:
        chain = "installation" if self.tenant_id is None else f"tenant-{self.tenant_id}"
        return f"{chain}:{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What walking one chain found: the head of its sound part and, if any, the first broken entry and why.

    The first `unkeyed` entries are from before there was a key: only the hash of the first keyed one vouches for them.
    """

    head: Head
    unkeyed: int = 0
    broken: str | None = None

    @property
    def tenant_id(self) -> int | None:
        return self.head.tenant_id

    @property
    def entries(self) -> int:
        return self.head.seq

    @property
    def ok(self) -> bool:
        return self.broken is None


@dataclass(frozen=True, slots=True)
class _Living:
    ids: Callable[[], Iterable[int]]
    first_action: str


_living: list[_Living] = []


def require_chains(ids: Callable[[], Iterable[int]], first_action: str) -> None:
    """From now on each tenant that `ids` names must have a chain, which begins with `first_action`."""
    _living.append(_Living(ids, first_action))


def current_key_id() -> str:
    """Of the key that new entries are hashed with: the first one of AUDIT_KEY."""
    return next(iter(settings.AUDIT_KEYS))


def link(prev_hash: str, entry: Entry) -> str:
    """HMAC-SHA256 in hex over the previous hash and the entry as JSON with sorted keys, no spaces, in ASCII.

    An address and a request id that are empty are not in the JSON: older entries have none. For an entry without a key,
    which is older than the keys, it is SHA-256 and the JSON has no `key_id`. Raises KeyError if the entry's key was
    taken out of the settings.
    """
    row = {
        "tenant_id": entry.tenant_id,
        "seq": entry.seq,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "target_type": entry.target_type,
        "target_id": entry.target_id,
        "target_name": entry.target_name,
        "data": entry.data,
    }
    origin = {"address": entry.address, "request_id": entry.request_id}
    row |= {name: value for name, value in origin.items() if value}
    if entry.key_id == UNKEYED:
        return sha256(_message(prev_hash, row)).hexdigest()
    key = settings.AUDIT_KEYS[entry.key_id].encode()
    return hmac.digest(key, _message(prev_hash, row | {"key_id": entry.key_id}), "sha256").hex()


def _message(prev_hash: str, row: Mapping[str, object]) -> bytes:
    return (prev_hash + json.dumps(row, sort_keys=True, separators=(",", ":"))).encode()


def verify_all() -> Iterator[Verdict]:
    """Walks every chain there is, or that should be."""
    return verify_chains({*_tenant_ids(), *_beginnings()})


def verify_chains(tenant_ids: Iterable[int | None]) -> Iterator[Verdict]:
    beginnings = _beginnings()
    for tenant_id in sorted(tenant_ids, key=lambda pk: (pk is None, pk or 0)):
        yield verify(tenant_id, first_action=None if tenant_id is None else beginnings.get(tenant_id))


def _beginnings() -> dict[int, str]:
    return {pk: living.first_action for living in _living for pk in living.ids()}


def _tenant_ids() -> Iterable[int | None]:
    """Every chain there is or, by an entry or a head left over, was."""
    heads = ChainHead.objects.values_list("tenant_id", flat=True)
    return Entry.objects.order_by().values_list("tenant_id", flat=True).union(heads)


def verify(tenant_id: int | None, *, first_action: str | None = None) -> Verdict:
    """Walks one chain from its first entry to its head. Reads only, in batches, and lets writers go on."""
    last, unkeyed, keyed = Head(tenant_id, 0, GENESIS), 0, False

    def verdict(flaw: str | None) -> Verdict:
        return Verdict(last, unkeyed, f"{chain_name(tenant_id)}, {flaw}" if flaw else None)

    while True:
        # The head is read before the entries: an entry that it knows and that is then not found is gone.
        head = ChainHead.objects.filter(tenant_id=tenant_id).first()
        batch = list(Entry.objects.filter(tenant_id=tenant_id, seq__gt=last.seq).order_by("seq")[:BATCH])
        for entry in batch:
            flaw = _flaw(entry, last, after_keyed=keyed)
            if flaw is None and entry.seq == 1 and first_action not in (None, entry.action):
                flaw = f"entry 1: is not {first_action}, with which the chain of a tenant begins"
            if flaw:
                return verdict(flaw)
            keyed = entry.key_id != UNKEYED
            unkeyed += not keyed
            last = Head(tenant_id, entry.seq, entry.hash)
        if not batch:
            break
    return verdict(_head_flaw(head, last) or _end_flaw(last, keyed=keyed))


def is_altered(entry: Entry) -> bool:
    """Whether its hash does not fit it. What is gone, moved or written anew with its hash shows in the chain alone."""
    return _flaw(entry, Head(entry.tenant_id, entry.seq - 1, entry.prev_hash), after_keyed=False) is not None


def flaw_of(entry: Entry) -> str | None:
    """What is wrong with this entry or its place between its neighbours, if anything is. `verify` walks the chain."""
    chain = Entry.objects.filter(tenant_id=entry.tenant_id)
    around = {each.seq: each for each in chain.filter(seq__in=[entry.seq - 1, entry.seq + 1])}
    before, after = around.get(entry.seq - 1), around.get(entry.seq + 1)
    last = Head(entry.tenant_id, 0, GENESIS)
    if before is not None:
        last = Head(entry.tenant_id, before.seq, before.hash)
    here = Head(entry.tenant_id, entry.seq, entry.hash)
    flaw = _flaw(entry, last, after_keyed=before is not None and before.key_id != UNKEYED)
    if flaw is None and after is not None:
        return _flaw(after, here, after_keyed=entry.key_id != UNKEYED)
    if flaw is None:
        return _head_flaw(ChainHead.objects.filter(tenant_id=entry.tenant_id).first(), here)
    return flaw


def _flaw(entry: Entry, last: Head, *, after_keyed: bool) -> str | None:
    if entry.seq != last.seq + 1:
        return f"entry {last.seq + 1}: missing"
    if entry.prev_hash != last.hash:
        return f"entry {entry.seq}: does not follow entry {last.seq}"
    if entry.key_id == UNKEYED and after_keyed:
        return f"entry {entry.seq}: has no key, though entry {last.seq} has one"
    try:
        altered = not hmac.compare_digest(entry.hash.encode(), link(last.hash, entry).encode())
    except KeyError:
        return f"entry {entry.seq}: its key {entry.key_id!r} is not in AUDIT_KEY"
    return f"entry {entry.seq}: altered" if altered else None


def _head_flaw(head: ChainHead | None, last: Head) -> str | None:
    if head is None:
        return f"entry {last.seq}: the chain's head is missing"
    if head.seq > last.seq:
        return f"entry {last.seq + 1}: missing"
    if head.seq < last.seq:
        return f"entry {head.seq + 1}: not written by the log"
    if head.hash != last.hash:
        return f"entry {last.seq}: replaced"
    return None


def _end_flaw(last: Head, *, keyed: bool) -> str | None:
    """Chains from before the keys were sealed with a keyed entry, and every later entry has a key."""
    return None if keyed else f"entry {last.seq}: has no key, and none follows that has one"


def parse_heads(text: str) -> list[Head]:
    """The heads in a text that may hold other words too, such as what `verify_audit` prints."""
    return [
        Head(int(tenant_id) if tenant_id else None, int(seq), hash)
        for _, tenant_id, seq, hash in _HEAD.findall(text)
    ]


def missing_since(expected: Head) -> str | None:
    """What became of a head that a chain once had: None if the chain still holds that entry, else what is wrong."""
    name = chain_name(expected.tenant_id)
    entries = Entry.objects.filter(tenant_id=expected.tenant_id)
    entry = entries.filter(seq=expected.seq).first()
    if entry is not None:
        return None if entry.hash == expected.hash else f"{name}, entry {expected.seq}: another than expected"
    last = entries.order_by("-seq").values_list("seq", flat=True).first()
    if last is None:
        return f"{name}: gone, {expected.seq} entries expected"
    return f"{name}: ends at entry {last}, {expected.seq} entries expected"
