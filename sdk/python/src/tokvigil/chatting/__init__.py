"""The provider's request that `tv.chat(...)` sends, and what its answer says: no I/O and no clock.

Messages and tools are in OpenAI's form for every provider. Each provider has a `ChatFormat` that translates them,
and an `Answer` that reads what comes back, whole or as a stream. All other options go to the provider as they are.
"""

from tokvigil.chatting.request import ChatRequest

__all__ = ["ChatRequest"]
