"""A local AI provider that speaks OpenAI's wire format: no account and no network needed.

It counts prompt tokens really, answers the demo conversations with their scripted text and everything else
with filler, and reports usage as OpenAI does: cached prompt tokens on a repeated long prefix, reasoning
tokens on models that reason. Models named in server.FAILING_MODELS fail, always in the same way.
"""
