"""What the models "say": scripted answers, filler, and the prompt cache."""

from __future__ import annotations

import random
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from tokvigil.token_encodings import encoding
from tokvigil.tokens import count_tokens, encoding_name

from tokvigil_site.demo.conversations import digest, digests, load_conversations
from tokvigil_site.demo.provider.wire import Answer, ChatCall

# OpenAI's prompt cache: prefixes from 1,024 tokens on, in steps of 128.
CACHED_TOKENS_MIN = 1_024
CACHED_TOKENS_STEP = 128
CACHED_PREFIXES_MAX = 4_096

REASONING_MODEL = re.compile(r"^(o\d|gpt-[5-9])")
REASONING_TOKENS_STEP = 64


class PromptCache:
    """Which message prefixes were seen before: bounded, and shared between threads."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def cached_tokens(self, model: str, messages: Sequence[Mapping[str, Any]]) -> int:
        """Prompt tokens that an earlier request of this model has in common; remembers this request."""
        prefixes = [f"{model}:{prefix}" for prefix in reversed(digests(messages))]
        with self._lock:
            known = next((at for at, prefix in enumerate(prefixes) if prefix in self._seen), None)
            for prefix in prefixes:
                self._seen[prefix] = None
                self._seen.move_to_end(prefix)
            while len(self._seen) > CACHED_PREFIXES_MAX:
                self._seen.popitem(last=False)
        if known is None:
            return 0
        tokens = count_tokens(messages[: len(messages) - known], model=model, exact=True)
        return tokens // CACHED_TOKENS_STEP * CACHED_TOKENS_STEP if tokens >= CACHED_TOKENS_MIN else 0


class Model:
    """All models: scripted answers for known conversations, filler for the rest."""

    def __init__(self) -> None:
        self._scripts = {
            digest(conversation.messages): conversation.answer for conversation in load_conversations()
        }

    def answer(self, call: ChatCall) -> Answer:
        """The same for the same call, so that a run can be repeated."""
        key = digest(call.messages)
        reasoning_tokens = 0
        if REASONING_MODEL.match(call.model):
            wanted = REASONING_TOKENS_STEP * (1 + int(key[:4], 16) % 6)
            reasoning_tokens = min(wanted, call.output_tokens_max)
        text, text_tokens, cut = fit(
            self._scripts.get(key) or filler(key), call.model, call.output_tokens_max - reasoning_tokens
        )
        return Answer(
            text=text,
            finish_reason="length" if cut else "stop",
            output_tokens=text_tokens + reasoning_tokens,
            reasoning_tokens=reasoning_tokens,
        )


def fit(text: str, model: str, tokens_max: int) -> tuple[str, int, bool]:
    """The text cut to at most `tokens_max` tokens, its token count, and whether anything was cut."""
    tokens = count_tokens(text, model=model, exact=True)
    if tokens <= tokens_max:
        return text, tokens, False
    used = encoding(encoding_name(model))
    pieces = used.encode(text, disallowed_special=())[:tokens_max]
    while pieces:
        # A cut may fall inside a character, and the shorter text may be split into more tokens than it had.
        shorter = used.decode(pieces, errors="ignore")
        tokens = count_tokens(shorter, model=model, exact=True)
        if tokens <= tokens_max:
            return shorter, tokens, True
        del pieces[min(len(pieces) - 1, len(pieces) * tokens_max // tokens) :]
    return "", 0, True


FILLER_WORDS = (
    "a short answer needs a clear question and the plan follows from what we know today so start with one "
    "small step then measure it compare the result with the goal and keep only what helps people read"
)
FILLER_SENTENCES_MIN, FILLER_SENTENCES_MAX = 3, 14


def filler(key: str) -> str:
    """Plausible text of varying length for a conversation without a script; the same for the same key."""
    chance = random.Random(key)  # noqa: S311 - reproducible, not secret
    vocabulary = FILLER_WORDS.split()
    sentences = []
    for _ in range(chance.randint(FILLER_SENTENCES_MIN, FILLER_SENTENCES_MAX)):
        words = chance.choices(vocabulary, k=chance.randint(6, 16))
        sentences.append(" ".join(words).capitalize() + ".")
    return " ".join(sentences)
