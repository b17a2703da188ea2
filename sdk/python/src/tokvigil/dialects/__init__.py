"""The wire formats of AI providers: what a request asks for, what its answer used. Pure, no I/O and no clock.

`recognising` finds the format of a request, by what `paths` knows of its path. Each format is a `ProviderCall`
(what is asked) and a `Tally` (what was answered); an `AnswerReader` passes the answer through to the caller while
the tally reads it.
"""

from tokvigil.dialects.answers import AnswerReader
from tokvigil.dialects.provider_call import CapCannotBeObeyedError, Outgoing, ProviderCall
from tokvigil.dialects.recognising import may_be_call, read_call, unread_call

__all__ = [
    "AnswerReader",
    "CapCannotBeObeyedError",
    "Outgoing",
    "ProviderCall",
    "may_be_call",
    "read_call",
    "unread_call",
]
