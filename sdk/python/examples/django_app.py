"""A Django application in one file. The AI calls of a request are for its user; a block becomes a 429 or a 403.

python django_app.py runserver 8010
curl 127.0.0.1:8010/ask/ -H "X-User: ana" -d text="What is a ledger?"

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL and OPENAI_API_KEY, and `pip install openai django` beside tokvigil.
"""

import sys
from collections.abc import Iterator

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_POST
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from tokvigil import TokVigil

MODEL = "gpt-4o-mini"


def user_of(request: HttpRequest) -> str | None:
    """With django.contrib.auth, leave `user_id` out: it is the user who is signed in. Anyone can send a header."""
    return request.headers.get("X-User")


settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["tokvigil.integrations.django.TokVigilMiddleware"],
    ROOT_URLCONF=__name__,
    TOKVIGIL={"user_id": user_of, "feature": "ask", "plan": "free"},
)

# Made once, before a server forks: each process sends what it has used itself.
client = TokVigil().wrap(OpenAI())


def messages(request: HttpRequest) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": request.POST["text"]}]


@require_POST
def ask(request: HttpRequest) -> HttpResponse:
    answer = client.chat.completions.create(model=MODEL, messages=messages(request))
    return JsonResponse({"text": answer.choices[0].message.content})


@require_POST
def stream(request: HttpRequest) -> StreamingHttpResponse:
    # Called here and not in `pieces`: once the response has begun, a block can no longer be its answer.
    answer = client.chat.completions.create(model=MODEL, messages=messages(request), stream=True)

    def pieces() -> Iterator[str]:
        with answer:  # a reader who leaves ends it
            for chunk in answer:
                yield chunk.choices[0].delta.content or ""

    return StreamingHttpResponse(pieces(), content_type="text/plain")


urlpatterns = [path("ask/", ask), path("stream/", stream)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
