from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        from audit.log import register_action

        register_action("tenant.created", "Tenant created")
        register_action("tenant.changed", "Tenant changed")
        register_action("environment.created", "Environment created")
        register_action("environment.changed", "Environment changed")
        register_action("environment.frozen", "Environment frozen")
        register_action("environment.unfrozen", "Environment unfrozen")
        register_action("api_key.issued", "API key issued")
        register_action("api_key.changed", "API key changed")
        register_action("api_key.revoked", "API key revoked")
        register_action("membership.added", "Membership added")
        register_action("membership.changed", "Membership changed")
        register_action("membership.removed", "Membership removed")
