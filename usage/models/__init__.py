from usage.models.decision import Decision
from usage.models.event import UsageEvent
from usage.models.price import ModelPrice
from usage.models.tracked_pair import TrackedPair

__all__ = ["Decision", "ModelPrice", "TrackedPair", "UsageEvent"]
