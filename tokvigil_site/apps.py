from django.apps import AppConfig
from django.contrib import admin


class TokvigilSiteConfig(AppConfig):
    name = "tokvigil_site"
    verbose_name = "TokVigil"

    def ready(self) -> None:
        admin.site.site_header = admin.site.site_title = "TokVigil"
        admin.site.index_title = "Policies, usage and keys"
        # There is no other site to view: `/` leads here.
        admin.site.site_url = None
