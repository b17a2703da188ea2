"""The pages of replays: asking, how far they are, what came of them, and who may."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from policies.admin import replay_page
from policies.blocked.decision_log import drain
from policies.changing import drafts
from policies.models import Draft, PolicyReplay, ReplayState
from policies.replaying import jobs, tally
from policies.replaying.jobs import Candidate
from tenants.models import Environment, Role, Tenant
from tokvigil_site import tasks
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import submit
from usage.models import UsageEvent

pytestmark = pytest.mark.django_db(transaction=True)

REPLAYS = reverse("admin:policy_replays")
HOSTILE = "=<b>x</b>"
ONE = "version: 1\n" + limits("{metric: requests, window: day, amount: 1, per: user}", name="One")
FOUR = limits("{metric: requests, window: day, amount: 4, per: user}")


@pytest.fixture(autouse=True)
def traffic(prod: Environment, empty_store: None) -> None:
    """A hostile name made four calls and was blocked once; ben made one."""
    apply_policies(prod, FOUR)
    api = Api(prod)
    for user in (HOSTILE,) * 4 + ("ben",):
        api.use(user)
    api.evaluate(HOSTILE)
    drain(prod)


def read(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def ask(client: Client, environment: Environment, **fields: Any) -> Any:
    form = {"what": "file", "period": "30", "text": ONE, "environment": environment.pk}
    return client.post(REPLAYS, form | fields)


def url(name: str, replay: PolicyReplay) -> str:
    return reverse(f"admin:{name}", args=[replay.pk])


@pytest.fixture
def done(mia: Client, prod: Environment) -> PolicyReplay:
    assert ask(mia, prod).status_code == 302
    tasks.run_replays()
    return PolicyReplay.objects.get()


@pytest.fixture
def draft(prod: Environment) -> Draft:
    """It leaves everything out."""
    begun = drafts.begin(prod, "Loose", actor="admin:mia")
    return drafts.leave_out(begun, "Everyone", edits=0, actor="admin:mia")


def test_a_replay_is_asked_for_waits_and_shows_what_came_of_it(mia: Client, prod: Environment) -> None:
    answer = ask(mia, prod)
    replay = PolicyReplay.objects.get()
    assert answer["Location"] == url("policy_replay", replay)
    waiting = read(mia, answer["Location"])
    assert "Waiting" in waiting
    assert "about 6 calls" in waiting
    assert "replay.js" in waiting
    assert '<meta http-equiv="refresh"' in waiting

    tasks.run_replays()

    text = read(mia, answer["Location"])
    assert "Of 6 calls, 3 would have been newly blocked" in text
    assert "refresh" not in text
    assert "1 blocked before, 4 after." in text
    # To scale of all six: three are as they were.
    assert re.findall(r'<i class="tv-split-(\w+)" style="flex-grow:(\d+)">', text) == [
        ("unchanged", "3"),
        ("blocked", "3"),
    ]
    assert "The files have the first" not in text
    assert "What a blocked caller would have tried again" in text
    assert "<b>x</b>" not in text
    assert reverse("admin:end_user") in text
    assert "Daily request limit of 1 reached" in text
    assert "The call was made." in text
    assert "3</td>" in re.sub(r"\s", "", text.partition('id="reasons"')[2].partition("</section>")[0])


def test_the_progress_is_read_anew_until_it_has_ended(mia: Client, done: PolicyReplay) -> None:
    PolicyReplay.objects.update(
        state=ReplayState.RUNNING, calls_done=2, heartbeat_at=timezone.now(), report=None
    )
    running = read(mia, url("policy_replay_progress", done))
    assert 'data-state="running"' in running
    assert "2 of about 6 calls, 33 %" in running
    assert "has not answered" not in running
    PolicyReplay.objects.update(heartbeat_at=timezone.now() - jobs.DEAD_AFTER)
    assert "has not answered" in read(mia, url("policy_replay_progress", done))
    PolicyReplay.objects.update(state=ReplayState.DONE)
    assert 'data-state="done"' in read(mia, url("policy_replay_progress", done))


def test_a_replay_is_cancelled_from_its_page(mia: Client, prod: Environment) -> None:
    ask(mia, prod)
    replay = PolicyReplay.objects.get()
    said = mia.post(url("policy_replay", replay), {"action": "cancel"}, follow=True).content.decode()
    assert "The replay is cancelled." in said
    again = mia.post(url("policy_replay", replay), {"action": "cancel"}, follow=True).content.decode()
    assert "has ended already" in again
    replay.refresh_from_db()
    assert replay.state == ReplayState.CANCELLED


def test_a_failed_replay_says_why(mia: Client, done: PolicyReplay) -> None:
    PolicyReplay.objects.update(state=ReplayState.FAILED, report=None, error="The disk is full.")
    assert "The disk is full." in read(mia, url("policy_replay", done))


def test_a_file_is_uploaded(mia: Client, prod: Environment) -> None:
    upload = SimpleUploadedFile("a\u202eb.yaml", ONE.encode())
    assert ask(mia, prod, text="", upload=upload).status_code == 302
    assert PolicyReplay.objects.get().source == "ab.yaml"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"text": " "}, "Choose a policy file, or paste one below."),
        ({"text": "version: 1\npolicies: [{name: x, limit: 1}]\n"}, "policies[0].limit: "),
        ({"upload": SimpleUploadedFile("x.yaml", b"\xff\xfe")}, "This is no text in UTF-8"),
        ({"period": "dates"}, "Choose a day."),
        ({"period": "dates", "first_day": "2026-11-02", "last_day": "2026-11-01"}, "before the first day"),
        ({"period": "dates", "first_day": "2998-01-01", "last_day": "2998-01-02"}, "has not come yet"),
        ({"period": "dates", "first_day": "2001-01-01", "last_day": "2011-01-02"}, "at most 400 days"),
        ({"what": "draft-99"}, "Select a valid choice"),
        ({"text": "version: 1\n\0"}, "Null characters are not allowed"),
    ],
)
def test_what_cannot_be_replayed_is_said_beside_its_field_and_kept(
    mia: Client, prod: Environment, fields: dict[str, Any], says: str
) -> None:
    text = ask(mia, prod, **fields).content.decode()
    assert "tv-field-errors" in text
    assert says in text
    if "text" not in fields:
        assert "name: One" in text
    assert not PolicyReplay.objects.exists()


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("this_month", "2026-10-31T23:00:00+00:00", "2026-11-20T12:00:00+00:00"),
        # It ends summer time.
        ("last_month", "2026-09-30T22:00:00+00:00", "2026-10-31T23:00:00+00:00"),
        ("7", "2026-11-13T23:00:00+00:00", "2026-11-20T12:00:00+00:00"),
        ("dates", "2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00"),
    ],
)
def test_periods_are_those_of_the_tenants_zone(
    mia: Client, prod: Environment, monkeypatch: pytest.MonkeyPatch, period: str, start: str, end: str
) -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    monkeypatch.setattr("policies.admin.replay_forms.timezone.now", lambda: now)
    ask(mia, prod, period=period, first_day="2026-10-25", last_day="2026-10-25")
    replay = PolicyReplay.objects.get()
    assert (replay.start.isoformat(), replay.end.isoformat()) == (start, end)


def test_the_policies_in_force_are_replayed(mia: Client, prod: Environment) -> None:
    ask(mia, prod, what="in_force")
    tasks.run_replays()
    replay = PolicyReplay.objects.get()
    assert "None of 6 calls would have been decided otherwise" in read(mia, url("policy_replay", replay))
    assert "The policies in force" in read(mia, REPLAYS)


def test_a_replay_that_checks_itself_says_how_far_it_can_be_trusted(
    mia: Client, prod: Environment, done: PolicyReplay
) -> None:
    assert "were decided" not in read(mia, url("policy_replay", done))
    # More calls than the policy allows: they were reported without having been asked for.
    for number in range(4):
        Api(prod).report(f"never-asked-{number}", "ben", input_tokens=5)
    ask(mia, prod, self_check="on")
    tasks.run_replays()
    replay = PolicyReplay.objects.exclude(pk=done.pk).get()
    text = read(mia, url("policy_replay", replay))
    print(re.findall(r"The replay decides[^<]*|<li>[^<]*otherwise.*?</li>", text))
    assert "The replay decides 9 of 10 calls as they were decided" in text
    assert "1 otherwise: <bdi>reported without a policy having allowed it</bdi>" in text
    for asked, ticked in ((done, False), (replay, True)):
        box = re.search(r'<input[^>]+name="self_check"[^>]*>', read(mia, f"{REPLAYS}?again={asked.pk}"))
        assert box is not None
        assert ("checked" in box[0]) == ticked


def test_a_draft_leads_to_its_replay_and_back(mia: Client, prod: Environment, draft: Draft) -> None:
    its_page = reverse("admin:policy_draft", args=[draft.pk])
    text = read(mia, its_page)
    assert f"{REPLAYS}?draft={draft.pk}" in text
    assert "Not replayed yet." in text
    submit(mia, f"{REPLAYS}?draft={draft.pk}", form_at=f"{REPLAYS}?draft={draft.pk}", period="7")
    assert "waits" in read(mia, its_page)

    tasks.run_replays()

    assert "0 newly blocked and 1 newly allowed" in re.sub(r"\s+", " ", read(mia, its_page))
    replay = PolicyReplay.objects.get()
    assert replay.draft == draft
    assert its_page in read(mia, url("policy_replay", replay))
    assert "was changed" not in read(mia, its_page)
    drafts.settle(draft, "Everyone", take_live=True, edits=draft.edits, actor="admin:mia")
    assert "The draft was changed after" in read(mia, url("policy_replay", replay))


def test_the_last_step_before_publishing_offers_a_replay(mia: Client, prod: Environment) -> None:
    edit = reverse("admin:policies_policy_edit", args=[prod.policies.get().pk])
    submit(mia, edit, priority="7", _replay="yes")
    draft = Draft.objects.get()
    opened = read(mia, f"{REPLAYS}?draft={draft.pk}")
    assert f'<option value="draft-{draft.pk}" selected>' in opened


def test_the_same_is_asked_of_another_period(mia: Client, done: PolicyReplay) -> None:
    text = read(mia, f"{REPLAYS}?again={done.pk}")
    assert "name: One" in text
    assert mia.get(f"{REPLAYS}?again=7").status_code == 404


def test_differences_are_paged_and_those_of_one_user_are_found(
    mia: Client, done: PolicyReplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_page, "DIFFERENCES_A_PAGE", 2)
    page = url("policy_replay", done)
    assert "Page 1 of 2" in read(mia, page)
    assert read(mia, f"{page}?page=2").count('<details class="tv-change"') == 1
    of_nobody = read(mia, f"{page}?user=nobody")
    assert "None is kept of this user." in of_nobody
    assert 'tv-account-name"><bdi>mia' in of_nobody, "who is signed in is still named"


def test_files_that_do_not_have_all_differences_say_so_beside_their_buttons(
    mia: Client, prod: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "DIFFERENCES_MAX", 2)
    ask(mia, prod)
    tasks.run_replays()
    text = read(mia, url("policy_replay", PolicyReplay.objects.get()))
    assert "The files have the first 2 of 3." in text.partition("Differences as JSON")[2][:100]


def test_users_hit_are_in_the_order_of_their_blocks_or_of_their_first_one(
    mia: Client, prod: Environment
) -> None:
    api = Api(prod)
    for user, calls in (("first", 3), ("most", 4)):
        for _ in range(calls):
            api.use(user)
    ask(mia, prod)
    tasks.run_replays()
    page = url("policy_replay", PolicyReplay.objects.get())
    found = {
        order: re.findall(r"The \d+ blocks? of (first|most)", read(mia, page + order))
        for order in ("", "?hits=first")
    }
    assert found == {"": ["most", "first"], "?hits=first": ["first", "most"]}


def test_it_is_said_which_policy_allowed_a_call_that_would_be_blocked(
    mia: Client, done: PolicyReplay
) -> None:
    text = read(mia, url("policy_replay", done))
    event = UsageEvent.objects.filter(environment=done.environment).earliest("id")
    assert event.policy_id is not None
    allowed_by = done.environment.policies.get(pk=event.policy_id).name
    assert f"{allowed_by}, version {event.policy_version}" in text


def test_the_differences_are_exported(mia: Client, done: PolicyReplay) -> None:
    answer = mia.get(f"{url('policy_replay_export', done)}?format=csv")
    lines = list(csv.reader(io.StringIO(b"".join(answer).decode())))
    about = {name: value for mark, name, value in (line for line in lines if line[0] == "#")}
    assert (about["differences"], about["time_zone"]) == ("3", "Europe/Berlin")
    rows = [line for line in lines if line[0] != "#"]
    assert len(rows) == 1 + 3
    assert {row[3] for row in rows[1:]} == {f"'{HOSTILE}"}
    answer = mia.get(f"{url('policy_replay_export', done)}?format=json")
    found = json.loads(b"".join(answer))
    assert [row["user_id"] for row in found["rows"]] == [HOSTILE] * 3
    assert mia.get(f"{url('policy_replay_export', done)}?format=jsonl").status_code == 404


def test_so_many_wait_and_then_it_is_said(mia: Client, prod: Environment) -> None:
    for _ in range(jobs.OPEN_MAX):
        ask(mia, prod)
    assert "cancel one, or wait" in ask(mia, prod).content.decode()


def test_who_may_see_policies_may_look_and_not_ask(
    sign_in: SignIn, acme: Tenant, prod: Environment, done: PolicyReplay
) -> None:
    viewer = sign_in("vic", acme, role=Role.VIEWER)
    assert "Of 6 calls, 3 would" in read(viewer, url("policy_replay", done))
    assert "tv-button-primary" not in read(viewer, REPLAYS)
    assert ask(viewer, prod).status_code == 403
    assert viewer.post(url("policy_replay", done), {"action": "cancel"}).status_code == 403
    assert viewer.get(f"{url('policy_replay_export', done)}").status_code == 200


def test_of_another_tenant_there_is_none(
    sign_in: SignIn, other: Tenant, prod: Environment, done: PolicyReplay
) -> None:
    olga = sign_in("olga", other)
    for name in ("policy_replay", "policy_replay_progress", "policy_replay_export"):
        assert olga.get(url(name, done)).status_code == 404
    assert ask(olga, prod).status_code == 404
    now = timezone.now()
    theirs = other.environments.get(slug="prod")
    jobs.ask(theirs, Candidate.in_force(theirs), now - timedelta(days=1), now, actor="test")
    assert "policy file" not in read(olga, REPLAYS).partition('id="replays"')[2]
