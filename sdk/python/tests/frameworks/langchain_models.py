"""Which models of LangChain `wrap` takes, and what they may do afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tokvigil
from langchain_anthropic import ChatAnthropic
from langchain_aws import ChatBedrockConverse
from langchain_core.exceptions import ModelPermissionDeniedError
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import ConfigurableField
from langchain_google_genai import ChatGoogleGenerativeAI, GoogleGenerativeAIEmbeddings
from langchain_groq import ChatGroq
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI
from tokvigil import AIUsageBlockedError, TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TOOL_TRIGGER
from sdk.python.tests.wrapped import Books, Person

MODELS: dict[str, Any] = {
    "openai": lambda url: ChatOpenAI(model="gpt-4o-mini", api_key="k", base_url=url + "/v1"),
    "anthropic": lambda url: ChatAnthropic(model="claude-haiku-4-5", api_key="k", base_url=url),
    "google": lambda url: ChatGoogleGenerativeAI(model="gemini-2.5-flash", api_key="k", base_url=url),
    "groq": lambda url: ChatGroq(model="llama", api_key="k", base_url=url),
    "mistral": lambda url: ChatMistralAI(model="mistral", api_key="k", base_url=url + "/v1"),
}


@pytest.fixture(params=list(MODELS))
def bare(request: pytest.FixtureRequest, wire_provider: WireProvider) -> Any:
    return MODELS[request.param](wire_provider.url)


def test_the_model_that_was_given_stays_as_it_is(tv: TokVigil, bare: Any, books: Books) -> None:
    wrapped = tv.wrap(bare, user_id="user_123")
    assert type(wrapped) is type(bare)
    bare.invoke("hi")
    assert books.asked == []
    wrapped.invoke("hi")
    assert len(books.asked) == 1


@pytest.mark.parametrize(
    "derived",
    [
        lambda model: model.bind(stop=["x"]),
        lambda model: model.model_copy(),
        copy.copy,
        lambda model: model.with_retry(),
        lambda model: model.with_config(tags=["a"]),
        lambda model: model.with_fallbacks([model]),
    ],
)
def test_what_is_made_of_a_wrapped_model_is_guarded_too(
    tv: TokVigil, bare: Any, books: Books, derived: Any
) -> None:
    derived(tv.wrap(bare, user_id="user_123")).invoke("hi")
    assert books.only().status == "succeeded"


def test_tools_and_structured_output_are_guarded_too(tv: TokVigil, bare: Any, books: Books) -> None:
    structured = tv.wrap(bare, user_id="user_123").with_structured_output(Person)
    assert structured.invoke(f"Please {TOOL_TRIGGER}") == Person(name="Ada", age=36, friends=["Ada"])
    assert books.only().status == "succeeded"


def test_a_block_is_an_error_of_langchain_too(
    tv: TokVigil, bare: Any, control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with pytest.raises(AIUsageBlockedError) as raised:
        tv.wrap(bare, user_id="user_123").invoke("hi")
    assert isinstance(raised.value, ModelPermissionDeniedError)
    assert wire_provider.seen == []


def test_a_call_without_a_user_says_what_to_do(tv: TokVigil, bare: Any, wire_provider: WireProvider) -> None:
    with pytest.raises(tokvigil.MissingAttributionError, match="user_id"):
        tv.wrap(bare).invoke("hi")
    assert wire_provider.seen == []


def test_a_model_that_langchain_would_make_anew_without_a_guard_cannot_be_configured(
    tv: TokVigil, bare: Any, books: Books
) -> None:
    wrapped = tv.wrap(bare, user_id="user_123")
    field = ConfigurableField(id="temperature")
    if isinstance(bare, ChatOpenAI):
        configured = wrapped.configurable_fields(temperature=field)
        configured.with_config(configurable={"temperature": 0.5}).invoke("hi")
        assert books.only().status == "succeeded"
    else:
        with pytest.raises(tokvigil.ConfigurationError, match="configurable fields"):
            wrapped.configurable_fields(temperature=field)


def test_embeddings_are_guarded_too(
    tv: TokVigil, wire_provider: WireProvider, books: Books, control_plane: Any, wire: Any
) -> None:
    bare = GoogleGenerativeAIEmbeddings(model="models/e", google_api_key="k", base_url=wire_provider.url)
    wrapped = tv.wrap(bare, user_id="user_123")
    wrapped.embed_query("Ada")
    assert books.only().status == "succeeded"
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with pytest.raises(Exception, match="Daily request limit") as raised:
        wrapped.embed_query("Ada")
    assert AIUsageBlockedError.find(raised.value) is not None


def test_a_model_with_a_client_that_cannot_be_guarded_is_refused(
    tv: TokVigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    model = ChatBedrockConverse(model="anthropic.claude-3", region_name="us-east-1")
    with pytest.raises(tokvigil.ConfigurationError, match=r"botocore.*tv\.guard"):
        tv.wrap(model)


def test_a_model_without_a_client_is_refused(tv: TokVigil) -> None:
    with pytest.raises(tokvigil.ConfigurationError, match="holds no client"):
        tv.wrap(FakeListChatModel(responses=["hi"]))
