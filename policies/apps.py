from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    name = "policies"

    def ready(self) -> None:
        from audit.log import register_action
        from policies import end_users
        from usage.settling import stored_plans

        stored_plans.register(end_users.plans_of)
        register_action("policy.added", "Policy added", "published the new policy {name}")
        register_action("policy.changed", "Policy changed", "published {name} as version {version}")
        register_action("policy.archived", "Policy archived")
        register_action("policy.rolled_back", "Policy rolled back")
        register_action("alert_rule.added", "Alert rule added", "added the alert rule {name}")
        register_action("alert_rule.changed", "Alert rule changed", "changed the alert rule {name}")
        register_action("alert_rule.removed", "Alert rule removed", "removed the alert rule {name}")
        register_action(
            "alert_endpoint.added",
            "Alert endpoint added",
            "added the alert endpoint {name}, which goes to {place}",
        )
        register_action(
            "alert_endpoint.changed", "Alert endpoint changed", "changed the alert endpoint {name}"
        )
        register_action(
            "alert_endpoint.removed", "Alert endpoint removed", "removed the alert endpoint {name}"
        )
        register_action(
            "alert_endpoint.rotated",
            "Alert endpoint rotated",
            "rotated the signing secret of the alert endpoint {name}",
        )
        register_action(
            "alert_endpoint.tested", "Alert endpoint tested", "sent a test to the alert endpoint {name}"
        )
        register_action(
            "alert.redelivered", "Alert redelivered", "had the alert “{name}” sent to {place} again"
        )
        register_action("plan.added", "Plan added")
        register_action("plan.removed", "Plan removed")
        register_action("caller.kept", "Caller kept for Try it", "kept the caller {name} for Try it")
        register_action("caller.dropped", "Caller of Try it dropped", "dropped the caller {name} of Try it")
        register_action("draft.begun", "Draft begun", "began the draft {name}")
        register_action("draft.changed", "Draft changed", "changed the draft {name}")
        register_action("draft.discarded", "Draft discarded", "discarded the draft {name}")
        register_action("draft.published", "Draft published", "published the draft {name}")
        register_action("replay.asked", "Replay asked", "asked what {name} would have decided")
        register_action("replay.cancelled", "Replay cancelled", "cancelled the replay of {name}")
        register_action("month.closed", "Month closed", "closed {month} of {name}")
        register_action("end_user.changed", "End user changed")
        register_action("end_user.removed", "End user removed")
        register_action("boost.given", "Boost given", "gave the boost {name}")
        register_action("boost.ended", "Boost ended before its time", "ended the boost {name}")
