"""API keys: made, whose text is shown once, rotated and revoked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from audit import log as audit_log
from tenants import refusals, revisions, scopes
from tenants.admin import key_snippets
from tenants.admin.key_forms import WHEN, NewKeyForm, RotateForm
from tenants.console import display, environments, pages
from tenants.console.access import may
from tenants.console.parts import State
from tenants.console.rows import ONLY_SAVE, EnvironmentRowsAdmin
from tenants.models import ApiKey
from tenants.refusals import LastRefusal
from tenants.roles import May
from tenants.templatetags.console import state

# After this long without a call the page says so and stops asking.
WAITED_MAX = timedelta(minutes=10)
SECONDS_DIGITS_MAX = 10


@admin.register(ApiKey)
class ApiKeyAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_KEYS
    list_display = ["name", "begins_with", "standing", "may", "last_used", "ends"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["environment__tenant"]
    search_fields = ["name", "key_id"]
    actions = ["revoke"]
    can_change = ("name", "expires_at", "allowed_networks", "requests_per_minute")

    def get_urls(self) -> list[Any]:
        own = [
            path(
                f"<path:object_id>/{where}/", self.admin_site.admin_view(view), name=f"tenants_apikey_{what}"
            )
            for what, where, view in (
                ("rotate", "rotate", self.rotate_view),
                ("revoke", "revoke", self.revoke_view),
                ("end_old_secret", "end-old-secret", self.end_old_secret_view),
                ("waiting", "waiting", self.waiting_view),
            )
        ]
        return [*own, *super().get_urls()]

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        name, *others = self.can_change
        return [name, "environment", "preset", "scopes", *others] if obj is None else [*self.can_change]

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = environments.shown(request)
        may_change = shown is not None and may(request, self.to_change, shown.tenant_id)
        return [*self.list_display, *(["offered"] if may_change else [])]

    def get_form(
        self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is None:
            kwargs["form"] = NewKeyForm
        return super().get_form(request, obj, change, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        revoked = obj is not None and obj.revoked_at is not None
        return not revoked and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            self._change(obj, form.changed_data, form.initial)
            return
        limits = {name: form.cleaned_data[name] for name in self.can_change if name != "name"}
        key, text = ApiKey.issue(obj.environment, obj.name, tuple(form.cleaned_data["scopes"]), **limits)
        obj.pk, obj.key_id = key.pk, key.key_id
        form.issued = key, text

    def _change(self, obj: ApiKey, changed: list[str], before: dict[str, Any]) -> None:
        if not changed:
            return
        revisions.bump(obj.environment_id, policies=False)
        obj.save(update_fields=changed)
        audit_log.log(
            "api_key.changed",
            obj,
            tenant_id=obj.environment.tenant_id,
            environment=obj.environment.slug,
            changes=audit_log.changes(before, {name: getattr(obj, name) for name in changed}),
        )

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if not change:
            request._issued = form.issued  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        key, text = request._issued  # type: ignore[attr-defined]
        return self._shown_once(request, key, text, f"Key “{key.name}” is made")

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        key = context.get("original")
        if key is None:
            context |= ONLY_SAVE
        else:
            context |= {
                "show_save_and_add_another": False,
                "may_change_key": self.has_change_permission(request, key),
                "standing": _standing(key),
                "scope_title": scopes.title(key.scopes),
                "scope_words": scopes.in_words(key.scopes),
                "refusal": refusals.last(key.environment_id, key.pk),
                "begins_with": _begins_with(key),
                "old_secret_used": _old_secret_used(key),
                "waiting": None
                if key.is_over or key.last_used_at
                else _waiting(request, key, since=timezone.now()),
            }
        return super().render_change_form(request, context, *args, **kwargs)

    # The list

    @admin.display(description="begins with", ordering="key_id")
    def begins_with(self, key: ApiKey) -> SafeString:
        return format_html('<code class="tv-code">{}</code>', _begins_with(key))

    @admin.display(description="state", ordering="revoked_at")
    def standing(self, key: ApiKey) -> SafeString:
        return state(*_standing(key))

    @admin.display(description="may")
    def may(self, key: ApiKey) -> SafeString:
        return format_html(
            '{}<small class="tv-subtle tv-below">{}</small>',
            scopes.title(key.scopes),
            scopes.in_words(key.scopes),
        )

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, key: ApiKey) -> str:
        return "never" if key.last_used_at is None else display.moment(key.last_used_at)

    @admin.display(description="ends", ordering="expires_at")
    def ends(self, key: ApiKey) -> str:
        return "never" if key.ends_at is None else display.moment(key.ends_at)

    @admin.display(description="actions")
    def offered(self, key: ApiKey) -> SafeString:
        """Shown to who may do it; of a key that is over nothing is."""
        links = [] if key.is_over else [("rotate", "Rotate…"), ("revoke", "Revoke…")]
        found = format_html_join(
            " · ",
            '<a href="{}">{}<span class="tv-hidden"> <bdi>{}</bdi></span></a>',
            (
                (reverse(f"admin:tenants_apikey_{what}", args=[key.pk]), word, key.name)
                for what, word in links
            ),
        )
        return format_html('<span class="tv-one-line">{}</span>', found)

    # What is done with a key

    @admin.action(description="Revoke…", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        keys = self.changeable(request, queryset.filter(revoked_at=None)).order_by("environment_id", "pk")
        if request.POST.get("post"):
            for key in keys:
                self._revoke(request, key)
            return None
        return pages.rendered(
            request,
            "admin/tenants/apikey/revoke.html",
            "Revoke keys",
            opts=self.opts,
            queryset=keys,
            action="revoke",
            action_checkbox_name=admin.helpers.ACTION_CHECKBOX_NAME,
            back=reverse("admin:tenants_apikey_changelist"),
        )

    def revoke_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key_to_change(request, object_id)
        if request.method == "POST":
            self._revoke(request, key)
            return HttpResponseRedirect(_page_of(key))
        return pages.rendered(
            request,
            "admin/tenants/apikey/revoke.html",
            f"Revoke {key.name}",
            opts=self.opts,
            queryset=[key],
            back=_page_of(key),
        )

    def _revoke(self, request: HttpRequest, key: ApiKey) -> None:
        key.revoke()
        self.message_user(
            request, f"{key} is revoked, {revisions.standing(key.environment).from_when}.", messages.WARNING
        )

    def rotate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key_to_change(request, object_id)
        form = RotateForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            lasts = WHEN[form.cleaned_data["when"]].lasts
            old_ends_at = timezone.now() + lasts if lasts else None
            try:
                text = key.rotate(old_ends_at=old_ends_at, seen=form.cleaned_data["seen"])
            except ValidationError as error:
                self.message_user(request, f"Nothing was changed: {error.messages[0]}", messages.ERROR)
                return HttpResponseRedirect(_page_of(key))
            title = f"Key “{key.name}” has a new secret"
            return self._shown_once(request, key, text, title, rotated=True)
        return pages.rendered(
            request,
            "admin/tenants/apikey/rotate.html",
            f"Rotate {key.name}",
            opts=self.opts,
            key=key,
            form=form,
            choices=[
                (name, when, timezone.now() + when.lasts if when.lasts else None)
                for name, when in WHEN.items()
            ],
        )

    def end_old_secret_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key_to_change(request, object_id)
        if request.method == "POST":
            self._end_old_secret(request, key)
            return HttpResponseRedirect(_page_of(key))
        return pages.rendered(
            request,
            "admin/tenants/apikey/end_old_secret.html",
            f"End the old secret of {key.name}",
            opts=self.opts,
            key=key,
            old_secret_used=_old_secret_used(key),
            back=_page_of(key),
        )

    def _end_old_secret(self, request: HttpRequest, key: ApiKey) -> None:
        try:
            ended = key.end_old_secret(seen=request.POST.get("seen", ""))
        except ValidationError as error:
            self.message_user(request, f"Nothing was changed: {error.messages[0]}", messages.ERROR)
            return
        if ended:
            from_when = revisions.standing(key.environment).from_when
            self.message_user(
                request, f"Calls with the old secret of {key} are refused, {from_when}.", messages.WARNING
            )
        else:
            self.message_user(request, f"{key} has no old secret that works.", messages.INFO)

    def waiting_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A part of a page: whether the key's first call came. `?since=`: when waiting began."""
        key = self._key(request, object_id)
        waiting = _waiting(request, key, since=_since(request.GET.get("since", "")))
        return pages.rendered(request, "admin/tenants/apikey/waiting.html", "", waiting=waiting)

    def _shown_once(
        self, request: HttpRequest, key: ApiKey, text: str, title: str, *, rotated: bool = False
    ) -> HttpResponse:
        """The only answer that has the key's text."""
        return pages.rendered(
            request,
            "admin/tenants/apikey/shown_once.html",
            title,
            opts=self.opts,
            text=text,
            rotated=rotated,
            scope_title=scopes.title(key.scopes),
            scope_words=scopes.in_words(key.scopes),
            snippets=key_snippets.of(key, _base_url(request)),
            base_url=_base_url(request),
            key=key,
            is_new=key.last_used_at is None,
            # A rotated key may have been made long ago.
            waiting=_waiting(request, key, since=timezone.now() if rotated else None),
        )

    def _key(self, request: HttpRequest, object_id: str) -> ApiKey:
        """Raises Http404 for a key that the person may not see."""
        key: ApiKey | None = self.get_object(request, unquote(object_id))
        if key is None or not self.has_view_permission(request, key):
            raise Http404
        return key

    def _key_to_change(self, request: HttpRequest, object_id: str) -> ApiKey:
        key = self._key(request, object_id)
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        return key


