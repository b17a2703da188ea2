"""The versions of policies, read only."""

from __future__ import annotations

from django.contrib import admin

from policies import rules
from policies.files import documents, policy_file
from policies.models import PolicyVersion
from tenants.console import display
from tenants.console.rows import ReadOnlyEnvironmentAdmin
from tenants.models import Environment


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ReadOnlyEnvironmentAdmin):
    # PolicyAdmin links here.
    linked_lookups = ("policy",)
    tenant_lookup = "policy__environment__tenant_id"
    environment_lookup = "policy__environment"
    list_display = ["policy", "version", "actor", "created_at"]
    list_select_related = ["policy__environment__tenant"]
    search_fields = ["policy__name", "actor"]
    fields = ["policy", "version", "actor", "created_at", "change", "text"]

    readonly_fields = ["change", "text"]

    def tenant_id_of(self, obj: PolicyVersion) -> int:
        return obj.policy.environment.tenant_id

    def environment_of(self, obj: PolicyVersion) -> Environment:
        return obj.policy.environment

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
