import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
django.setup(set_prefix=False)

from tokvigil_site import watching  # noqa: E402 (Django must be set up first)
from tokvigil_site.handlers import Application  # noqa: E402

application = Application()
# What is loaded by now stays: a full collection that walks it, too, would hold up every call for its time.
gc.collect()
gc.freeze()
watching.start()
