from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "usage"

    def ready(self) -> None:
        from audit.log import register_action
        from usage.counting.store import store
        from usage.settling import charging

        store.catch_up = charging.catch_up
        store.restarted = charging.catch_up_after_restart
        register_action("price.added", "Price added")
        register_action("price.changed", "Price changed")
