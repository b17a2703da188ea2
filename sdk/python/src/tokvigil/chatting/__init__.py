"""The provider's request that `tv.chat(...)` sends, and what its answer says. Pure: no I/O and no clock.

Messages and tools are written as OpenAI takes them, whoever the provider is. Each provider has a `ChatFormat`
that translates them and reads the answer; everything else goes to the provider as the caller wrote it.
"""

from tokvigil.chatting.request import ChatRequest

__all__ = ["ChatRequest"]
