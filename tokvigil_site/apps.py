from django.apps import AppConfig


class TokvigilSiteConfig(AppConfig):
    name = "tokvigil_site"
    verbose_name = "TokVigil"
