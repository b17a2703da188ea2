"""What the path of a request to an AI provider is for. Pure.

A path is read as lenient servers read it: percent-decoded, without empty segments, in any case. Whatever runs
a model is known here by its ending, so that nothing in a base URL can hide it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from tokvigil.dialects.anthropic import MessagesCall
from tokvigil.dialects.gemini import ContentCall, EmbedCall
from tokvigil.dialects.generic import ConverseCall, GenericCall, InteractionsCall
from tokvigil.dialects.openai import ChatCall, CompletionsCall, EmbeddingsCall
from tokvigil.dialects.openai_responses import CompactCall, ResponsesCall
from tokvigil.dialects.provider_call import ProviderCall

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
# What else runs a model, whether or not its body names one.
_RUNS = re.compile(
    r"""/(?: audio/(?:speech|transcriptions|translations)
           | images/(?:generations|edits|variations)
           | videos(?:/edits|/extensions|/[^/]+/remix)?
           | threads/(?:[^/]+/)?runs | threads/[^/]+/runs/[^/]+/submit_tool_outputs
           | (?:v\d\w*|agents)/sessions(?:/[^/]+/events)?
           | agents/automations(?:/[^/]+/invocations)?
           | v\d\w*/deployments(?:/[^/]+/run)?
           | v\d\w*/triggers(?:/[^/]+/executions)?
           | vector_stores/[^/]+/search
           | graders/run
           | cachedcontents | decisions | dreams | ocr | rerank | v1/complete
         )$""",
    re.VERBOSE,
)
_TAKES_FORMS = re.compile(r"/(?:audio|images|videos)(?:/[^/]+){0,2}$")

# Google names a model and what to do with it in the path; a tuned model of Vertex is an endpoint.
_GOOGLE = re.compile(r"/(?:models|tunedmodels|endpoints)/(?P<model>[^/:]+):(?P<verb>\w+)$", re.IGNORECASE)
# Paths of Bedrock and Vertex that take the format of the model's maker.
_AS_MADE = re.compile(r"/invoke(?:-with-response-stream)?$|:(?:stream)?rawpredict$")
# An ARN as model has slashes in it.
_BEDROCK = re.compile(r"/model/(?P<model>.+)/(?:invoke|converse)[a-z-]*$", re.IGNORECASE)
# Anthropic's deployments, of agents, are named by no model.
_AZURE_DEPLOYMENT = re.compile(r"(?<!/v1)/deployments/(?P<model>[^/]+)/", re.IGNORECASE)

_BATCHES = re.compile(r"/batches$|/batchpredictionjobs$|:batchgeneratecontent$|:asyncbatchembedcontent$")
_EVALS = re.compile(r"/evals/[^/]+/runs$")
_TUNING = re.compile(r"/fine_tuning/jobs(?:/[^/]+/(?:resume|start))?$|/tuningjobs$|/tunedmodels$")
_IN_THE_BACKGROUND = re.compile(r"/(?:responses|interactions)$")

# `count-tokens` is the model by whose path Anthropic's own client counts tokens on Vertex.
_FREE = re.compile(
    r"/moderations$|/count_tokens$|/input_tokens$|[:/]cancel$|:counttokens$|:computetokens$"
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
    """What is done with a POST to a path. `runs_a_model`: for certain; else it does if its body names one."""

    format: type[ProviderCall]
    runs_a_model: bool
    takes_forms: bool


def normalized(path: str) -> str:
    """The path by which all others here go; what is sent stays as it is."""
    return posixpath.normpath("/" + unquote(path).lstrip("/"))


def use_of(path: str) -> Use | None:
    """What a path is for; None: no AI call, whatever the body says."""
    lowered = path.lower()
    if _FREE.search(lowered):
        return None
    known = _format_of(lowered)
    if known is not None:
        takes_forms = _TAKES_FORMS.search(lowered) is not None
        return Use(format=known, runs_a_model=True, takes_forms=takes_forms)
    return None if _is_kept(lowered) else Use(format=GenericCall, runs_a_model=False, takes_forms=True)


def billed_later(path: str) -> tuple[str, str] | None:
    """What is billed when nobody is there to report it, and what to do instead, if there is anything."""
    lowered = path.lower()
    if _BATCHES.search(lowered):
        return "a batch", "send its calls one by one, or "
    if _EVALS.search(lowered):
        return "a run of an eval", ""
    if _TUNING.search(lowered):
        return "a tuning job", ""
    return None


def takes_the_makers_format(path: str) -> bool:
    return _AS_MADE.search(path.lower()) is not None


def may_run_in_the_background(path: str) -> bool:
    return _IN_THE_BACKGROUND.search(path.lower()) is not None


def model_in(path: str) -> str | None:
    """The model that a path says, whatever the body does."""
    found = _GOOGLE.search(path) or _BEDROCK.search(path)
    return None if found is None else found["model"].strip()


def deployment_in(path: str) -> str | None:
    """Azure's name for the model that runs."""
    found = _AZURE_DEPLOYMENT.search(path)
    return None if found is None else found["model"]


def _format_of(path: str) -> type[ProviderCall] | None:
    for ending, known in _FORMATS_BY_ENDING.items():
        if path.endswith(ending):
            return known
    google = _GOOGLE.search(path)
    if google is not None:
        return _FORMATS_BY_VERB.get(google["verb"], GenericCall)
    return GenericCall if _RUNS.search(path) or _BEDROCK.search(path) else None


def _is_kept(path: str) -> bool:
    """Only what stands right after the API's version says so: a base URL may have any names in it."""
    version = _VERSION.match(path)
    return version is not None and _KEPT.match(path, version.end()) is not None
