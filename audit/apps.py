from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "audit"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit import checks  # noqa: F401 (registers itself)
        from audit.log import register_action

        register_action("audit.sealed", "Chain sealed with a key", "sealed the chain of {name}")
