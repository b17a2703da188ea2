"""The provider's request that `tv.chat(...)` sends, and what its answer says. Pure: no I/O and no clock.

Messages and tools are written as OpenAI takes them, whoever the provider is. Each provider has a `ChatFormat`
that translates them; everything else goes to the provider as the caller wrote it.
"""

from tokvigil.chatting.answer import finish_reason, is_answer, model_name, read_text, text_delta
from tokvigil.chatting.request import ChatRequest, choose_provider

__all__ = [
    "ChatRequest",
    "choose_provider",
    "finish_reason",
    "is_answer",
    "model_name",
    "read_text",
    "text_delta",
]
