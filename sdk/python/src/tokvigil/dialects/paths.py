"""What the path of a request to an AI provider is for. Pure.

A path is read as lenient servers read it: percent-decoded, without empty segments, in any case. Whatever runs
a model is known here by its ending, so that nothing in a base URL can hide it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from tokvigil.dialects.anthropic import MessagesCall
from tokvigil.dialects.gemini import ContentCall, EmbedCall
from tokvigil.dialects.generic import (
    ConverseCall,
    GenericCall,
    InteractionsCall,
    PictureCall,
    PieceCall,
    SoundCall,
)
from tokvigil.dialects.openai import ChatCall, CompletionsCall, EmbeddingsCall
from tokvigil.dialects.openai_responses import CompactCall, ResponsesCall
from tokvigil.dialects.provider_call import ProviderCall

# Of so many paths it is known what they are for: the latest.
USES_KEPT = 200

# Tried in this order.
_FORMATS_BY_ENDING: Mapping[str, type[ProviderCall]] = {
    "/chat/completions": ChatCall,
    "/agents/completions": ChatCall,
    "/completions": CompletionsCall,
    "/responses/compact": CompactCall,
    "/responses": ResponsesCall,
    "/embeddings": EmbeddingsCall,
    "/v1/messages": MessagesCall,
    "/interactions": InteractionsCall,
    "/converse": ConverseCall,
    "/converse-stream": ConverseCall,
}
_FORMATS_BY_VERB: Mapping[str, type[ProviderCall]] = {
    "generatecontent": ContentCall,
    "streamgeneratecontent": ContentCall,
    "embedcontent": EmbedCall,
    "batchembedcontents": EmbedCall,
}
# A run of an assistant, which goes on after its answer unless it is streamed.
_ASSISTANT = re.compile(r"/threads/(?:[^/]+/)?runs(?:/[^/]+/submit_tool_outputs)?$")
# An ARN as model has slashes in it.
_BEDROCK = re.compile(r"/model/(?P<model>.+)/(?:invoke|converse)[a-z-]*$", re.IGNORECASE)
# What else runs a model, whether or not its body names one. Tried in this order, too.
_FORMATS_BY_PATH: Mapping[re.Pattern[str], type[ProviderCall]] = {
    re.compile(r"/images/(?:generations|edits|variations)$"): PictureCall,
    re.compile(r"/audio/(?:speech|transcriptions|translations)$"): SoundCall,
    re.compile(
        r"""/(?: videos(?:/edits|/extensions|/[^/]+/remix)?
               | vector_stores/[^/]+/search
               | cachedcontents | ocr | rerank
               | models/[^/:]+:predict(?:longrunning)?
               | model/[^/]*(?:canvas|embed|image|rerank|stability)[^/]*/invoke
             )$""",
        re.VERBOSE,
    ): PieceCall,
    re.compile(
        r"""/(?: (?:v\d\w*|agents)/sessions(?:/[^/]+/events)?
               | agents/automations(?:/[^/]+/invocations)?
               | v\d\w*/deployments(?:/[^/]+/run)?
               | v\d\w*/triggers(?:/[^/]+/executions)?
               | graders/run
               | conversations/[^/]+(?:/restart)?
               | (?:judges|dataset-records)/[^/]+/live-judging
               | decisions | dreams | v1/complete
             )$""",
        re.VERBOSE,
    ): GenericCall,
    _ASSISTANT: GenericCall,
    _BEDROCK: GenericCall,
}
# Vectors, if the body names a model.
_EMBEDS = re.compile(r"/embed$|embeddings$")
_TAKES_FORMS = re.compile(r"/(?:audio|images|videos)(?:/[^/]+){0,2}$")

# Google names a model and what to do with it in the path; a tuned model of Vertex is an endpoint.
_GOOGLE = re.compile(r"/(?:models|tunedmodels|endpoints)/(?P<model>[^/:]+):(?P<verb>\w+)$", re.IGNORECASE)
# Paths of Bedrock and Vertex that take the format of the model's maker.
_AS_MADE = re.compile(r"/invoke(?:-with-response-stream)?$|:(?:stream)?rawpredict$")
# Anthropic's deployments, of agents, are named by no model.
_AZURE_DEPLOYMENT = re.compile(r"(?<!/v1)/deployments/(?P<model>[^/]+)/", re.IGNORECASE)

_BATCHES = re.compile(
    r"/batches$|/batch/jobs$|/batchpredictionjobs$|:batchgeneratecontent$|:asyncbatchembedcontent$"
    r"|/embed-jobs$|/model-invocation-job$"
)
_EVALS = re.compile(r"/evals/[^/]+/runs$|/evaluation-jobs$")
_TUNING = re.compile(
    r"/fine_tuning/jobs(?:/[^/]+/(?:resume|start))?$|/tuningjobs$|/tunedmodels$"
    r"|/fine-tunes$|/finetuned-models$|/model-customization-jobs$"
)
_FETCHED_LATER = re.compile(r"/async/(?:chat/completions|images/generations|sonar)$|/async-invoke$")
_IN_THE_BACKGROUND = re.compile(r"/(?:responses|interactions|chat/completions)$")
# OpenAI keeps notes on a conversation where Mistral's goes on.
_CONVERSATION = re.compile(r"/conversations/[^/]+$")

# `count-tokens` is the model by whose path Anthropic's own client counts tokens on Vertex.
_FREE = re.compile(
    r"/moderations$|/(?:de)?tokenize(?:-text)?$|/count_tokens$|/input_tokens$|[:/]cancel$|:counttokens$|:computetokens$"
    r"|/models/count-tokens:rawpredict$|:fetchpredictoperation$"
)
_VERSION = re.compile(r".*/(?:v\d\w*|openai)(?=/)")
# Things kept on a server: making one may name a model, and runs none. Realtime sessions run theirs over a
# socket, which is not seen here.
_KEPT = re.compile(
    r"""(?:/projects/[^/]+/locations/[^/]+)?
        /(?: agents | assistants | batches | cachedcontents | containers | evals | files | filesearchstores
           | fine_tuning | organization | realtime | threads | tuningjobs | uploads | vector_stores
         )(?:[/:]|$)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a path is for. `path` is the one by which all this was found; what is sent stays as it is."""

    path: str
    # None: no AI call, whatever the body says.
    format: type[ProviderCall] | None
    # For certain; else it does if its body names one.
    runs_a_model: bool
    takes_forms: bool
    # Of the model's maker, if the body says so.
    takes_the_makers_format: bool
    # Unless it is streamed, its answer comes before it has run.
    runs_an_assistant: bool
    may_run_in_the_background: bool
    # A body with nothing but notes runs none all the same.
    may_take_notes: bool
    # The model that runs, whatever the body says.
    model: str | None
    # Azure's name for the model that runs.
    deployment: str | None
    # What is billed when nobody is there to report it, and what to do instead, if there is anything.
    billed_later: tuple[str, str] | None


@lru_cache(maxsize=USES_KEPT)
def use_of(path: str) -> Use:
    """What is done with a POST to a path, as it stands in the URL."""
    path = posixpath.normpath("/" + unquote(path).lstrip("/"))
    lowered = path.lower()
    known = _format_of(lowered)
    is_none = _FREE.search(lowered) is not None or (known is None and _is_kept(lowered))
    return Use(
        path=path,
        format=None if is_none else known or (PieceCall if _EMBEDS.search(lowered) else GenericCall),
        runs_a_model=known is not None,
        takes_forms=known is None or _TAKES_FORMS.search(lowered) is not None,
        takes_the_makers_format=_AS_MADE.search(lowered) is not None,
        runs_an_assistant=_ASSISTANT.search(lowered) is not None,
        may_run_in_the_background=_IN_THE_BACKGROUND.search(lowered) is not None,
        may_take_notes=_CONVERSATION.search(lowered) is not None,
        model=_named_in(path, _GOOGLE, _BEDROCK),
        deployment=_named_in(path, _AZURE_DEPLOYMENT),
        billed_later=_billed_later(lowered),
    )


def _billed_later(lowered: str) -> tuple[str, str] | None:
    if _BATCHES.search(lowered):
        return "a batch", "send its calls one by one, or "
    if _FETCHED_LATER.search(lowered):
        return "an answer that is fetched later", "ask for it at once, or "
    if _EVALS.search(lowered):
        return "a run of an eval", ""
    if _TUNING.search(lowered):
        return "a tuning job", ""
    return None


def _named_in(path: str, *forms: re.Pattern[str]) -> str | None:
    found = next((found for form in forms if (found := form.search(path))), None)
    return None if found is None else found["model"].strip()


def _format_of(path: str) -> type[ProviderCall] | None:
    for ending, known in _FORMATS_BY_ENDING.items():
        if path.endswith(ending):
            return known
    for pattern, known in _FORMATS_BY_PATH.items():
        if pattern.search(path):
            return known
    google = _GOOGLE.search(path)
    return None if google is None else _FORMATS_BY_VERB.get(google["verb"], GenericCall)


def _is_kept(path: str) -> bool:
    """Only what stands right after the API's version says so: a base URL may have any names in it."""
    version = _VERSION.match(path)
    return version is not None and _KEPT.match(path, version.end()) is not None
