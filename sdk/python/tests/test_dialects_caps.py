"""The decision's cap goes out under the right name and is never exceeded by what is sent, whatever the format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokvigil.dialects import CapCannotBeObeyedError, Outgoing, ProviderCall, read_call
from tokvigil.dialects.openai import CAP_NAMES

OPENAI = "api.openai.com"
ANTHROPIC = "api.anthropic.com"
GOOGLE = "generativelanguage.googleapis.com"
BEDROCK = "bedrock-runtime.eu-west-1.amazonaws.com"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "How long is the Danube?"}]
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIA/x"}


def call(path: str, host: str = OPENAI, headers: dict[str, str] | None = None, **fields: Any) -> ProviderCall:
    found = read_call("POST", path, host, headers or {}, json.dumps(fields).encode())
    assert found is not None
    return found


def chat(model: str, host: str = OPENAI, path: str = CHAT, **fields: Any) -> ProviderCall:
    return call(path, host, model=model, messages=MESSAGES, **fields)


def sent(a_call: ProviderCall, cap: int | None, without: set[str] | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(a_call.outgoing(cap, without or set()).body)
    return fields


def names_of_cap(fields: dict[str, Any]) -> list[str]:
    return [name for name in CAP_NAMES if name in fields]


def azure(version: str, model: str = "team-chat") -> ProviderCall:
    query = f"?api-version={version}" if version else ""
    return chat(model, "acme.openai.azure.com", f"/openai/deployments/{model}/chat/completions{query}")


class TestName:
    @pytest.mark.parametrize(
        "model",
        [
            "gpt-4o",
            "gpt-3.5-turbo",
            "o3",
            "gpt-5-mini",
            "ft:gpt-5-mini:acme::x",
            "ft:o4-mini-2025-04-16:acme::x",
            "mine",
        ],
    )
    def test_openai_takes_the_newer_name_for_every_model(self, model: str) -> None:
        assert names_of_cap(sent(chat(model), 20)) == ["max_completion_tokens"]

    @pytest.mark.parametrize("version", ["2024-10-21", "2025-01-01-preview", "preview", "v1", ""])
    @pytest.mark.parametrize("deployment", ["team-chat", "gpt-4o"])
    def test_azure_takes_it_whatever_a_deployment_is_called(self, version: str, deployment: str) -> None:
        assert names_of_cap(sent(azure(version, deployment), 20)) == ["max_completion_tokens"]

    @pytest.mark.parametrize("version", ["2023-05-15", "2024-02-01", "2024-08-01-preview"])
    def test_old_versions_of_azure_know_the_older_name_alone(self, version: str) -> None:
        assert names_of_cap(sent(azure(version), 20)) == ["max_tokens"]

    @pytest.mark.parametrize(
        "host", ["api.mistral.ai", "api.groq.com", "openrouter.ai", "localhost:8000", "api.x.ai"]
    )
    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("gpt-4o", "max_tokens"),
            ("llama-3.3-70b", "max_tokens"),
            ("gpt-oss-120b", "max_tokens"),
            ("marco-o1", "max_tokens"),
            ("o3", "max_completion_tokens"),
            ("gpt-5", "max_completion_tokens"),
            ("gpt-10-nano", "max_completion_tokens"),
            ("openai/gpt-5.2", "max_completion_tokens"),
            ("openai.gpt-5", "max_completion_tokens"),
            ("ft:o4-mini:acme::x", "max_completion_tokens"),
            ("OpenAI/O3-mini", "max_completion_tokens"),
        ],
    )
    def test_elsewhere_the_models_name_decides(self, host: str, model: str, name: str) -> None:
        assert names_of_cap(sent(chat(model, host), 20)) == [name]

    @pytest.mark.parametrize("name", CAP_NAMES)
    def test_the_callers_own_name_stays(self, name: str) -> None:
        outgoing = chat("gpt-5", **{name: 50}).outgoing(20)
        assert json.loads(outgoing.body)[name] == 20
        assert outgoing.added == ()


class TestTakingBack:
    def test_added_parameters_are_named(self) -> None:
        assert chat("gpt-4o").outgoing(20).added == ("max_completion_tokens",)
        assert chat("gpt-4o", stream=True).outgoing(20).added == ("max_completion_tokens", "stream_options")
        assert chat("gpt-4o", stream=True, max_tokens=9).outgoing(20).added == ("stream_options",)
        assert chat("gpt-4o", stream=True, stream_options={"x": 1}).outgoing(None).added == (
            "stream_options",
        )
        assert chat("gpt-4o", max_completion_tokens=None).outgoing(20).added == ("max_completion_tokens",)
        contents = call("/v1beta/models/gemini-2.5-flash:generateContent", GOOGLE, contents=[])
        assert contents.outgoing(20).added == ("maxOutputTokens",)

    def test_where_nothing_was_added_nothing_is_named(self) -> None:
        for asked in (chat("gpt-4o"), chat("gpt-4o", max_tokens=10), chat("gpt-4o", max_tokens=100)):
            assert asked.outgoing(None).added == ()
        assert chat("gpt-4o", max_tokens=100).outgoing(20).added == ()

    @pytest.mark.parametrize(
        ("without", "names"),
        [
            ({"max_completion_tokens"}, ["max_tokens"]),
            ({"max_tokens"}, ["max_completion_tokens"]),
            ({"max_tokens", "max_completion_tokens"}, []),
        ],
    )
    @pytest.mark.parametrize("model", ["gpt-4o", "llama-3.3-70b"])
    @pytest.mark.parametrize("host", [OPENAI, "localhost"])
    def test_a_refused_name_gives_way_to_the_other(
        self, host: str, model: str, without: set[str], names: list[str]
    ) -> None:
        asked = chat(model, host)
        assert names_of_cap(sent(asked, 20, without)) == names
        assert asked.outgoing(20, without).added == tuple(names)

    def test_without_all_that_was_added_the_original_goes_out_byte_for_byte(self) -> None:
        body = b'{ "model": "gpt-4o",\n "messages": [], "stream": true }'
        found = read_call("POST", CHAT, OPENAI, {}, body)
        assert found is not None
        assert found.outgoing(20, {"stream_options", *CAP_NAMES}) == Outgoing(body, ())

    def test_the_callers_own_parameters_are_not_taken_back(self) -> None:
        assert sent(chat("gpt-4o", max_tokens=50), 20, set(CAP_NAMES))["max_tokens"] == 20

    def test_a_prompt_does_not_get_into_a_log(self) -> None:
        assert "Danube" not in repr(chat("gpt-4o").outgoing(20))


class TestSeveralAnswers:
    @pytest.mark.parametrize(("n", "cap", "share"), [(4, 100, 25), (4, 7, 1), (3, 100, 33), (1, 5, 5)])
    def test_they_share_the_cap(self, n: int, cap: int, share: int) -> None:
        assert sent(chat("gpt-4o", n=n), cap)["max_completion_tokens"] == share
        completions = call("/v1/completions", model="m", prompt="x", best_of=n)
        assert sent(completions, cap)["max_tokens"] == share
        config = {"generationConfig": {"candidateCount": n}}
        contents = call("/v1beta/models/gemini-2.5-flash:generateContent", GOOGLE, contents=[], **config)
        assert sent(contents, cap)["generationConfig"]["maxOutputTokens"] == share

    def test_several_prompts_are_answered_each(self) -> None:
        completions = call("/v1/completions", model="m", prompt=["x", "y"], n=2)
        assert sent(completions, 100)["max_tokens"] == 25

    def test_fewer_tokens_than_answers_cannot_be_obeyed(self) -> None:
        with pytest.raises(CapCannotBeObeyedError) as caught:
            chat("gpt-4o", n=4).outgoing(3)
        assert (caught.value.cap, caught.value.needed) == (3, 4)
        with pytest.raises(CapCannotBeObeyedError):
            chat("gpt-4o").outgoing(0)


class TestUnreadableCaps:
    @pytest.mark.parametrize(
        "own", [{"max_tokens": -1}, {"max_tokens": "5000"}, {"max_tokens": 10, "max_completion_tokens": -1}]
    )
    def test_a_cap_that_may_mean_anything_gives_way(self, own: dict[str, Any]) -> None:
        asked = chat("gpt-4o", **own)
        assert asked.max_output_tokens is None
        assert sent(asked, 20) == sent(asked, 20) | dict.fromkeys(own, 20)

    def test_under_two_names_the_higher_may_be_the_one_that_counts(self) -> None:
        both = chat("gpt-4o", max_tokens=10, max_completion_tokens=500)
        assert both.max_output_tokens == 500
        assert sent(both, 20) == sent(both, 20) | dict.fromkeys(CAP_NAMES, 20)


class TestResponses:
    def test_openai_takes_none_below_16(self) -> None:
        assert sent(call("/v1/responses", model="gpt-5", input="x"), 16)["max_output_tokens"] == 16
        with pytest.raises(CapCannotBeObeyedError) as caught:
            call("/v1/responses", model="gpt-5", input="x").outgoing(15)
        assert (caught.value.cap, caught.value.needed) == (15, 16)

    def test_an_own_cap_that_low_is_the_callers_business(self) -> None:
        assert (
            sent(call("/v1/responses", model="gpt-5", input="x", max_output_tokens=5), 15)[
                "max_output_tokens"
            ]
            == 5
        )

    def test_reasoning_stands_under_the_cap(self) -> None:
        reasoning = {"effort": "high"}
        asked = call("/v1/responses", model="gpt-5", input="x", reasoning=reasoning, max_output_tokens=9_000)
        assert sent(asked, 100) == sent(asked, 100) | {"max_output_tokens": 100, "reasoning": reasoning}

    def test_compacting_has_no_cap(self) -> None:
        assert call("/v1/responses/compact", model="gpt-5", input="x").outgoing(3).added == ()


def claude(
    path: str = "/v1/messages", host: str = ANTHROPIC, headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    return call(path, host, headers, **{"model": "claude-sonnet-4-5", "messages": MESSAGES} | fields)


def thinking(budget: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget}


class TestThinking:
    """Of Anthropic: its budget is a part of the cap."""

    @pytest.mark.parametrize(
        ("own", "budget", "cap", "expected_budget"),
        [
            (16_000, 10_000, 12_000, 10_000),
            (16_000, 10_000, 10_001, 10_000),
            (16_000, 10_000, 10_000, 6_250),
            (16_000, 10_000, 4_000, 2_500),
            (16_000, 10_000, 1_500, 1_024),
            (16_000, 10_000, 1_025, 1_024),
            (2_000, 1_999, 1_999, 1_998),
            (500, 50, 51, 50),
        ],
    )
    def test_the_budget_is_lowered_in_proportion(
        self, own: int, budget: int, cap: int, expected_budget: int
    ) -> None:
        fields = sent(claude(max_tokens=own, thinking=thinking(budget)), cap)
        assert fields["max_tokens"] == cap
        assert fields["thinking"] == thinking(expected_budget)
        assert expected_budget < cap

    @pytest.mark.parametrize("cap", [1_024, 500, 1])
    def test_a_cap_below_the_lowest_budget_cannot_be_obeyed(self, cap: int) -> None:
        with pytest.raises(CapCannotBeObeyedError) as caught:
            claude(max_tokens=16_000, thinking=thinking(10_000)).outgoing(cap)
        assert (caught.value.cap, caught.value.needed) == (cap, 1_025)

    @pytest.mark.parametrize(
        "kind", [{"type": "disabled"}, {"type": "adaptive"}, {"type": "disabled", "budget_tokens": 9_000}]
    )
    def test_thinking_without_a_budget_needs_nothing(self, kind: dict[str, Any]) -> None:
        assert sent(claude(max_tokens=16_000, thinking=kind), 10) == sent(
            claude(max_tokens=16_000, thinking=kind), 10
        ) | {"max_tokens": 10, "thinking": kind}

    def test_interleaved_thinking_may_have_more_than_the_cap_which_holds_all_the_same(self) -> None:
        assert sent(claude(max_tokens=1_000, thinking=thinking(9_000)), 200)["max_tokens"] == 200

    def test_of_gemini_the_cap_bounds_thoughts_whatever_their_budget(self) -> None:
        config = {"thinkingConfig": {"thinkingBudget": 8_000}}
        contents = call(
            "/v1beta/models/gemini-2.5-pro:generateContent", GOOGLE, contents=[], generationConfig=config
        )
        assert sent(contents, 50)["generationConfig"] == {**config, "maxOutputTokens": 50}


class TestOtherFormats:
    @pytest.mark.parametrize("path", ["/v1/chat", "/v2/chat"])
    def test_cohere(self, path: str) -> None:
        asked = call(
            path, "api.cohere.com", model="command-a", messages=MESSAGES, thinking={"token_budget": 900}
        )
        assert (asked.provider, asked.max_output_tokens) == ("cohere", None)
        assert sent(asked, 50)["max_tokens"] == 50
        assert sent(call(path, "api.cohere.com", model="command-a", max_tokens=30), 50)["max_tokens"] == 30

    def test_a_chat_of_anybody_else_is_left_as_it_is(self) -> None:
        assert (
            call("/api/chat", "localhost:11434", model="llama3", messages=MESSAGES).outgoing(50).added == ()
        )

    def test_mistral(self) -> None:
        assert names_of_cap(sent(chat("mistral-large", "api.mistral.ai"), 50)) == ["max_tokens"]
        fill = call(
            "/v1/fim/completions", "api.mistral.ai", model="codestral", prompt="def f(", suffix="return"
        )
        assert sent(fill, 50)["max_tokens"] == 50

    def test_bedrocks_converse(self) -> None:
        asked = call(
            "/model/eu.amazon.nova-pro-v1%3A0/converse",
            BEDROCK,
            messages=MESSAGES,
            inferenceConfig={"topP": 1},
        )
        assert (asked.provider, asked.model) == ("aws", "eu.amazon.nova-pro-v1:0")
        assert sent(asked, 50)["inferenceConfig"] == {"topP": 1, "maxTokens": 50}
        assert (
            call(
                "/model/m/converse-stream", BEDROCK, messages=[], inferenceConfig={"maxTokens": 70}
            ).max_output_tokens
            == 70
        )

    def test_bedrocks_converse_does_not_go_below_a_thinking_budget(self) -> None:
        more = {"additionalModelRequestFields": {"thinking": thinking(4_000)}}
        asked = call("/model/m/converse", BEDROCK, messages=MESSAGES, **more)
        assert sent(asked, 4_001)["inferenceConfig"] == {"maxTokens": 4_001}
        with pytest.raises(CapCannotBeObeyedError) as caught:
            asked.outgoing(4_000)
        assert caught.value.needed == 4_001

    def test_googles_interactions(self) -> None:
        asked = call("/v1beta/interactions", GOOGLE, model="gemini-3-pro", input="hi")
        assert sent(asked, 50)["generation_config"] == {"max_output_tokens": 50}
        camel = call(
            "/v1beta/interactions", GOOGLE, model="gemini-3-pro", generationConfig={"maxOutputTokens": 90}
        )
        assert sent(camel, 50)["generationConfig"] == {"maxOutputTokens": 50}
        assert (
            call("/v1beta/interactions", GOOGLE, agent="deep-research", input="hi").outgoing(50).added == ()
        )

    @pytest.mark.parametrize(
        "path", ["/v1/embeddings", "/v1/images/generations", "/v1/audio/speech", "/v1/rerank"]
    )
    def test_what_has_no_cap_is_sent_as_it_is(self, path: str) -> None:
        asked = call(path, model="m", input="one two")
        assert asked.outgoing(1) == asked.outgoing(None)


class TestClaudeElsewhere:
    VERTEX = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4-5@20250929:"
    ON_BEDROCK = "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/"

    @pytest.mark.parametrize(("verb", "streams"), [("rawPredict", False), ("streamRawPredict", True)])
    def test_on_vertex(self, verb: str, streams: bool) -> None:
        body: Any = {"anthropic_version": "vertex-2023-10-16", "messages": MESSAGES, "max_tokens": 500}
        asked = call(self.VERTEX + verb, "l-aiplatform.googleapis.com", **body)
        assert (asked.provider, asked.model) == ("google", "claude-sonnet-4-5@20250929")
        assert (asked.max_output_tokens, asked.streams) == (500, streams)
        assert sent(asked, 70)["max_tokens"] == 70
        assert asked.count_input() == claude(max_tokens=1).count_input()
        assert asked.refusal("No.", "blocked")["type"] == "error"

    @pytest.mark.parametrize(("verb", "streams"), [("invoke", False), ("invoke-with-response-stream", True)])
    def test_on_bedrock(self, verb: str, streams: bool) -> None:
        body: Any = {"anthropic_version": "bedrock-2023-05-31", "messages": MESSAGES, "max_tokens": 500}
        asked = call(self.ON_BEDROCK + verb, BEDROCK, **body)
        assert (asked.provider, asked.model) == ("aws", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0")
        assert (asked.max_output_tokens, asked.streams) == (500, streams)
        assert sent(asked, 70)["max_tokens"] == 70
        assert asked.count_input() == claude(max_tokens=1).count_input()

    def test_models_of_others_there_are_not_read_as_claude(self) -> None:
        asked = call("/model/meta.llama3-70b/invoke", BEDROCK, prompt="one two", max_gen_len=500)
        assert (asked.max_output_tokens, asked.outgoing(70).added) == (None, ())
        assert asked.count_input() == 2


class TestSignedBodies:
    """What AWS signed arrives as it is, or does not go out."""

    def signed(self, **fields: Any) -> ProviderCall:
        body: Any = {"anthropic_version": "bedrock-2023-05-31", "messages": MESSAGES} | fields
        return call("/model/anthropic.claude-haiku-4-5/invoke", BEDROCK, SIGNED, **body)

    @pytest.mark.parametrize("cap", [None, 500, 600])
    def test_below_the_cap_it_goes_out(self, cap: int | None) -> None:
        asked = self.signed(max_tokens=500)
        assert asked.outgoing(cap) == asked.outgoing(None)

    def test_above_the_cap_it_cannot_be_obeyed(self) -> None:
        with pytest.raises(CapCannotBeObeyedError) as caught:
            self.signed(max_tokens=500).outgoing(499)
        assert (caught.value.cap, caught.value.needed) == (499, 500)

    def test_without_a_cap_of_its_own_neither(self) -> None:
        for asked in (self.signed(), call("/model/m/converse", BEDROCK, SIGNED, messages=MESSAGES)):
            with pytest.raises(
                CapCannotBeObeyedError, match="name an output cap before it is signed"
            ) as caught:
                asked.outgoing(499)
            assert caught.value.needed is None
            assert asked.outgoing(None).added == ()

    def test_what_has_no_cap_goes_out(self) -> None:
        asked = call("/model/amazon.titan-embed-text-v2/invoke", BEDROCK, SIGNED, inputText="one two")
        assert asked.outgoing(1) == asked.outgoing(None)
