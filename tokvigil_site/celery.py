import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")

app = Celery("tokvigil_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tokvigil_site"])
