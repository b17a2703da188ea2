"""All settings, from environment variables only (each also as NAME_FILE). See docs/configuration.md."""

from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from redis.backoff import NoBackoff
from redis.retry import Retry

from tokvigil_site import environment, launch
from tokvigil_site.embedded.stack import owner_url
from usage.timebox.patience import Patience

BASE_DIR = Path(__file__).resolve().parent.parent
TOKVIGIL_HOME = Path(environment.read("TOKVIGIL_HOME", str(BASE_DIR / ".tokvigil"))).absolute()

DEBUG = environment.read("DEBUG", "false").lower() in {"1", "true", "yes", "on"}
SECRET_KEY = environment.secret("SECRET_KEY", home=TOKVIGIL_HOME, debug=DEBUG)
ALLOWED_HOSTS = environment.read("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")
CSRF_TRUSTED_ORIGINS = [origin for origin in environment.read("CSRF_TRUSTED_ORIGINS").split(",") if origin]
# Whose word is taken for where a call comes from, and the header in which they say it (tenants/api/addresses.py).
TRUSTED_PROXIES = [
    network.strip() for network in environment.read("TRUSTED_PROXIES").split(",") if network.strip()
]
CLIENT_ADDRESS_HEADER = environment.read("CLIENT_ADDRESS_HEADER", "X-Forwarded-For")

INSTALLED_APPS = [
    "audit",
    "tenants",
    "usage",
    "policies",
    "tokvigil_site",
    # Before Django's own admin, whose templates it dresses.
    "unfold.apps.BasicAppConfig",
    "tokvigil_site.apps.TokvigilAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]

MIDDLEWARE = [
    "tokvigil_site.request_ids.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "tokvigil_site.content_policy.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "tokvigil_site.pages.PagesCommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# Whoever signs in without being on the way to a page, or on the way to one of another site.
LOGIN_REDIRECT_URL = "admin:index"
LOGIN_URL = "admin:login"

ROOT_URLCONF = "tokvigil_site.urls"
WSGI_APPLICATION = "tokvigil_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# The ledger and the counter store: named, or the embedded ones that `manage.py up` runs.
_database_url = environment.read("DATABASE_URL")
_owner_url = environment.read("MIGRATION_DATABASE_URL")
_redis_url = environment.read("REDIS_URL")
if not (_database_url and _redis_url):
    _running = launch.server_urls(TOKVIGIL_HOME)
    if _running:
        if not _database_url:
            _owner_url = _owner_url or owner_url(TOKVIGIL_HOME) or ""
        _database_url = _database_url or _running[0]
        _redis_url = _redis_url or _running[1]

# Without either, there may still be one where PostgreSQL listens by default.
DATABASE_IS_NAMED = bool(_database_url)
DATABASES = {
    "default": environ.Env.db_url_config(_database_url or "postgres://tokvigil@127.0.0.1:5432/tokvigil")
}
if not DATABASES["default"]["ENGINE"].endswith("postgresql"):
    raise ImproperlyConfigured(
        "DATABASE_URL must name a PostgreSQL database (postgres://user:password@host/name)."
    )
DATABASES["default"] |= {
    "ENGINE": "usage.timebox.postgres",
    "OPTIONS": {
        "connect_timeout": 2,
        # A server whose machine is gone is found out after 20 s at most, also while it owes an answer.
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        **DATABASES["default"].get("OPTIONS", {}),
    },
}
# The same database as the role that owns the tables, for migrations alone (audit/roles.py).
_LOGIN = ("USER", "PASSWORD", "HOST", "PORT")
DATABASE_APPLICATION = {name: DATABASES["default"][name] for name in _LOGIN}
DATABASE_OWNER = None
if _owner_url:
    DATABASE_OWNER = {name: environ.Env.db_url_config(_owner_url)[name] for name in _LOGIN}
# A web process, as wsgi.py makes it known, answers callers who wait; commands and the worker take their time.
POSTGRES_PATIENCE = (
    Patience(statement_s=float(environment.read("DATABASE_STATEMENT_TIMEOUT_S", "5")), lock_s=1, idle_s=30)
    if environment.read("TOKVIGIL_PROCESS") == "web"
    else Patience(
        statement_s=float(environment.read("DATABASE_COMMAND_TIMEOUT_S", "3600")), lock_s=60, idle_s=600
    )
)
# Of threads that do what callers could not wait for.
BACKGROUND_PATIENCE = Patience(statement_s=60, lock_s=30, idle_s=30)
# What an evaluate waits for PostgreSQL, all in all: for what this process does not know yet. Then it decides without.
EVALUATE_WAIT_S = float(environment.read("EVALUATE_WAIT_S", "0.25"))
# What any other call of the API does. Half of it is more than a web process waits for a lock (ledger/writing.py).
API_WAIT_S = 3.0
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = _redis_url or "redis://127.0.0.1:6379/0"
# Slow counts as down: a call to the counter store that takes longer fails, and the policy's on_unavailable answers.
COUNTER_STORE_TIMEOUT_S = 0.1
CACHES = {
    # The counter store is no cache: django-redis lends its connection pool (usage/counting/store.py).
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "counters": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": COUNTER_STORE_TIMEOUT_S,
            "SOCKET_TIMEOUT": COUNTER_STORE_TIMEOUT_S,
            # One try inside the time box; a retry would double it.
            "CONNECTION_POOL_KWARGS": {"retry": Retry(NoBackoff(), 0), "max_connections": 64},
        },
    },
}

