from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        from django.core.checks import register

        from audit.chain import require_chains
        from audit.log import register_action
        from tenants import (
            accounts,  # noqa: F401 (holds a model)
            audited,
        )
        from tenants.checks import check_proxies
        from tenants.models import Tenant

        register(check_proxies)
        register_action("tenant.created", "Tenant created", audited.tenant_created)
        register_action("tenant.changed", "Tenant changed")
        register_action("environment.created", "Environment created", audited.environment_created)
        register_action("environment.changed", "Environment changed", audited.environment_changed)
        register_action("environment.frozen", "Frozen", audited.freezing)
        register_action("environment.unfrozen", "Unfrozen", audited.freezing)
        register_action("api_key.issued", "API key issued", audited.key_issued)
        register_action("api_key.changed", "API key changed", audited.key_changed)
        register_action("api_key.rotated", "API key rotated", audited.key_rotated)
        register_action("api_key.old_secret_ended", "API key: old secret ended", audited.old_secret_ended)
        register_action("api_key.revoked", "API key revoked", audited.key_revoked)
        register_action("membership.added", "Membership added", "made {member} a member, as {role}")
        register_action("membership.changed", "Membership changed", audited.role_changed)
        register_action(
            "membership.invited_again", "Invitation renewed", "renewed the invitation of {member}"
        )
        register_action(
            "membership.removed", "Membership removed", "removed the member {member}, who was {role}"
        )
        register_action("user.added", "User added", audited.user_added)
        register_action("user.changed", "User changed")
        register_action("user.password_changed", "User's password changed", audited.password_changed)
        register_action("user.deleted", "User deleted", audited.user_deleted)
        register_action("sign_in.succeeded", "Signed in", "signed in")
        register_action("sign_in.ended", "Signed out", "signed out")
        register_action("sign_in.failed", "Sign-in failed", "failed to sign in as {name}")
        register_action("audit.exported", "Audit log exported", audited.log_exported)
        register_action("group.added", "Group added", audited.group_added)
        register_action("group.changed", "Group changed")
        register_action("group.deleted", "Group deleted")
        require_chains(lambda: Tenant.objects.values_list("pk", flat=True), first_action="tenant.created")
