"""The versions of policies, read only."""

from __future__ import annotations

from django.contrib import admin

from policies import documents, policy_file, rules
from policies.models import PolicyVersion
from tenants.console import display
from tenants.console.rows import ReadOnlyAdmin


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ReadOnlyAdmin):
    # PolicyAdmin links here.
    linked_lookups = ("policy",)
    tenant_lookup = "policy__environment__tenant_id"
    list_display = ["policy", "environment", "version", "actor", "created_at"]
    list_select_related = ["policy__environment__tenant"]
    search_fields = ["policy__name", "actor"]
    fields = ["policy", "environment", "version", "actor", "created_at", "change", "text"]

    def tenant_id_of(self, obj: PolicyVersion) -> int:
        return obj.policy.environment.tenant_id

    readonly_fields = ["environment", "change", "text"]

    @admin.display(description="environment", ordering="policy__environment")
    def environment(self, version: PolicyVersion) -> str:
        return str(version.policy.environment)

    @admin.display(description="policy")
    def text(self, version: PolicyVersion) -> str:
        rule = _rule(version)
        lines = ["(archived)"] if rule is None else [line[1:] for line in policy_file.diff(None, rule)[1:]]
        return display.block_of_lines("\n".join(lines))

    @admin.display(description="change")
    def change(self, version: PolicyVersion) -> str:
        before = PolicyVersion.objects.filter(policy=version.policy_id, version=version.version - 1).first()
        lines = policy_file.diff(None if before is None else _rule(before), _rule(version))
        return display.block_of_lines("\n".join(lines))


def _rule(version: PolicyVersion) -> rules.PolicyRule | None:
    return None if version.document is None else documents.rule_of(version.document)
