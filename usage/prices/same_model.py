"""Under which names lists of models meet a model. Pure.

A deny list must be hard to get round, an allow list must open nothing else:

- Both meet the name as it is written, without what stands before it (`azure/eu/gpt-4o`, `models/gpt-4o`), without the
  date or number of a snapshot (`gpt-4o-2024-05-13`) and the name that the price book lists the model under, however it
  is spelled there.
- Of names that the book lists at one price an allow list does not open those that say more: `gpt-5-codex` stands with
  `gpt-5` because it costs the same, and is another model.
- A deny list also meets what is made of the model: fine-tunes, a gateway's variants (`gpt-4o:free`), a name after a
  prefix that nobody knows (`my-proxy/gpt-4o`), and all that the book lists with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from usage.prices.cost import Price
from usage.prices.names import ENDINGS, GATEWAYS, HOSTS, MAKERS, PROVIDER_ALIASES, SCOPES, without_date
from usage.prices.prefixes import ARN, MODELS, PUBLISHED, cut_seller

# Callers choose the names, so what is remembered is bounded, and what one name may stand for.
REMEMBERED_MAX = 8192
NAMES_MAX = 64

_SELLERS = frozenset({*MAKERS, *HOSTS, *GATEWAYS, *PROVIDER_ALIASES})
# Who makes what Amazon Bedrock sells, as its ids say it.
_BEDROCK_MAKERS = (
    r"(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshot|moonshotai|nvidia|openai|qwen|stability"
    r"|twelvelabs|writer|zai)\."
)
_SAME_MODEL = (
    re.compile(rf"(?:{ARN}|{PUBLISHED}|{MODELS})(.+)"),
    re.compile(r"(?:azure|azure_ai|bedrock)/[a-z0-9-]+/(.+)"),
    re.compile(rf"(?:{'|'.join(SCOPES)})\.([a-z0-9]+\.[a-z].*)"),
    re.compile(rf"{_BEDROCK_MAKERS}(.+)"),
    re.compile(rf"({_BEDROCK_MAKERS}.+)-v[0-9]+(?::[0-9]+)?"),
    re.compile(r"(ft:[^:]+):.+"),
    *ENDINGS,
)
_MADE_OF_IT = (
    re.compile(r"[^/]*/(.+)"),
    re.compile(r"ft:([^:]+).*"),
    re.compile(r"(.+?)(?:\.ft-|[:@]).*"),
    re.compile(r"(.+)\[[^\]]*\]"),
    re.compile(r"(.+)-(?:latest|[0-9]{3,4}|[0-9]{2}-[0-9]{4}|[0-9]{6}|[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNames:
    """In lower case, the written one first."""

    to_allow: tuple[str, ...]
    to_deny: tuple[str, ...]


def names_of(model: str, price: Price | None, deployed: str | None = None) -> ModelNames:
    """Of a model as a caller writes it, with the price that was found for that name.

    `deployed`: the model behind it, if it is the name of a deployment; a list may name either.
    """
    listed = ("", ()) if price is None else (price.model, price.aliases)
    return _names_of(model, *listed) if deployed is None else _names_of_deployment(model, deployed, *listed)


@lru_cache(maxsize=REMEMBERED_MAX)
def _names_of_deployment(name: str, model: str, listed: str, aliases: tuple[str, ...]) -> ModelNames:
    own, behind = _names_of(name, "", ()), _names_of(model, listed, aliases)
    return ModelNames(to_allow=(*own.to_allow, *behind.to_allow), to_deny=(*own.to_deny, *behind.to_deny))


@lru_cache(maxsize=REMEMBERED_MAX)
def _names_of(model: str, listed: str, aliases: tuple[str, ...]) -> ModelNames:
    same = _all_of([model.strip().lower()], _without_what_says_no_more)
    if not listed:
        return ModelNames(to_allow=same, to_deny=_all_of(same, _without_anything_more))
    in_the_book = _all_of([listed.lower(), *_other_names(listed, aliases)], _without_what_says_no_more)
    allowed = same if says_more(min(same, key=len), listed) else (*same, *in_the_book)
    return ModelNames(
        to_allow=tuple(dict.fromkeys(allowed)),
        to_deny=_all_of([*same, *in_the_book], _without_anything_more),
    )


def _without_what_says_no_more(name: str) -> Iterator[str]:
    cut = cut_seller(name, _SELLERS)
    if cut is not None:
        yield cut[1]
    yield from _shorter(name, _SAME_MODEL)
    dated = without_date(name)
    if dated is not None:
        yield dated[0]


def _without_anything_more(name: str) -> Iterator[str]:
    yield from _without_what_says_no_more(name)
    yield from _shorter(name, _MADE_OF_IT)


def _shorter(name: str, patterns: Iterable[re.Pattern[str]]) -> Iterator[str]:
    for pattern in patterns:
        match = pattern.fullmatch(name)
        if match is not None:
            yield match[1]


def _all_of(names: Iterable[str], shorter: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """The names and all that can be made of them. It ends: each is shorter than the one before."""
    found = dict.fromkeys(names)
    coming = list(found)
    while coming and len(found) < NAMES_MAX:
        more = [each for each in shorter(coming.pop(0)) if each not in found]
        found.update(dict.fromkeys(more))
        coming += more
    return tuple(found)


def _other_names(listed: str, aliases: Iterable[str]) -> list[str]:
    """The model's names that are neither snapshots of it nor models of the same price: `claude-haiku-4.5`."""
    own = _plain(listed)
    return [
        alias.lower()
        for alias in aliases
        if not _plain(alias).startswith(f"{own}-") and without_date(alias.lower()) is None
    ]


def says_more(name: str, listed: str) -> bool:
    """Whether a name has all the words of a listed one, and others: `gpt-5-codex` of `gpt-5`."""
    return _words(name) > _words(listed)


def _words(name: str) -> frozenset[str]:
    """Without numbers and versions."""
    return frozenset(word for word in _plain(name).split("-") if word.isalpha() and word != "latest")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
