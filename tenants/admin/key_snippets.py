"""How a new key is used, to paste: without the key itself, which each of them reads from the environment."""

from __future__ import annotations

from dataclasses import dataclass

from tenants.models import ApiKey
from tenants.scopes import EVALUATE


@dataclass(frozen=True, slots=True)
class Snippet:
    name: str
    title: str
    text: str


_EVALUATE = """\
curl -s {base_url}/v1/evaluate \\
  -H "Authorization: Bearer $TOKVIGIL_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"user_id": "ana", "feature": "chat", "plan": "free",
       "model": "gpt-4o-mini", "input_tokens": 1200}}'"""

_ME = """\
curl -s {base_url}/v1/me \\
  -H "Authorization: Bearer $TOKVIGIL_API_KEY\""""

_PYTHON_CALLS = """\
from openai import OpenAI
from tokvigil import TokVigil

tv = TokVigil()  # reads TOKVIGIL_API_KEY and TOKVIGIL_BASE_URL
client = tv.wrap(OpenAI())

with tv.context(user_id="ana", feature="chat", plan="free"):
    client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "What is a ledger?"}],
    )"""

_PYTHON_READS = """\
import os
import urllib.request

request = urllib.request.Request(
    os.environ["TOKVIGIL_BASE_URL"] + "/v1/me",
    headers={"Authorization": "Bearer " + os.environ["TOKVIGIL_API_KEY"]},
)
print(urllib.request.urlopen(request).read())"""

_TYPESCRIPT_CALLS = """\
const answer = await fetch(`${process.env.TOKVIGIL_BASE_URL}/v1/evaluate`, {
  method: "POST",
  headers: {
    Authorization: `Bearer ${process.env.TOKVIGIL_API_KEY}`,
    "Content-Type": "application/json",
  },
  body: JSON.stringify({
    user_id: "ana", feature: "chat", plan: "free",
    model: "gpt-4o-mini", input_tokens: 1200,
  }),
});
console.log(await answer.json());"""

_TYPESCRIPT_READS = """\
const answer = await fetch(`${process.env.TOKVIGIL_BASE_URL}/v1/me`, {
  headers: { Authorization: `Bearer ${process.env.TOKVIGIL_API_KEY}` },
});
console.log(await answer.json());"""


def of(key: ApiKey, base_url: str) -> tuple[Snippet, ...]:
    calls = EVALUATE in key.scopes
    return (
        Snippet("curl", "curl", (_EVALUATE if calls else _ME).format(base_url=base_url)),
        Snippet("python", "Python", _PYTHON_CALLS if calls else _PYTHON_READS),
        Snippet("typescript", "TypeScript", _TYPESCRIPT_CALLS if calls else _TYPESCRIPT_READS),
    )
