"""The tasks that the workers of test_celery run."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai
from celery import Celery, chain, group
from tokvigil import TokVigil, context
from tokvigil.attribution import around
from tokvigil.integrations import celery as integration

FOLDER = Path(os.environ["CELERY_TEST_FOLDER"])
ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello to Ada"}]}

BROKER = os.environ["CELERY_TEST_BROKER"]

app = Celery("celery_tasks", broker=BROKER, backend=BROKER, set_as_current=False)
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_track_started=True,
    beat_max_loop_interval=0.2,
    beat_schedule={
        "digest": {
            "task": "celery_tasks.ask",
            "schedule": 0.5,
            "options": {"headers": integration.headers(user_id="nightly-job", feature="digest")},
        },
        "of nobody": {"task": "celery_tasks.note", "schedule": 0.5, "args": [str(FOLDER / "of nobody")]},
    },
)
integration.connect()


# Made before the worker forks its children.
tv = TokVigil(timeout=30.0)
client = tv.wrap(openai.OpenAI(max_retries=0))


def here() -> dict[str, Any]:
    return {name: value for name, value in asdict(around()).items() if value is not None}


@app.task
def ask(*_: Any) -> dict[str, Any]:
    client.chat.completions.create(**ASK)
    return here()


@app.task
def ask_quietly() -> None:
    """Celery logs what a task returns."""
    ask()


@app.task
def look(*_: Any) -> dict[str, Any]:
    return here()


@app.task
def note(file: str) -> None:
    Path(file).write_text(repr(here()))


@app.task
def several(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    client.chat.completions.create(**ASK)
    return [*results, here()]


@app.task(bind=True, max_retries=2)
def ask_later(self: Any) -> dict[str, Any]:
    """It is retried where another user is around."""
    if self.request.retries < 2:
        with context(user_id="another", plan="pro"):
            raise self.retry(countdown=0)
    return ask()


@app.task(bind=True)
def send_more(self: Any) -> None:
    ask.delay()
    with context(user_id="bob"):
        group(ask.s(), chain(look.s(), ask.s())).delay()


@app.task(bind=True, max_retries=2)
@integration.retry_blocks(wait_s_max=60)
def ask_until_it_passes(self: Any, text: str, *, bury: bool = False) -> list[Any]:
    try:
        return [self.request.retries, ask()]
    except Exception as error:
        if bury:
            raise RuntimeError("the framework failed") from error
        raise


@app.task
def leave_open() -> None:
    """A context that nobody ends."""
    context(user_id="left-open", plan="pro").__enter__()
