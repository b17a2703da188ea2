"""A local server that speaks the wire formats of OpenAI, Azure, Anthropic and Gemini, for the providers' own SDKs."""

from .server import WireProvider

__all__ = ["WireProvider"]
