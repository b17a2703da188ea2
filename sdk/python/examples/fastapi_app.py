"""A FastAPI application. The AI calls of a request are those of its user; a block becomes a 429 or a 403.

uvicorn fastapi_app:app --port 8010
curl localhost:8010/ask -H "X-User: ana" -H "Content-Type: application/json" -d '{"text": "What is a ledger?"}'

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL and OPENAI_API_KEY, and beside tokvigil
`pip install openai fastapi uvicorn`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel
from tokvigil import AIUsageBlockedError, AsyncTokVigil

MODEL = "gpt-4o-mini"


class Question(BaseModel):
    text: str

    @property
    def messages(self) -> list[ChatCompletionMessageParam]:
        return [{"role": "user", "content": self.text}]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with AsyncTokVigil() as tv, tv.wrap(AsyncOpenAI()) as client:
        yield {"tv": tv, "openai": client}


app = FastAPI(lifespan=lifespan)


async def openai_of_user(request: Request, x_user: Annotated[str, Header()]) -> AsyncIterator[AsyncOpenAI]:
    """The client, while a context says whose its calls are. Put your own authentication in place of the header.

    Keep it `async`: a plain function would run in a thread of its own, and the context would stay there.
    """
    with request.state.tv.context(user_id=x_user, feature="ask", plan="free"):
        yield request.state.openai


Client = Annotated[AsyncOpenAI, Depends(openai_of_user)]


@app.post("/ask")
async def ask(question: Question, client: Client) -> dict[str, str | None]:
    answer = await client.chat.completions.create(model=MODEL, messages=question.messages)
    return {"text": answer.choices[0].message.content}


@app.post("/stream")
async def stream(question: Question, client: Client) -> StreamingResponse:
    # Asked for here and not in `pieces`: a block must be known before the response begins.
    answer = await client.chat.completions.create(model=MODEL, messages=question.messages, stream=True)

    async def pieces() -> AsyncIterator[str]:
        async with answer:  # a reader who leaves ends it
            async for chunk in answer:
                yield chunk.choices[0].delta.content or ""

    return StreamingResponse(pieces(), media_type="text/plain")


@app.exception_handler(AIUsageBlockedError)
async def blocked(_: Request, error: AIUsageBlockedError) -> JSONResponse:
    body = {"code": error.reason_code, "detail": error.message}
    return JSONResponse(body, error.http_status, error.http_headers)
