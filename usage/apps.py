from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "usage"

    def ready(self) -> None:
        from audit.log import register_action
        from usage import audited

        register_action("price.added", "Price added", audited.price_added)
        register_action("price.changed", "Price changed", audited.price_changed)
        register_action("price.loaded", "Shared prices loaded", audited.prices_loaded)
        register_action(
            "counters.rebuilt", "Counters rebuilt", "had the counters of {name} rebuilt from the ledger"
        )
        register_action("ledger.detached", "Month of the ledger detached", audited.month_detached)
        register_action("usage.exported", "Usage exported", audited.usage_exported)
        register_action("view.saved", "View saved", audited.view_saved)
        register_action("view.changed", "View changed", audited.view_changed)
        register_action("view.deleted", "View deleted", audited.view_deleted)