# `id:value` pairs, the current one first, so that a pepper can be replaced while old keys still work.
API_KEY_PEPPERS = environment.keyed_secrets(
    "API_KEY_PEPPER", environment.secret("API_KEY_PEPPER", home=TOKVIGIL_HOME, debug=DEBUG)
)

# The same for the keys of the audit log: entries under a key that is no longer here cannot be verified.
AUDIT_KEYS = environment.keyed_secrets(
    "AUDIT_KEY", environment.secret("AUDIT_KEY", home=TOKVIGIL_HOME, debug=DEBUG)
)

# A month of blocked decisions is deleted when its last day is this long ago.
BLOCKED_DECISIONS_KEPT_DAYS = environment.whole("BLOCKED_DECISIONS_KEPT_DAYS", default=90, least=1)
# For how many months before the current one the ledger keeps its rows; 0: for ever. Their sums stay in any case.
USAGE_KEPT_MONTHS = environment.whole("USAGE_KEPT_MONTHS", default=0, least=0)

# smtp://user:password@host:25, smtp+tls://host:587, smtp+ssl://host:465. Without it no e-mail is sent.
_email_url = environment.read("EMAIL_URL")
EMAIL_IS_SET = bool(_email_url)
_EMAIL = environ.Env.email_url_config(_email_url or "dummymail://")
EMAIL_BACKEND = _EMAIL["EMAIL_BACKEND"]
EMAIL_HOST, EMAIL_PORT = _EMAIL["EMAIL_HOST"] or "localhost", _EMAIL["EMAIL_PORT"] or 25
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _EMAIL["EMAIL_HOST_USER"] or "", _EMAIL["EMAIL_HOST_PASSWORD"] or ""
EMAIL_USE_TLS, EMAIL_USE_SSL = _EMAIL.get("EMAIL_USE_TLS", False), _EMAIL.get("EMAIL_USE_SSL", False)
EMAIL_FILE_PATH = _EMAIL["EMAIL_FILE_PATH"]
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = environment.read("EMAIL_FROM", "tokvigil@localhost")
# Where people open the console, for links in alerts.
CONSOLE_URL = environment.read("CONSOLE_URL")
# Webhooks that may lead into the private network: hosts, or hosts with their port (policies/alerting/targets.py).
ALERT_PRIVATE_TARGETS = [
    target.strip() for target in environment.read("ALERT_PRIVATE_TARGETS").split(",") if target.strip()
]

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
# However long the broker is away, and also while it is there but read-only (a fail-over makes a primary a replica for a
# moment): worker and beat wait for it.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_TIMEZONE = "UTC"
# name -> (task, period in seconds). One that could not start within its period is dropped: the next does its work.
_PERIODIC_TASKS = {
    "publish-revisions": ("tokvigil_site.tasks.publish_revisions", 10),
    "settle-expired": ("tokvigil_site.tasks.settle_expired", 10),
    "drain-decisions": ("tokvigil_site.tasks.drain_decisions", 5),
    "partition-usage": ("tokvigil_site.tasks.partition_usage", 6 * 3600),
    "run-replays": ("tokvigil_site.tasks.run_replays", 2),
    "rollup-usage": ("tokvigil_site.tasks.rollup_usage", 60),
    "watch-alerts": ("tokvigil_site.tasks.watch_alerts", 60),
    "watch-counters": ("tokvigil_site.tasks.watch_counters", 600),
    "deliver-alerts": ("tokvigil_site.tasks.deliver_alerts", 5),
    "close-months": ("tokvigil_site.tasks.close_months", 6 * 3600),
}
CELERY_BEAT_SCHEDULE = {
    name: {"task": task, "schedule": period_s, "options": {"expires": period_s * 0.9}}
    for name, (task, period_s) in _PERIODIC_TASKS.items()
}
CELERY_BEAT_SCHEDULE_FILENAME = str(TOKVIGIL_HOME / "celerybeat-schedule")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tenants.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.api.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["tenants.api.http.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["tenants.api.http.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "tenants.api.problems.answer",
    # OPTIONS is refused as any other verb: the OpenAPI document describes the API.
    "DEFAULT_METADATA_CLASS": None,
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "TokVigil",
    "DESCRIPTION": "Ask before each AI call, report after it. 1 AI request = 1 evaluate + 1 usage.",
    "VERSION": "1",
    # In 3.1 schemas are JSON Schema, which is what msgspec writes of the Structs.
    "OAS_VERSION": "3.1.0",
    "POSTPROCESSING_HOOKS": [],
    "SERVERS": [{"url": "/", "description": "This installation"}],
    # In the order in which a reader needs them.
    "TAGS": [
        {
            "name": "evaluate",
            "description": "Before each AI call: may it be made, and what do the limits leave?",
        },
        {
            "name": "usage",
            "description": "After each AI call: what it used. Later: what was used, and what blocked.",
        },
        {"name": "policies", "description": "The rules in force, and how they are published."},
        {"name": "plans", "description": "What end users can buy."},
        {"name": "deployments", "description": "Names of your own for models."},
        {"name": "boosts", "description": "Extra allowance for a time, on top of limits."},
        {
            "name": "freeze",
            "description": "The emergency brake: it blocks every call, or those of some features.",
        },
        {"name": "prices", "description": "What models cost."},
        {"name": "end users", "description": "Their plans, and who is blocked."},
        {"name": "API keys", "description": "Made, whose text is answered once, rotated and revoked."},
        {"name": "account", "description": "Who the key belongs to."},
    ],
    # Named by tenants/api/openapi.py.
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "apiKey": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key: tv_<env>_<id>_<secret>",
            }
        }
    },
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# Of people who sign in to the console. Pages where one is chosen say them.
AUTH_PASSWORD_VALIDATORS: list[dict[str, object]] = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
FORMAT_MODULE_PATH = "tokvigil_site.formats"
USE_TZ = True
STATIC_URL = "static/"
# Without a collectstatic step the files are served from the apps: `manage.py up` needs no build.
STATIC_ROOT = environment.read("STATIC_ROOT") or None
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# How the console looks; where its pages are: tokvigil_site/console/navigation.py.
UNFOLD = {
    "SITE_TITLE": "TokVigil",
    "SITE_HEADER": "TokVigil",
    # There is no other site: no page offers to return to one.
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("tokvigil/icon.svg")}],
    "STYLES": [
        lambda request: static("tokvigil/console.css"),
        lambda request: static("tokvigil/parts.css"),
        lambda request: static("tokvigil/policies.css"),
        lambda request: static("tokvigil/audit.css"),
        lambda request: static("tokvigil/end_user.css"),
        lambda request: static("tokvigil/access.css"),
        lambda request: static("tokvigil/publishing.css"),
        lambda request: static("tokvigil/replay.css"),
        lambda request: static("tokvigil/search.css"),
        lambda request: static("tokvigil/alerts.css"),
        lambda request: static("tokvigil/report.css"),
    ],
    "SCRIPTS": [
        lambda request: static("tokvigil/search.js"),
        lambda request: static("tokvigil/once.js"),
        lambda request: static("tokvigil/first_error.js"),
        lambda request: static("tokvigil/questions.js"),
        lambda request: static("tokvigil/scrolls.js"),
    ],
    "COLORS": {
        "primary": {
            "50": "#f0f8fd", "100": "#dceefa", "200": "#bbdff5", "300": "#8ccaee", "400": "#57b0e3", "500": "#38a0dc",
            "600": "#0b6aa5", "700": "#0a5686", "800": "#0c486f", "900": "#103d5c", "950": "#0b273d",
        }
    },
}  # fmt: skip

# PostgreSQL refuses what does not fit; these are only Django's own guards for admin forms.
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
SESSION_COOKIE_HTTPONLY = True
# The console is reached by https alone, which a proxy in front says in the header. Without it cookies work by http too,
# as on the machine of whoever tries it out.
HTTPS = environment.read("HTTPS", "false").lower() in {"1", "true", "yes", "on"}
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
# Of answers that load nothing; pages have policies of their own.
SECURE_CSP = {"default-src": ["'none'"], "base-uri": ["'none'"], "frame-ancestors": ["'none'"]}
X_FRAME_OPTIONS = "DENY"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "tokvigil": {"level": environment.read("LOG_LEVEL", "WARNING")},
        # That a caller sent a bad request is the caller's to know.
        "django.request": {"level": "ERROR"},
    },
}
