"""A LangChain model with a tool, asked until it has its answer. All calls of one question are one run.

python langchain_chat.py ana "What is the weather in Paris?"

It needs TOKVIGIL_API_KEY, TOKVIGIL_BASE_URL and OPENAI_API_KEY, and `pip install langchain-openai` beside tokvigil.
A limit `per: run` in a policy stops an agent that does not come to an end.
"""

import sys
import uuid

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from tokvigil import AIUsageBlockedError, TokVigil

CALLS_MAX = 8


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}, 21 °C."


def answer(model: ChatOpenAI, question: str) -> str:
    agent = model.bind_tools([weather])
    messages: list[BaseMessage] = [HumanMessage(question)]
    for _ in range(CALLS_MAX):
        reply = agent.invoke(messages)
        if not reply.tool_calls:
            return reply.text
        messages += [reply, *(weather.invoke(call) for call in reply.tool_calls)]
    return "I could not find out."


def main(user: str, question: str) -> int:
    with TokVigil() as tv:
        model = tv.wrap(ChatOpenAI(model="gpt-4o-mini"))
        try:
            with tv.context(user_id=user, feature="agent", plan="free", run_id=str(uuid.uuid4())):
                print(answer(model, question))
        except AIUsageBlockedError as blocked:
            print(blocked.message, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python langchain_chat.py USER QUESTION")
    sys.exit(main(*sys.argv[1:]))
