import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import import_modules
from django.conf import settings

from tokvigil_site import unreachable
from tokvigil_site.embedded import files

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")

app = Celery("tokvigil_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tokvigil_site"])


def _prepare(**_: Any) -> None:
    unreachable.require_a_database()
    # Beat keeps its schedule there.
    files.make_folder(Path(settings.TOKVIGIL_HOME))


# The first that worker and beat do; nobody else imports the tasks so. Celery keeps no other reference to the function.
import_modules.connect(_prepare, weak=False)
