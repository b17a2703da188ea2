"""A Celery application. A task's AI calls are for the user who asked; a blocked task is tried again in time.

celery --app celery_app worker
python celery_app.py ana "What is a ledger?"

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL, OPENAI_API_KEY, CELERY_BROKER_URL and CELERY_RESULT_BACKEND (an address
of Redis or Valkey will do for both), and `pip install openai "celery[redis]"` beside tokvigil.
"""

import sys
from typing import Any

from celery import Celery
from openai import OpenAI
from tokvigil import TokVigil, context
from tokvigil.integrations.celery import connect, retry_blocks

ANSWER_S_MAX = 60

app = Celery("celery_app")
connect()

# Made once, before the worker forks its children: each process sends what it has used itself.
client = TokVigil().wrap(OpenAI())


@app.task(bind=True, max_retries=3)
@retry_blocks(wait_s_max=600)
def answer(task: Any, question: str) -> str | None:
    reply = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": question}]
    )
    return reply.choices[0].message.content


def main(user: str, question: str) -> None:
    with context(user_id=user, feature="ask", plan="free"):
        sent = app.send_task("celery_app.answer", [question])
    print(sent.get(timeout=ANSWER_S_MAX))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python celery_app.py USER QUESTION")
    main(*sys.argv[1:])
