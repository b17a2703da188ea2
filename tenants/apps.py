from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        from django.core.checks import register

        from audit.chain import require_chains
        from audit.log import register_action
        from tenants import accounts  # noqa: F401 (holds a model)
        from tenants.checks import check_proxies
        from tenants.models import Tenant

        register(check_proxies)
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
        register_action("user.added", "User added")
        register_action("user.changed", "User changed")
        register_action("user.password_changed", "User's password changed")
        register_action("user.deleted", "User deleted")
        register_action("group.added", "Group added")
        register_action("group.changed", "Group changed")
        register_action("group.deleted", "Group deleted")
        require_chains(lambda: Tenant.objects.values_list("pk", flat=True), first_action="tenant.created")
