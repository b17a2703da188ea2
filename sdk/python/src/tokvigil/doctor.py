"""`python -m tokvigil doctor`: whether this machine, this key and this control plane work together.

It asks the control plane who the key is, and changes nothing, there or here. The key's secret is never shown.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from importlib import metadata
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from tokvigil import json_values, links, prices, token_encodings, transport
from tokvigil.configuration import Configuration
from tokvigil.credentials import key_name
from tokvigil.errors import ConfigurationError, TokVigilError, UnreachableError
from tokvigil.journal import default_folder, directory_in
from tokvigil.journal_survey import Survey, survey
from tokvigil.version import __version__
from tokvigil.wrapping.versions import WRAPPED_MAJORS

ANSWER_WITHIN_S = 5.0
KEY_SHAPE = re.compile(r"tv_[a-z]+_[0-9A-Za-z]{12}_[0-9A-Za-z]{40}")
NEEDED_SCOPES = {"evaluate": "no AI call is decided", "usage:write": "no usage is reported"}
USEFUL_SCOPES = {"usage:read": "`limits` is refused"}
# The server refuses a report from further ahead than 5 minutes; the SDK then sends it without its time.
CLOCK_OFF_S_MAX = 60.0
KEY_ENDS_WITHIN = timedelta(days=14)
PENDING_SINCE_MAX = timedelta(minutes=10)
PRICES_SINCE_MAX = timedelta(days=120)
# Destinations of others, and reasons of refusals, that are shown.
OTHERS_MAX = 5
REASONS_MAX = 5
TEXT_CHARS_MAX = 200
HIDDEN = "***"


class Finding(NamedTuple):
    """One line: how it stands, and what to do about it."""

    level: Literal["ok", "warning", "problem"]
    about: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        found = self.found
        if self.mend:
            found = f"{found.rstrip().removesuffix('.')}. {self.mend[0].upper()}{self.mend[1:]}."
        # Whatever it holds, it is one line.
        return f"{self.level:<8} {' '.join(f'{self.about}: {found}'.split())}"


_ok, _warning, _problem = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "problem")


def examine(
    api_key: str | None = None, base_url: str | None = None, journal: str | None = None
) -> Iterator[Finding]:
    """The findings, one after the other as they come; what is None is read from the environment, as a client does."""
    yield _ok("tokvigil", f"{__version__}, Python {platform.python_version()}")
    read = partial(Configuration.read, timeout=ANSWER_WITHIN_S, max_retries=0, on_unreachable="last_known")
    try:
        configuration = read(api_key, base_url)
    except ConfigurationError:
        # All that is wrong, not only the first.
        for key, url in ((api_key, "http://localhost"), ("key", base_url)):
            try:
                read(key, url)
            except ConfigurationError as error:
                yield _problem("configuration", str(error), "then run this again")
        destination = ""
    else:
        secret = configuration.api_key.rpartition("_")[2]
        for finding in (*_configured(configuration), *_answered(configuration)):
            # Should an answer have repeated it.
            yield finding._replace(found=finding.found.replace(secret, HIDDEN)) if secret else finding
        destination = configuration.destination
    yield from _written_down(Path(journal) if journal else default_folder(), destination)
    yield from _counted()
    yield _priced(datetime.now(UTC))
    yield from _wrapped()


def _configured(configuration: Configuration) -> Iterator[Finding]:
    shown = f"{configuration.base_url} with key {key_name(configuration.api_key)}"
    url = urlsplit(configuration.base_url)
    if url.scheme == "http" and not _is_near(url.hostname or ""):
        yield _warning("configuration", f"{shown}: the key is sent unencrypted", "use https")
    else:
        yield _ok("configuration", shown)
    if not KEY_SHAPE.fullmatch(configuration.api_key):
        yield _warning(
            "key", "it is not shaped as TokVigil's are: tv_<env>_<id>_<secret>", "check what was copied"
        )


def _is_near(host: str) -> bool:
    """On this machine, or in its own network, as far as an address can tell."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host


