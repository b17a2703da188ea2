from django.apps import AppConfig


class UsageConfig(AppConfig):
    name = "usage"

    def ready(self) -> None:
        from audit.log import register_action

        register_action("price.added", "Price added")
        register_action("price.changed", "Price changed")
        register_action("price.loaded", "Shared prices loaded", "loaded the shared prices of {name}")
        register_action(
            "counters.rebuilt", "Counters rebuilt", "had the counters of {name} rebuilt from the ledger"
        )
        register_action("ledger.detached", "Month of the ledger detached", "detached {name} from the ledger")
        register_action("usage.exported", "Usage exported", "exported {file} of {name}")
        register_action("view.saved", "View saved", "saved the view {name}")
        register_action("view.changed", "View changed", "changed the view {name}")
        register_action("view.deleted", "View deleted", "deleted the view {name}")
