"""The list of prices: what each model costs the shown tenant now, and first the models in use that have no price."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import BadRequest
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from tenants.console import environments, pages
from tenants.console.access import may
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from tenants.roles import May
from usage.ledger.unpriced import UnpricedUse, Without, recorded_unpriced, without_rate
from usage.money import NANO
from usage.prices import stored_book
from usage.prices.book import Match, PriceBook
from usage.prices.cost import UNDATED, Price
from usage.prices.models import ModelPrice
from usage.prices.names import MatchKind
from usage.quantities import QUANTITIES, noun

SHOWN = 100
NOT_IN_FORCE_MAX = 50
SEEN_SINCE = timedelta(days=30)
PLACES_MIN = 2
NANO_PLACES = 9

Seen = Callable[[Environment, datetime, datetime], list[UnpricedUse]]
_seen: list[Seen] = []


def seen_by(find: Seen) -> Seen:
    """Declares who else knows of models in use that have no price: from a time on, until now."""
    _seen.append(find)
    return find


@seen_by
def _recorded(environment: Environment, since: datetime, now: datetime) -> list[UnpricedUse]:
    return recorded_unpriced(environment.pk, since, now)


class PriceFilters(forms.Form):
    q = forms.CharField(
        label="Model or provider",
        required=False,
        max_length=NAME_LENGTH_MAX,
        widget=forms.TextInput(attrs={"type": "search"}),
    )
    page = forms.IntegerField(required=False, min_value=1, max_value=10_000, widget=forms.HiddenInput)


@dataclass(frozen=True, slots=True)
class Row:
    """Rates are in USD per million tokens, all with the same places; empty: as the total that the part is of."""

    price: Price
    rates: list[str]
    own: bool
    url: str

    @property
    def since(self) -> datetime | None:
        return None if self.price.effective_from == UNDATED else self.price.effective_from


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A model in use that has no price. `uses` says by which features and how often.

    `lacking`: of one that is partly priced, the quantities without a rate. `tiers`: those of service without rates.
    """

    model: str
    uses: list[UnpricedUse]
    add_url: str
    lacking: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()

    @property
    def lacks(self) -> str:
        """In words: "web searches, calls served as priority"; "" of one without any price."""
        return ", ".join((*map(noun, self.lacking), *(f"calls served as {tier}" for tier in self.tiers)))

    @property
    def first_at(self) -> datetime:
        return min(use.first_at for use in self.uses)