def _answered(configuration: Configuration) -> Iterator[Finding]:
    """What the control plane says of the key."""
    url = configuration.base_url
    asked_at, started_s = datetime.now(UTC), time.perf_counter()
    try:
        # As a client asks, so what stops one is found.
        with closing(links.Links(url)) as way:
            response = way.send(
                links.Request(
                    method="GET",
                    path="/v1/me",
                    headers=[(b"Authorization", f"Bearer {configuration.api_key}".encode())],
                    deadline=time.monotonic() + ANSWER_WITHIN_S,
                )
            )
    except ConfigurationError as error:
        yield _problem("control plane", str(error))
        return
    except UnreachableError as error:
        if mend := transport.mend_of(error):
            yield _problem("control plane", f"base_url is {url}: {mend}")
        else:
            check = "check the address, the network and the server"
            yield _problem("control plane", f"{error}{_through_proxy(url)}", check)
        return
    took = timedelta(seconds=time.perf_counter() - started_s)
    answer = json_values.parse_object(response.body) or {}
    if response.status >= 500:
        said = f"it answered {response.status}: {_detail(answer)}"
        mend = "see `GET /readyz` of the server"
    elif response.status == HTTPStatus.NOT_FOUND:
        said = f"{url}/v1/me answered 404: {_detail(answer)}"
        mend = "this is not TokVigil: check host and port, and what follows them"
    elif ("key" if _is_success(response) else "code") not in answer:
        said = f"something else than TokVigil answered {response.status} at {url}"
        mend = "check the address and proxies on the way"
    else:
        yield _ok("control plane", f"it answers within {took / timedelta(milliseconds=1):.0f} ms")
        yield _clock(response, asked_at + took / 2)
        yield from _known(response, answer)
        return
    yield _problem("control plane", said + _through_proxy(url), mend)


def _is_success(response: links.Answer) -> bool:
    return 200 <= response.status < 300


def _through_proxy(url: str) -> str:
    """What of the environment stands between here and there; without the proxy's password."""
    parts = urlsplit(url)
    proxy = links.proxy_of_the_environment(parts.scheme, parts.hostname or "")
    return f", through the proxy {proxy.rpartition('@')[2]} of the environment" if proxy else ""


def _clock(response: links.Answer, now: datetime) -> Finding:
    try:
        theirs = parsedate_to_datetime(response.header("Date") or "")
    except ValueError:
        return _warning("clock", "the server does not say its time")
    off_s = (now - theirs).total_seconds()
    if abs(off_s) <= CLOCK_OFF_S_MAX:
        return _ok("clock", f"within {CLOCK_OFF_S_MAX:.0f} s of the server's")
    where = "ahead of" if off_s > 0 else "behind"
    return _warning(
        "clock",
        f"{abs(off_s):.0f} s {where} the server's, so late reports count in the wrong window or are refused",
        "synchronise this machine's clock",
    )


def _known(response: links.Answer, answer: Mapping[str, Any]) -> Iterator[Finding]:
    if not _is_success(response):
        said = f"refused with {response.status} {answer['code']}: {_detail(answer)}"
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            yield _warning("key", said, "run this again later, or let the key ask more often")
        else:
            yield _problem("key", said, "use another one: `manage.py issue_key` makes keys")
        return
    try:
        tenant, environment, key = answer["tenant"], answer["environment"], answer["key"]
        whose = f"{tenant['slug']}/{environment['slug']}"
        scopes, name = frozenset(key["scopes"]), key["name"]
        ends_at = None if key["expires_at"] is None else datetime.fromisoformat(key["expires_at"])
        frozen = environment["frozen"]
    except (KeyError, TypeError, ValueError) as error:
        yield _problem("key", f"the answer of GET /v1/me cannot be read: {error!r}", "update tokvigil")
        return
    if frozen:
        yield _warning(
            "environment", f"{whose} is frozen: every AI call is blocked", "unfreeze it in the admin"
        )
    else:
        yield _ok("environment", whose)
    if ends_at is not None and ends_at - datetime.now(UTC) < KEY_ENDS_WITHIN:
        yield _warning("key", f"{name!r} ends on {ends_at:%Y-%m-%d %H:%M} UTC", "issue a new one before")
    else:
        yield _ok("key", repr(name))
    yield from _scoped(scopes)


