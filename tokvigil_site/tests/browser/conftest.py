"""A browser, the console it looks at, and what must be true of every page that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright
from pytest_django.live_server_helper import LiveServer

from tenants.models import Membership, Role, Tenant

BROWSERS = os.environ.get("TOKVIGIL_TEST_BROWSER", "chromium chromium-browser google-chrome").split()
# Chromium as root has no sandbox; the others keep it from calling its maker.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
SERIOUS = {"serious", "critical"}
# Cells of a row whose words are printed over each other; not of a column that stays while the others scroll.
OVERPRINTED = """
[...document.querySelectorAll("main tbody tr")].flatMap((row) => {
  const linesOf = (cell) => {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), lines = [];
    while (texts.nextNode()) {
      const words = document.createRange(), { parentElement } = texts.currentNode;
      words.selectNodeContents(texts.currentNode);
      const shown = parentElement.checkVisibility() && !parentElement.closest(".tv-hidden");
      if (shown) lines.push(...words.getClientRects());
    }
    return lines;
  };
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const cells = [...row.children].filter((cell) => getComputedStyle(cell).position !== "sticky")
    .map((cell) => [cell.innerText, linesOf(cell)]);
  return cells.flatMap(([text, lines], at) => cells.slice(at + 1)
    .filter(([, others]) => lines.some((line) => others.some((other) => over(line, other))))
    .map(([other]) => `“${text}” and “${other}” are printed over each other`));
})
"""
# Words in a narrow column beside the buttons of their card: they need more lines than they would have above them.
CRUSHED = """
[...document.querySelectorAll("main :is(h2, h3, th, td, p, li, span)")].flatMap((element) => {
  const texts = [...element.childNodes].filter((node) => node.nodeType === 3 || node.nodeName === "BDI");
  if (!texts.length || !element.checkVisibility() || element.closest(".tv-hidden, .tv-scroll, .tv-button")) return [];
  const words = document.createRange();
  words.setStartBefore(texts[0]);
  words.setEndAfter(texts.at(-1));
  const { left, right, top, bottom } = words.getBoundingClientRect();
  const lines = new Set([...words.getClientRects()].map((line) => Math.round(line.top / 8))).size;
  const place = element.closest("tr, li, header, .tv-row, .tv-banner, .tv-card, main");
  if (lines < 2 || right - left > place.clientWidth / 2) return [];
  return [...place.querySelectorAll(".tv-button")].filter((button) => {
    const { left: start, top: over, bottom: under } = button.getBoundingClientRect();
    return button.checkVisibility() && start >= right && Math.min(bottom, under) - Math.max(top, over) > 3;
  }).slice(0, 1).map((button) => `“${words}” is crushed beside “${button.innerText}”`);
})
"""

# Fields and buttons that go nowhere: the browser drops a form within a form, and what follows has none. Unfold's own
# search of pages has no form, and sends what is typed by script.
WITHOUT_A_FORM = """
[...document.querySelectorAll("input[name], select[name], textarea[name], button")]
  .filter((field) => field.form === null && field.type !== "button")
  .filter((field) => !field.matches("#command-submit, #search-input-command"))
  .map((field) => `in no form: ${field.outerHTML.slice(0, 200)}`)
"""


class _Forms(HTMLParser):
    """Finds the forms within a form, as the page was sent: the browser has dropped them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.nested: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "form":
            if self.is_open:
                self.nested.append(f"a form within a form: {self.get_starttag_text()}")
            self.is_open = True

    def handle_endtag(self, tag: str) -> None:
        self.is_open = self.is_open and tag != "form"


def nested_forms(html: str) -> list[str]:
    found = _Forms()
    found.feed(html)
    return found.nested


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while Playwright is at work, its event loop runs in this thread, and no other can."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail("there is no Chromium on the PATH: scripts/setup-browser installs one")
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        # Django takes this thread for one of an event loop.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        yield playwright.chromium.launch(executable_path=path, args=OPTIONS)


@dataclass
class Console:
    """What a person sees of it. `complaints` are errors in the browser's console and requests to elsewhere."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    sent: str = ""

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._see)

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.complaints.append(said.text)

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.complaints.append(f"a request to {request.url}")

    def open(self, path: str) -> Page:
        answer = self.page.goto(self.url + path)
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"
        self.sent = answer.text()
        self.page.wait_for_load_state("networkidle")
        return self.page

    def faults(self) -> list[str]:
        """What is wrong: complaints, what only some can use, scrolling sideways, words on words or crushed, no form."""
        complaints, self.complaints = self.complaints, []
        found = Axe().run(self.page).response["violations"]
        serious = [
            f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}"
            for each in found
            if each["impact"] in SERIOUS
        ]
        page, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        sideways = [f"the page is {page} wide, and the window {window}"] if page > window else []
        crushed = self.page.evaluate(CRUSHED) if window == NARROW["width"] else []
        forms = [*nested_forms(self.sent), *self.page.evaluate(WITHOUT_A_FORM)]
        return [*complaints, *serious, *sideways, *self.page.evaluate(OVERPRINTED), *crushed, *forms]


Look = Callable[..., Console]


@pytest.fixture
def look(browser: Browser, live_server: LiveServer) -> Iterator[Look]:
    """The console as a member of these tenants sees it; as a superuser, without any."""
    contexts = []

    def looks(
        *tenants: Tenant,
        role: str = Role.ADMIN,
        dark: bool = False,
        narrow: bool = False,
        signed_in: bool = True,
    ) -> Console:
        context = browser.new_context(
            viewport=NARROW if narrow else WIDE,  # type: ignore[arg-type]
            color_scheme="dark" if dark else "light",
        )
        contexts.append(context)
        if signed_in:
            user = User.objects.create_user(f"mia{len(contexts)}", is_staff=True, is_superuser=not tenants)
            for tenant in tenants:
                Membership.objects.create(tenant=tenant, user=user, role=role)
            client = Client()
            client.force_login(user)
            context.add_cookies(
                [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}]
            )
        return Console(context.new_page(), live_server.url)

    yield looks
    for context in contexts:
        context.close()