def _base_url(request: HttpRequest) -> str:
    return request.build_absolute_uri("/").rstrip("/")


def _page_of(key: ApiKey) -> str:
    return reverse("admin:tenants_apikey_change", args=[key.pk])


def _begins_with(key: ApiKey) -> str:
    return f"{key.mark}_{key.key_id[:6]}…"


def _old_secret_used(key: ApiKey) -> SafeString:
    """Of a rotation before this was kept, nothing is known."""
    if key.previous_used_at is not None:
        return format_html("last used {}", display.moment(key.previous_used_at))
    is_kept = key.secret_end != ""
    return SafeString("not used since the rotation" if is_kept else "when it was last used is not known")


def _standing(key: ApiKey) -> tuple[str, str]:
    """As `state` takes it."""
    if key.revoked_at is not None:
        return State.BLOCKED, "Revoked"
    if key.is_over:
        return State.BLOCKED, "Expired"
    if key.old_secret_works:
        return State.NEAR, "Two secrets"
    return (State.ALLOWED, "In use") if key.last_used_at is not None else (State.QUIET, "Never used")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """For the first call of a key. `since`: when its own page was opened, or it was rotated; None: it was just made."""

    key: ApiKey
    refusal: LastRefusal | None
    used_at: datetime | None
    gave_up: bool
    since: datetime | None
    base_url: str

    @property
    def url(self) -> str:
        """Where this is asked again."""
        query = None if self.since is None else {"since": int(self.since.timestamp())}
        return reverse("admin:tenants_apikey_waiting", args=[self.key.pk], query=query)


def _waiting(request: HttpRequest, key: ApiKey, *, since: datetime | None = None) -> Waiting:
    refusal = refusals.last(key.environment_id, key.pk)
    used = key.last_used_at
    # A call that may not do what it asks is noted as a use of the key, too.
    refused = refusal is not None and (used is None or used - refusal.at < timedelta(seconds=1))
    return Waiting(
        key=key,
        refusal=refusal if refused else None,
        used_at=None if refused else used,
        gave_up=timezone.now() - (since or key.created_at) > WAITED_MAX,
        since=since,
        base_url=_base_url(request),
    )


def _since(text: str) -> datetime | None:
    """Of an address that anybody can type. Not in the future: waiting would not end."""
    if not text.isdecimal() or len(text) > SECONDS_DIGITS_MAX:
        return None
    return min(datetime.fromtimestamp(int(text), UTC), timezone.now())
