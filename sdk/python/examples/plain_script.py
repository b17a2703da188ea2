"""A script that asks a model for a person: one answer at once, one as it comes, and what they are told of a block.

python plain_script.py ana "What is a ledger?"

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL and OPENAI_API_KEY, and `pip install openai` beside tokvigil.
"""

import sys
from collections.abc import Iterator
from datetime import timedelta

from openai import OpenAI
from tokvigil import AIUsageBlockedError, TokVigil

MODEL = "gpt-4o-mini"


def ask(client: OpenAI, question: str) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": question}])
    return answer.choices[0].message.content or ""


def ask_streaming(client: OpenAI, question: str) -> Iterator[str]:
    """Piece by piece. Who stops early pays for what has come: the rest is not asked for."""
    with client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], stream=True
    ) as stream:
        for chunk in stream:
            yield chunk.choices[0].delta.content or ""


def explain(blocked: AIUsageBlockedError) -> str:
    """For the person. `blocked.message` has the figures: for a log, or for whoever makes the rules."""
    match blocked.reason_class:
        case "transient" | "degraded":
            return "That was too much at once. Please try again in a moment."
        case "exhausted" if blocked.retry_after is not None:
            return f"You have used what you have for now. There is more in {timedelta(seconds=blocked.retry_after)}."
        case "exhausted":
            return "You have used all you have."
        case "too_large":
            return "That is too long. Please ask for less."
        case "frozen":
            return "AI is switched off at the moment."
        case _:
            return "Your plan does not include this."


def main(user: str, question: str) -> int:
    with TokVigil() as tv:
        client = tv.wrap(OpenAI())
        try:
            with tv.context(user_id=user, feature="ask", plan="free"):
                print(ask(client, question))
                for piece in ask_streaming(client, "Say the same in other words: " + question):
                    print(piece, end="", flush=True)
                print()
        except AIUsageBlockedError as blocked:
            print(explain(blocked), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python plain_script.py USER QUESTION")
    sys.exit(main(*sys.argv[1:]))
