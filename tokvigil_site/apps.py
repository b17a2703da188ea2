from django.apps import AppConfig
from django.contrib.admin import apps


class TokvigilSiteConfig(AppConfig):
    name = "tokvigil_site"
    verbose_name = "TokVigil"


class TokvigilAdminConfig(apps.AdminConfig):
    """Django's admin with this project's site, for INSTALLED_APPS."""

    default = False  # of this module
    default_site = "tokvigil_site.console.site.TokvigilAdminSite"