def _scoped(scopes: frozenset[str]) -> Iterator[Finding]:
    is_complete = True
    for needed, finding in ((NEEDED_SCOPES, _problem), (USEFUL_SCOPES, _warning)):
        for scope, why in needed.items():
            if scope not in scopes:
                is_complete = False
                yield finding("scopes", f"{scope} is missing: {why}", "issue a key with it")
    if is_complete:
        yield _ok("scopes", ", ".join(sorted(scopes)))


def _written_down(folder: Path | None, destination: str) -> Iterator[Finding]:
    if folder is None:
        yield _ok("journal", "TOKVIGIL_JOURNAL says none: usage is kept in memory only")
        return
    try:
        found = survey(folder, destination)
    except OSError as error:
        mend = "make it writable, or set TOKVIGIL_JOURNAL; until then usage is kept in memory only"
        yield _problem("journal", f"{folder} cannot be used: {error}", mend)
        return
    said = f"{folder}: {found.pending} pending, {found.under_way} under way"
    if found.oldest_at is None or datetime.now(UTC) - found.oldest_at <= PENDING_SINCE_MAX:
        yield _ok("journal", said)
    else:
        said = f"{said}, the oldest since {found.oldest_at:%Y-%m-%d %H:%M} UTC"
        mend = "see the log of the client that wrote it, or run one, which sends them"
        yield _warning("journal", said, mend)
    yield from _left_over(folder, found, destination)


def _left_over(folder: Path, found: Survey, destination: str) -> Iterator[Finding]:
    """What others must send, and what nobody will."""
    dead = found.of_dead_processes
    if dead:
        whose = "a process" if dead == 1 else "processes"
        yield _warning("journal", f"{_events(dead)} of {whose} that died", "the next client sends them")
    others = found.of_others.most_common() if destination else []
    for other, count in others[:OTHERS_MAX]:
        address, _, key = other.rpartition(" ")
        said = f"{_events(count)} for {address} with key {key}"
        mend = "run a client with that address and key once: only it sends them"
        discard = f"if there is no such server, delete {directory_in(folder, other)}"
        yield _warning("journal", said, f"{mend}; {discard}")
    if more := others[OTHERS_MAX:]:
        count = sum(count for _, count in more)
        said = f"{len(more)} more destination{'' if len(more) == 1 else 's'}"
        yield _warning("journal", f"{_events(count)} for {said}")
    for reason, count in found.quarantined.most_common(REASONS_MAX):
        said = (
            f"{_events(count)} {'was' if count == 1 else 'were'} refused for good: {reason[:TEXT_CHARS_MAX]}"
        )
        mend = "`python -m tokvigil quarantine` shows it, and sends it again with --send"
        yield _warning("journal", said, mend)


def _events(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def _counted() -> Iterator[Finding]:
    if find_spec("tiktoken") is None:
        yield _ok("tokens", f"estimated; {token_encodings.NOT_INSTALLED}")
        return
    for name in token_encodings.RANKS_SHA256:
        started_s = time.perf_counter()
        try:
            token_encodings.encoding(name)
        except (TokVigilError, ImportError, OSError, ValueError) as error:
            yield _problem("tokens", f"{name}: {error}", "reinstall tokvigil and tiktoken")
        else:
            took_s = time.perf_counter() - started_s
            yield _ok("tokens", f"can be counted exactly: {name} is intact, loaded in {took_s:.2f} s")


def _priced(now: datetime) -> Finding:
    since = prices.newest(now)
    said = f"{prices.version()}, the newest price in force since {since:%Y-%m-%d}"
    if now - since > PRICES_SINCE_MAX:
        return _warning("prices", said, "update tokvigil, or local estimates are of old prices")
    return _ok("prices", said)


def _wrapped() -> Iterator[Finding]:
    """A line for each that is installed, from its metadata: it is not imported."""
    for package, majors in WRAPPED_MAJORS.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if version.partition(".")[0] in {str(major) for major in majors}:
            yield _ok(package, f"{version}, which `wrap` guards")
        else:
            tested = " and ".join(str(major) for major in majors)
            mend = f"`wrap` is tested with major version {tested}: test it, or put `guard` around the calls"
            yield _warning(package, version, mend)


def _detail(problem: Mapping[str, Any]) -> str:
    return str(problem.get("detail") or problem.get("title") or "no detail")[:TEXT_CHARS_MAX]
