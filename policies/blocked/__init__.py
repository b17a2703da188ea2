"""Why a call was blocked, for the person who has to answer the customer: in words, and what would have let it pass.

`explain` is made of the stored decision, so it says how things stood then. `trace` adds which policies were considered,
and `allowed_models` which models these allowed, from the versions that were in force then.
"""

from policies.blocked.allowed_models import allowed_models
from policies.blocked.explaining import explain
from policies.blocked.explanation import Explanation, Remedy, StoodLimit, Way
from policies.blocked.tracing import Trace, trace

__all__ = ["Explanation", "Remedy", "StoodLimit", "Trace", "Way", "allowed_models", "explain", "trace"]
