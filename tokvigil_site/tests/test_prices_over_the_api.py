"""`/v1/prices`: the tenant's own, charged in all of its environments; idempotent, guarded, audited."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from audit.models import Entry
from tenants.models import Environment
from tokvigil_site.testing import Answer, Api, at_once
from tokvigil_site.tests.callers import assert_problem
from usage.api import prices as views
from usage.models import ModelPrice

PRICE = {"input_per_million": "2", "output_per_million": "7.50", "reason": "Our contract"}


def put(api: Api, body: Any = PRICE, model: str = "openai/gpt-4o", *, if_match: str = "*") -> Answer:
    return api.request("PUT", f"/v1/prices/{model}", body, **{"if-match": if_match})


def listed(api: Api) -> list[str]:
    return [each["model"] for each in api.get("/v1/prices").json["prices"]]


def entries(environment: Environment) -> list[Entry]:
    found = Entry.objects.filter(tenant_id=environment.tenant_id, action__startswith="price.")
    return list(found.order_by("seq"))


def cost(api: Api) -> Any:
    decision = api.evaluate("anna", model="gpt-4o", input_tokens=1_000_000, max_output_tokens=0)
    return decision["estimated_cost_usd"]


def test_a_price_is_charged_in_all_environments_of_the_tenant(api: Api, environment: Environment) -> None:
    elsewhere = Api(environment.tenant.environments.get(slug="dev"))
    assert cost(elsewhere) is None
    answer = put(api)
    assert (answer.status, answer.json["output_per_million"]) == (200, "7.5")
    for caller in (api, elsewhere):
        assert cost(caller) == "2.00"
    put(api, PRICE | {"input_per_million": "3"})
    assert cost(api) == cost(elsewhere) == "3.00"
    added, changed = entries(environment)
    assert (added.action, added.actor) == ("price.added", f"key:{api.key.key_id}")
    assert changed.data["reason"] == "Our contract"
    assert changed.data["changes"] == {"input_per_million": {"before": "2", "after": "3"}}


def test_sent_again_it_changes_nothing(api: Api, environment: Environment) -> None:
    first = put(api)
    again = put(api, PRICE | {"output_per_million": "7.5", "reason": "Another day"})
    assert again.json == first.json
    assert again.headers["ETag"] == first.headers["ETag"]
    assert len(entries(environment)) == 1


def test_each_start_is_a_row_and_one_can_be_switched_off(api: Api) -> None:
    put(api)
    later = put(api, PRICE | {"effective_from": "2026-01-01T00:00:00Z", "input_per_million": "9"})
    assert later.json["effective_from"] == "2026-01-01T00:00:00Z"
    assert cost(api) == "9.00"
    put(api, PRICE | {"effective_from": "2026-01-01T00:00:00Z", "active": False})
    assert cost(api) == "2.00"
    assert ModelPrice.objects.count() == 2


def test_a_revision_that_has_moved_is_not_overwritten(api: Api) -> None:
    seen = api.get("/v1/prices").headers["ETag"]
    now = put(api, if_match=seen).headers["ETag"]
    assert_problem(put(api, PRICE | {"input_per_million": "3"}, if_match=seen), 412, "PRECONDITION_FAILED")
    assert cost(api) == "2.00"
    assert put(api, PRICE | {"input_per_million": "3"}, if_match=now).status == 200


def test_environments_that_change_prices_at_once_do_not_wait_for_each_other(
    api: Api, environment: Environment
) -> None:
    callers = [api, Api(environment.tenant.environments.get(slug="dev"))]
    work = lambda number: put(callers[number % 2], PRICE | {"input_per_million": str(number)}).status  # noqa: E731
    assert at_once(8, work) == [200] * 8


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input_per_million": None}, "input_per_million"),
        ({"input_per_million": 2}, "input_per_million"),
        ({"input_per_million": "-1"}, "input_per_million"),
        ({"input_per_million": "NaN"}, "input_per_million"),
        ({"input_per_million": "9000000"}, "input_per_million"),
        ({"batch_input_per_million": "1,5"}, "batch_input_per_million"),
        ({"effective_from": "2026-01-01"}, "effective_from"),
        ({"effective_from": "9999-12-31T23:59:59-23:59"}, "effective_from"),
        ({"active": 1}, "active"),
        ({"reason": ""}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"reason": None}, "reason"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_wrong_is_named_and_no_price_is_set(api: Api, fields: dict[str, Any], named: str) -> None:
    assert_problem(put(api, PRICE | fields), 422, "VALIDATION_ERROR", field=named)
    assert listed(api) == []


@pytest.mark.parametrize(
    ("path", "named"), [("%00/m", "provider"), ("p/%00", "model"), ("p/" + "m" * 256, "model")]
)
def test_a_name_that_no_model_can_have_is_refused(api: Api, path: str, named: str) -> None:
    assert_problem(put(api, model=path), 422, "VALIDATION_ERROR", field=named)


def test_models_may_have_any_name(api: Api) -> None:
    assert put(api, model="openai/a%2Fb%3Cscript%3E%F0%9F%99%82").json["model"] == "a/b<script>🙂"
    assert listed(api) == ["a/b<script>🙂"]


def test_another_tenant_and_the_shared_book_are_not_touched(api: Api, other_api: Api) -> None:
    put(api)
    assert listed(other_api) == []
    assert cost(other_api) is None
    assert not ModelPrice.objects.shared().exists()


def test_the_examples_work(api: Api) -> None:
    assert put(api, views.PRICE_REQUEST).json == views.PRICE_ANSWER
    msgspec.convert(views.PRICE_ANSWER, views.OwnPriceAnswer)
