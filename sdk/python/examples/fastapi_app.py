"""A FastAPI application. The AI calls of a request are for its user; a block becomes a 429 or a 403.

uvicorn fastapi_app:app --port 8010
curl localhost:8010/ask -H "X-User: ana" -H "Content-Type: application/json" -d '{"text": "What is a ledger?"}'

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL and OPENAI_API_KEY, and beside tokvigil
`pip install openai fastapi uvicorn`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel
from tokvigil import AsyncTokVigil
from tokvigil.integrations.asgi import TokVigilMiddleware, header

MODEL = "gpt-4o-mini"


class Question(BaseModel):
    text: str

    @property
    def messages(self) -> list[ChatCompletionMessageParam]:
        return [{"role": "user", "content": self.text}]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, AsyncOpenAI]]:
    async with AsyncTokVigil() as tv, tv.wrap(AsyncOpenAI()) as client:
        yield {"openai": client}


app = FastAPI(lifespan=lifespan)
# With your own authentication: user_id=lambda scope: scope["user"].id. Anyone can send a header.
app.add_middleware(TokVigilMiddleware, user_id=header("X-User"), feature="ask", plan="free")


async def wrapped_client(request: Request) -> AsyncOpenAI:
    client: AsyncOpenAI = request.state.openai
    return client


Client = Annotated[AsyncOpenAI, Depends(wrapped_client)]


@app.post("/ask")
async def ask(question: Question, client: Client) -> dict[str, str | None]:
    answer = await client.chat.completions.create(model=MODEL, messages=question.messages)
    return {"text": answer.choices[0].message.content}


@app.post("/stream")
async def stream(question: Question, client: Client) -> StreamingResponse:
    # Called here and not in `pieces`: once the response has begun, a block can no longer be its answer.
    answer = await client.chat.completions.create(model=MODEL, messages=question.messages, stream=True)

    async def pieces() -> AsyncIterator[str]:
        async with answer:  # a reader who leaves ends it
            async for chunk in answer:
                yield chunk.choices[0].delta.content or ""

    return StreamingResponse(pieces(), media_type="text/plain")
