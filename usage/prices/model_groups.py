"""Which models a limit counts, if it names some: by patterns, under whatever name a model is called. Pure.

A limit counts the model that a report names; until then the one that was asked for. Its patterns meet a model as those
of a deny list do (same_model.py), so that another spelling does not get round a budget: with its snapshots, fine-tunes,
prefixes and variants. Names that only the environment or the price book knows, of deployments and aliases, count with
the models behind them.

Counters of a limit are those of its patterns. Which names these meet otherwise is told to the counter store beside
them: if a deployment or an alias comes to mean another model, the counters are rebuilt from the ledger
(counting/sync.lua), and what calls in flight hold stays.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache

from usage.amounts import Models, digest
from usage.prices.book import PriceBook
from usage.prices.same_model import names_of, says_more

# Callers choose the names, so what is remembered is bounded.
REMEMBERED_MAX = 8192
# In place of the model of a call that names none, which every limit may meet.
ANY_MODEL = ""
DIGEST_LENGTH = 12


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern of a list meets a name. `*` stands for any text and `?` for one character; names have brackets
    (`claude-opus-4-6[1m]`), so `[` stands for itself. Case is ignored.
    """
    return fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


@lru_cache(maxsize=REMEMBERED_MAX)
def any_matches(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(matches(pattern, name) for pattern in patterns for name in names)


class ModelGroup:
    """The models that some patterns meet."""

    __slots__ = ("_others", "_patterns", "digest", "means")

    def __init__(self, patterns: Models, others: frozenset[str]) -> None:
        self._patterns = patterns
        # In lower case: names that the patterns do not meet as they are written.
        self._others = others
        self.digest = digest("\n".join(patterns))[:DIGEST_LENGTH]
        # What is met otherwise; empty: nothing is.
        self.means = digest("\n".join(sorted(others)))[:DIGEST_LENGTH] if others else ""

    def counts(self, model: str) -> bool:
        if model == ANY_MODEL:
            return True
        names = names_of(model, None).to_deny
        return any_matches(self._patterns, names) or not self._others.isdisjoint(names)


class ModelGroups:
    """Those of an environment, by their patterns. They are as its price book, which is asked for once it is needed."""

    def __init__(self, prices: Callable[[], PriceBook]) -> None:
        self._prices = prices
        self._known: dict[Models, ModelGroup] = {}

    def counts(self, patterns: Models, model: str) -> bool:
        """Whether a limit with these patterns counts the model; one without counts all."""
        return not patterns or self.of(patterns).counts(model)

    def counting(self, patterns: Models) -> Callable[[str], bool] | None:
        """The same of these patterns, for whoever asks of many models; None: all count."""
        return self.of(patterns).counts if patterns else None

    def of(self, patterns: Models) -> ModelGroup:
        group = self._known.get(patterns)
        if group is None:
            group = self._known[patterns] = self._made(patterns)
        return group

    def _made(self, patterns: Models) -> ModelGroup:
        prices = self._prices()
        as_written = ModelGroup(patterns, frozenset())
        # A book lists names together that cost the same: what says more is another model.
        aliases = frozenset(
            name
            for name, model in prices.aliases()
            if as_written.counts(model) and not says_more(name, model) and not as_written.counts(name)
        )
        listed = ModelGroup(patterns, aliases)
        deployed = frozenset(
            name
            for name, model in prices.deployments.items()
            if listed.counts(model) and not listed.counts(name)
        )
        return ModelGroup(patterns, aliases | deployed) if deployed else listed
