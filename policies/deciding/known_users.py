"""End users' records that this process has read. None expires: the counter store tells when one is out of date."""

from __future__ import annotations

from collections import OrderedDict

Key = tuple[int, str]


class KnownUsers:
    """A least-recently-used cache of records by environment and user id. Safe for threads."""

    def __init__(self, kept_max: int) -> None:
        self.kept_max = kept_max
        self._records: OrderedDict[Key, str] = OrderedDict()

    def find(self, environment_id: int, user_id: str) -> str | None:
        key = environment_id, user_id
        record = self._records.get(key)
        if record is not None:
            self._use(key)
        return record

    def remember(self, environment_id: int, user_id: str, record: str) -> None:
        key = environment_id, user_id
        self._records[key] = record
        self._use(key)
        while len(self._records) > self.kept_max:
            self._records.popitem(last=False)

    def forget_all(self) -> None:
        self._records.clear()

    def _use(self, key: Key) -> None:
        try:
            self._records.move_to_end(key)
        except KeyError:
            # Another thread dropped it meanwhile.
            return
