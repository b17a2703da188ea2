from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "usage"

    def ready(self) -> None:
        from usage import charging
        from usage.counter_store import store

        store.catch_up = charging.catch_up
