"""A Django application in one file. The AI calls of a request are those of its user; a block becomes a 429 or a 403.

python django_app.py runserver 8010
curl 127.0.0.1:8010/ask/ -H "X-User: ana" -d text="What is a ledger?"

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL and OPENAI_API_KEY, and `pip install openai django` beside tokvigil.
"""

import sys
from collections.abc import Callable, Iterator

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_POST
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from tokvigil import AIUsageBlockedError, TokVigil

MODEL = "gpt-4o-mini"

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"], MIDDLEWARE=[f"{__name__}.AIUsageMiddleware"], ROOT_URLCONF=__name__
)

# Made once, before a server forks: each process sends what it has used itself.
tv = TokVigil()
client = tv.wrap(OpenAI())


class AIUsageMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # With django.contrib.auth: user_id=str(request.user.pk). Without a user no AI call goes out.
        with tv.context(user_id=request.headers.get("X-User"), feature="ask", plan="free"):
            return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, AIUsageBlockedError):
            return None
        body = {"code": error.reason_code, "detail": error.message}
        return JsonResponse(body, status=error.http_status, headers=error.http_headers)


def messages(request: HttpRequest) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": request.POST["text"]}]


@require_POST
def ask(request: HttpRequest) -> HttpResponse:
    answer = client.chat.completions.create(model=MODEL, messages=messages(request))
    return JsonResponse({"text": answer.choices[0].message.content})


@require_POST
def stream(request: HttpRequest) -> StreamingHttpResponse:
    # Asked for here and not in `pieces`: that runs when the middleware and its context are over.
    answer = client.chat.completions.create(model=MODEL, messages=messages(request), stream=True)

    def pieces() -> Iterator[str]:
        with answer:  # a reader who leaves ends it
            for chunk in answer:
                yield chunk.choices[0].delta.content or ""

    return StreamingHttpResponse(pieces(), content_type="text/plain")


urlpatterns = [path("ask/", ask), path("stream/", stream)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