def rendered(request: HttpRequest, *, may_add: bool) -> HttpResponse:
    """Raises BadRequest for filters of another list, as Django's own lists do."""
    if request.GET.keys() - {*PriceFilters.base_fields, environments.PARAMETER}:
        raise BadRequest("This list has no such filter.")
    environment, now = environments.shown(request), timezone.now()
    tenant_id = None if environment is None else environment.tenant_id
    book = stored_book.load(tenant_id)
    filters = PriceFilters(request.GET)
    wanted = filters.cleaned_data["q"].lower() if filters.is_valid() else ""
    start = ((filters.cleaned_data.get("page") or 1) - 1) * SHOWN
    matches = [match for match in book.in_force(now) if _fits(match.price, wanted)]
    return pages.rendered(
        request,
        "console/prices.html",
        "Prices",
        filters=filters,
        wanted=wanted,
        rows=_rows(matches[start : start + SHOWN]),
        count=len(matches),
        more=_page(wanted, start // SHOWN + 2) if len(matches) > start + SHOWN else None,
        not_in_force=_not_in_force(tenant_id, book, now, wanted) if wanted else [],
        unpriced=[] if environment is None else _unpriced(environment, book, now, wanted),
        add_url=reverse("admin:usage_modelprice_add") if may_add else None,
        reprice_url=_reprice_url(request, environment),
    )


def _reprice_url(request: HttpRequest, environment: Environment | None) -> str | None:
    """The page belongs to an app that this one may not import."""
    if environment is None or not may(request, May.EDIT_PRICES, environment.tenant_id):
        return None
    return reverse("admin:reprice", query={environments.PARAMETER: str(environment)})


def _fits(price: Price, wanted: str) -> bool:
    return any(wanted in name.lower() for name in (price.model, price.provider, *price.aliases))


def _page(wanted: str, number: int) -> str:
    return f"?{urlencode({'q': wanted, 'page': number})}"


def _rows(matches: list[Match]) -> list[Row]:
    rates = [_rates(match.price) for match in matches]
    places = max((_places(rate) for row in rates for rate in row if rate is not None), default=PLACES_MIN)
    return [
        Row(
            price=match.price,
            rates=["" if rate is None else usd(rate, places) for rate in row],
            own=match.kind is MatchKind.OVERRIDE,
            url=reverse("admin:usage_modelprice_change", args=[match.price.price_id]),
        )
        for match, row in zip(matches, rates, strict=True)
    ]


def _rates(price: Price) -> list[int | None]:
    rates = price.rates
    return [rates.input, rates.output, rates.cached_input, rates.cache_write]


def _places(rate: int) -> int:
    return max(PLACES_MIN, len(f"{rate % NANO:09d}".rstrip("0")))


def usd(rate: int, places: int = PLACES_MIN) -> str:
    """A rate with so many places, or as many more as it has."""
    whole, fraction = divmod(rate, NANO)
    return f"{whole:,}.{f'{fraction:0{NANO_PLACES}d}'[: max(places, _places(rate))]}"


def _not_in_force(
    tenant_id: int | None, book: PriceBook, now: datetime, wanted: str
) -> list[tuple[ModelPrice, str]]:
    """Earlier, future and switched-off rows of the shared book and of the tenant."""
    in_force = [match.price.price_id for match in book.in_force(now) if match.price.price_id is not None]
    own = Q(tenant=None) if tenant_id is None else Q(tenant=None) | Q(tenant_id=tenant_id)
    named = Q(model__icontains=wanted) | Q(provider__icontains=wanted)
    found = ModelPrice.objects.filter(own, named).exclude(pk__in=in_force)[:NOT_IN_FORCE_MAX]
    return [(row, reverse("admin:usage_modelprice_change", args=[row.pk])) for row in found]


def unpriced(environment: Environment, now: datetime) -> list[Unpriced]:
    """Models that calls used in the last SEEN_SINCE and that have no price now."""
    return _unpriced(environment, stored_book.of_environment(environment), now, "")


def _unpriced(environment: Environment, book: PriceBook, now: datetime, wanted: str) -> list[Unpriced]:
    """The most used first. Those that have a price of all that they used by now are none of them."""
    uses: dict[str, list[UnpricedUse]] = {}
    for find in _seen:
        for use in find(environment, now - SEEN_SINCE, now):
            if wanted in use.model.lower():
                uses.setdefault(use.model, []).append(use)
    most = sorted(uses.items(), key=lambda each: (-_calls(each[1]), each[0]))
    prices = {model: match.price for model, _ in most if (match := book.find(model, now)) is not None}
    without = without_rate(environment.pk, list(prices), now - SEEN_SINCE) if prices else {}
    found = [
        _found(environment, prices.get(model), model, those, without.get(model, Without()))
        for model, those in most
    ]
    return [each for each in found if each is not None]


def _found(
    environment: Environment, price: Price | None, model: str, uses: list[UnpricedUse], without: Without
) -> Unpriced | None:
    """None: all that it used has a rate by now."""
    if price is None:
        return Unpriced(model, uses, add_url(environment, model=model))
    lacking = tuple(
        name for name in without.quantities if name in QUANTITIES and price.rates.of(name) is None
    )
    tiers = tuple(tier for tier in without.service_tiers if tier not in price.service_tiers)
    named = {"model": price.model, "provider": price.provider, "source": "override"}
    return Unpriced(model, uses, add_url(environment, **named), lacking, tiers) if lacking or tiers else None


def _calls(uses: Iterable[UnpricedUse]) -> int:
    return sum(use.calls for use in uses)


def add_url(environment: Environment, **fields: str) -> str:
    """Of the form that gives the tenant a price of its own from now on, filled in."""
    given = {environments.PARAMETER: str(environment), "tenant": str(environment.tenant_id), **fields}
    return f"{reverse('admin:usage_modelprice_add')}?{urlencode(given)}"
