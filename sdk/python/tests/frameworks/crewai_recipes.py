"""crewai, which pins versions that the others do not take."""

from __future__ import annotations

from typing import Any

import pytest
import tokvigil
from tokvigil import TokVigil

from sdk.python.tests.frameworks.checks import *  # noqa: F403
from sdk.python.tests.frameworks.checks import Style

MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada"}]


def crew(agent: Any) -> Any:
    from crewai import Crew, Task

    return Crew(
        agents=[agent], tasks=[Task(description="Say hello", expected_output="a greeting", agent=agent)]
    )


STYLES = [
    Style("crewai", "crewai", "call", lambda made: made.llm.call(MESSAGES)),
    Style("crewai", "crewai", "acall", lambda made: made.llm.acall(MESSAGES)),
    Style("crewai", "crewai", "crew", lambda made: crew(made.agent).kickoff(), asks=3),
    Style("crewai", "crewai", "async crew", lambda made: crew(made.agent).akickoff(), asks=3),
    Style("crewai", "crewai", "copied crew", lambda made: crew(made.agent).copy().kickoff(), asks=3),
]


def test_a_model_that_will_make_its_clients_later_is_refused(tv: TokVigil) -> None:
    from crewai import LLM

    without_key = LLM(model="gpt-4o-mini")
    half_made = LLM(model="gpt-4o-mini", api_key="key")
    half_made._async_client = None
    for model in (without_key, half_made):
        with pytest.raises(tokvigil.ConfigurationError, match="lacks its API key"):
            tv.wrap(model)
