import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
# Callers wait for this process: it is less patient with PostgreSQL (settings.POSTGRES_PATIENCE).
os.environ["TOKVIGIL_PROCESS"] = "web"
django.setup(set_prefix=False)

from tokvigil_site import watching  # noqa: E402 (Django must be set up first)
from tokvigil_site.handlers import Application  # noqa: E402
from tokvigil_site.warming import warm_up  # noqa: E402

warm_up()
application = Application()
# What is loaded by now stays: a full collection that walks it, too, would hold up every call for its time.
gc.collect()
gc.freeze()
watching.start()
