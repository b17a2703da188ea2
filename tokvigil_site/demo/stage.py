"""What the demo plays in: an environment of its own for each run, so that each run gives the same result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from audit.log import acting_as
from policies.changing import publishing
from policies.end_users import set_end_user
from policies.files import policy_file
from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS
from tokvigil_site import first_steps

ACTOR = "cli:demo"
POLICIES = Path(__file__).with_name("policies.yaml")
TRACE_POLICIES = Path(__file__).with_name("trace_policies.yaml")
RUN = "run-"
# Users whose plan TokVigil knows; for the others the application says it with each call.
KNOWN_PLANS = {"ana": "free", "greta": "pro", "kavya": "enterprise"}
BLOCKED_USER = "mallory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    environment: Environment
    api_key: str


def set_up() -> Stage:
    with acting_as(ACTOR):
        environment = _new_environment()
        _publish(environment, POLICIES)
        for user, plan in KNOWN_PLANS.items():
            set_end_user(environment, user, plan_name=plan, blocked=False, actor=ACTOR)
        set_end_user(environment, BLOCKED_USER, plan_name="free", blocked=True, actor=ACTOR)
        _, text = ApiKey.issue(environment, "demo", PRESETS["server"])
    return Stage(environment=environment, api_key=text)


def set_up_for_visitor(stage: Stage) -> Stage:
    """With the same rules and nothing used, for calls that are made by hand: the run has used up the budget of its
    own."""
    with acting_as(ACTOR):
        environment = beside(stage, "yours")
        _publish(environment, POLICIES)
        _, text = ApiKey.issue(environment, "demo", PRESETS["server"])
    return Stage(environment=environment, api_key=text)


def set_up_for_trace(stage: Stage) -> Environment:
    """Beside the run's own environment, whose budget the trace would use up."""
    with acting_as(ACTOR):
        environment = beside(stage, "trace")
        _publish(environment, TRACE_POLICIES)
    return environment


def beside(stage: Stage, what: str) -> Environment:
    """Another environment of the run, named after it."""
    run = stage.environment
    return Environment.objects.create(tenant=run.tenant, slug=f"{run.slug}-{what}")


def _new_environment() -> Environment:
    tenant = first_steps.demo_environment().tenant
    taken = tenant.environments.filter(slug__regex=rf"^{RUN}\d+$").values_list("slug", flat=True)
    number = 1 + max((int(slug.removeprefix(RUN)) for slug in taken), default=0)
    return Environment.objects.create(tenant=tenant, slug=f"{RUN}{number}")


def _publish(environment: Environment, file: Path) -> None:
    publishing.publish(environment, policy_file.parse(file.read_text()), actor=ACTOR)
