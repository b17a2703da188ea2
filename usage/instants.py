"""Instants as whole Unix milliseconds, and back: in integers, for no float of seconds is exact on every date."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def to_ms(instant: datetime) -> int:
    """The millisecond that an aware instant lies in."""
    return (instant - EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """The instant at which a millisecond begins, in UTC. Raises OverflowError outside of the years 1 to 9999."""
    return EPOCH + ms * _MILLISECOND
