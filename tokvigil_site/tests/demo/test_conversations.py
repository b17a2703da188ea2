from __future__ import annotations

from collections import Counter

import pytest
from tokvigil import count_tokens

from tokvigil_site.demo.conversations import Conversation, digest, digests, load_conversations

# The kind of rules the demo sets up. What they block is what the set of conversations was written for.
FREE_MODELS = {"gpt-4o-mini"}
FREE_REQUESTS_PER_DAY = 5
FREE_SUMMARIES_PER_DAY = 2
FREE_INPUT_TOKENS_MAX = 8_000
PRO_INPUT_TOKENS_MAX = 20_000
PRO_DENIED_MODELS = {"o3"}


def why_blocked(conversation: Conversation, seen: Counter[object]) -> str | None:
    """A plain reading of those rules, one conversation after the other."""
    free, pro = conversation.plan == "free", conversation.plan == "pro"
    input_tokens = count_tokens(conversation.messages, model=conversation.model, exact=True)
    summary = (conversation.user, conversation.feature)
    if free and conversation.model not in FREE_MODELS:
        return "model not allowed"
    if pro and conversation.model in PRO_DENIED_MODELS:
        return "model denied"
    if (free and input_tokens > FREE_INPUT_TOKENS_MAX) or (pro and input_tokens > PRO_INPUT_TOKENS_MAX):
        return "too large"
    if free and seen[conversation.user] >= FREE_REQUESTS_PER_DAY:
        return "too many requests"
    if free and conversation.feature == "summarize" and seen[summary] >= FREE_SUMMARIES_PER_DAY:
        return "too many summaries"
    seen.update([conversation.user, summary])
    return None


def test_typical_policies_allow_most_and_block_some_for_every_reason() -> None:
    seen: Counter[object] = Counter()
    reasons = Counter(why_blocked(conversation, seen) for conversation in load_conversations())
    assert reasons.pop(None) >= 2 * reasons.total()
    assert set(reasons) == {
        "model not allowed",
        "model denied",
        "too large",
        "too many requests",
        "too many summaries",
    }


def test_the_set_is_wide() -> None:
    conversations = load_conversations()
    assert len(conversations) >= 44
    assert len({conversation.language for conversation in conversations}) >= 14
    assert len({conversation.user for conversation in conversations}) >= 12
    assert {conversation.plan for conversation in conversations} == {"free", "pro", "enterprise"}
    features = {conversation.feature for conversation in conversations}
    assert features == {"chat", "summarize", "translate", "code", "agent"}
    assert len({conversation.model for conversation in conversations}) >= 6


def test_lengths_run_from_a_line_to_a_book() -> None:
    counts = sorted(count_tokens(c.messages, model=c.model, exact=True) for c in load_conversations())
    assert counts[0] < 30
    assert counts[-3] > 25_000


def test_ids_and_messages_are_unique() -> None:
    conversations = load_conversations()
    assert len({conversation.id for conversation in conversations}) == len(conversations)
    assert len({digest(conversation.messages) for conversation in conversations}) == len(conversations)


@pytest.mark.parametrize("conversation", load_conversations(), ids=lambda conversation: conversation.id)
def test_a_conversation_ends_with_the_user_and_its_answer_fits(conversation: Conversation) -> None:
    roles = [message["role"] for message in conversation.messages if message["role"] != "system"]
    assert roles[::2] == ["user"] * len(roles[::2])
    assert roles[1::2] == ["assistant"] * len(roles[1::2])
    assert roles[-1] == "user"
    answer_tokens = count_tokens(conversation.answer, model=conversation.model, exact=True)
    assert 0 < answer_tokens <= (conversation.max_output_tokens or 1_024)


def test_a_digest_depends_on_content_and_order_only() -> None:
    one, two = {"role": "user", "content": "a"}, {"content": "b", "role": "user"}
    assert digest([one]) == digest([{"content": "a", "role": "user"}])
    assert digest([one, two]) != digest([two, one])
    assert digests([one, two]) == [digest([one]), digest([one, two])]
