"""The console's pages of tenants, environments, keys, people and the audit log. Django finds them by importing this."""

from django.contrib import admin
from django.contrib.auth.models import Group, User

from tenants.admin.accounts import AccountAdmin, GroupAdmin
from tenants.admin.api_keys import ApiKeyAdmin
from tenants.admin.audit_log import EntryAdmin
from tenants.admin.environments import EnvironmentAdmin
from tenants.admin.members import MembershipAdmin
from tenants.admin.tenants import TenantAdmin

__all__ = ["ApiKeyAdmin", "EntryAdmin", "EnvironmentAdmin", "MembershipAdmin", "TenantAdmin"]

# Django's own pages of them leave no audit entries.
admin.site.unregister([User, Group])
admin.site.register(User, AccountAdmin)
admin.site.register(Group, GroupAdmin)
