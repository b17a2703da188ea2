"""For Starlette, FastAPI and every other ASGI application.

    app.add_middleware(TokVigilMiddleware, user_id=lambda scope: scope["user"].id, feature="chat")

The AI calls of a request are for its user, also those of its streaming response and its background tasks. A block that
no handler caught becomes a 429 or a 403.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from tokvigil.integrations.web import Answer, answer_to, contexts

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(name: str) -> Callable[[Scope], str | None]:
    """A function of the scope that reads this header, for `user_id` and the others.

    Use it for headers that your gateway sets. Anyone can send a header, and be another user by it.
    """
    wanted = name.lower().encode("latin-1")

    def read(scope: Scope) -> str | None:
        return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), None)

    return read


class TokVigilMiddleware:
    """A context around each request and websocket. Each argument is a value, or a function of the ASGI scope.

    The functions are called when the request makes its first AI call, so authentication may run inside this
    middleware or outside of it. A function returns None where there is no user.

    With `turn_blocks_into_answers` an `AIUsageBlockedError` that leaves the application is answered as a problem
    (RFC 9457) with `Retry-After`, unless the response has begun: then it is raised on.
    """

    def __init__(
        self,
        app: App,
        *,
        user_id: Callable[[Scope], Any] | str,
        feature: Callable[[Scope], Any] | str | None = None,
        plan: Callable[[Scope], Any] | str | None = None,
        run_id: Callable[[Scope], Any] | str | None = None,
        metadata: Callable[[Scope], Any] | Mapping[str, Any] | None = None,
        turn_blocks_into_answers: bool = True,
    ) -> None:
        self.app = app
        self._context_of = contexts(
            user_id=user_id, feature=feature, plan=plan, run_id=run_id, metadata=metadata
        )
        self._turn_blocks_into_answers = turn_blocks_into_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        may_answer = scope["type"] == "http" and self._turn_blocks_into_answers

        async def send_and_note(message: Message) -> None:
            nonlocal may_answer
            may_answer = may_answer and message["type"] != "http.response.start"
            await send(message)

        with self._context_of(scope):
            try:
                await self.app(scope, receive, send_and_note)
            except Exception as error:
                answer = answer_to(error) if may_answer else None
                if answer is None:
                    raise
                await _send(answer, send)


async def _send(answer: Answer, send: Send) -> None:
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})
