"""Which provider stands behind an address, by the names that TokVigil's price book knows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

HOSTS_KEPT = 200
# A host that ends in one of these. Aggregators are not among them: the price book has no prices of theirs.
PROVIDERS_BY_DOMAIN: Mapping[str, str] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "api.anthropic.com": "anthropic",
    "googleapis.com": "google",
    "amazonaws.com": "aws",
    "api.mistral.ai": "mistral",
    "codestral.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "x-ai",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.groq.com": "groq",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "api.fireworks.ai": "fireworks",
    "api.cerebras.ai": "cerebras",
    "api.perplexity.ai": "perplexity",
    "api.moonshot.ai": "moonshotai",
    "api.moonshot.cn": "moonshotai",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "api.z.ai": "zai",
    "api.voyageai.com": "voyageai",
}


@lru_cache(maxsize=HOSTS_KEPT)
def provider_of(host: str) -> str | None:
    """The provider behind a host, with or without its port; None for a host nobody knows."""
    name = host.lower().partition(":")[0].rstrip(".")
    labels = name.split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((PROVIDERS_BY_DOMAIN[domain] for domain in domains if domain in PROVIDERS_BY_DOMAIN), None)
