"""TokVigil for your own tests: no server, no network, nothing on disk.

    from tokvigil.testing import FakeTokVigil

    def test_a_user_over_the_limit_is_told_when_to_come_back():
        with FakeTokVigil() as tv:
            tv.block("DAILY_REQUEST_LIMIT_EXCEEDED", retry_after=3600, user_id="ada")
            page = answer_question(tv, user="ada")
            assert "in an hour" in page
            assert tv.reported == []

It is the real client, so `evaluate`, `guard`, `guarded`, `wrap`, `context` and `chat` do what they always do;
only the answers of the control plane are made here: by `allow`, `block`, `cap`, `down` and `up`, the last word about a
call counting. `evaluated`, `reported`, `held` and `charged_usd` say what happened.

As pytest fixtures: see `tokvigil.testing.pytest_plugin`.
"""

from tokvigil.question import Question
from tokvigil.testing.clients import AsyncFakeTokVigil, FakeTokVigil

__all__ = ["AsyncFakeTokVigil", "FakeTokVigil", "Question"]
