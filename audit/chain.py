"""The hash chain: how entries are linked, and whether they still are."""

import json
from dataclasses import dataclass
from datetime import UTC
from hashlib import sha256

from audit.models import GENESIS, ChainHead, Entry, chain_name

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What walking one chain found: so many sound entries and, if any, the first broken one and why."""

    tenant_id: int | None
    entries: int
    broken: str | None = None

    @property
    def ok(self) -> bool:
        return self.broken is None


def link(prev_hash: str, entry: Entry) -> str:
    """SHA-256 in hex over the previous hash and the entry as JSON with sorted keys, no spaces, in ASCII."""
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
    return sha256((prev_hash + json.dumps(row, sort_keys=True, separators=(",", ":"))).encode()).hexdigest()


def tenant_ids() -> list[int | None]:
    """Every chain there is or, by an entry or a head left over, was."""
    heads = ChainHead.objects.values_list("tenant_id", flat=True)
    return list(
        Entry.objects.order_by().values_list("tenant_id", flat=True).union(heads).order_by("tenant_id")
    )


def verify(tenant_id: int | None) -> Verdict:
    """Walks one chain from its first entry to its head. Reads only, in batches, and lets writers go on."""
    last_seq, last_hash = 0, GENESIS
    while True:
        # The head is read before the entries: an entry that it knows and that is then not found is gone.
        head = ChainHead.objects.filter(tenant_id=tenant_id).first()
        batch = list(Entry.objects.filter(tenant_id=tenant_id, seq__gt=last_seq).order_by("seq")[:BATCH])
        for entry in batch:
            flaw = _flaw(entry, last_seq, last_hash)
            if flaw:
                return Verdict(tenant_id, last_seq, f"{chain_name(tenant_id)}, {flaw}")
            last_seq, last_hash = entry.seq, entry.hash
        if not batch:
            break
    flaw = _head_flaw(head, last_seq, last_hash)
    return Verdict(tenant_id, last_seq, f"{chain_name(tenant_id)}, {flaw}" if flaw else None)


def _flaw(entry: Entry, last_seq: int, last_hash: str) -> str | None:
    if entry.seq != last_seq + 1:
        return f"entry {last_seq + 1}: missing"
    if entry.prev_hash != last_hash:
        return f"entry {entry.seq}: does not follow entry {last_seq}"
    if entry.hash != link(last_hash, entry):
        return f"entry {entry.seq}: altered"
    return None


def _head_flaw(head: ChainHead | None, last_seq: int, last_hash: str) -> str | None:
    if head is None:
        return f"entry {last_seq}: the chain's head is missing"
    if head.seq > last_seq:
        return f"entry {last_seq + 1}: missing"
    if head.seq < last_seq:
        return f"entry {head.seq + 1}: not written by the log"
    if head.hash != last_hash:
        return f"entry {last_seq}: replaced"
    return None
