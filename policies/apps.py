from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    name = "policies"

    def ready(self) -> None:
        from audit.log import register_action
        from policies import end_users
        from policies.describing import audited
        from usage.settling import stored_plans

        stored_plans.register(end_users.plans_of)
        register_action("policy.added", "Policy added", audited.policy_added)
        register_action("policy.changed", "Policy changed", audited.policy_changed)
        register_action("policy.archived", "Policy archived", audited.policy_archived)
        register_action("policy.rolled_back", "Policy rolled back", audited.policy_rolled_back)
        register_action("alert_rule.added", "Alert rule added", audited.rule_added)
        register_action("alert_rule.changed", "Alert rule changed", audited.rule_changed)
        register_action("alert_rule.removed", "Alert rule removed", "removed the alert rule {name}")
        register_action(
            "alert_endpoint.added",
            "Alert endpoint added",
            audited.endpoint_added,
        )
        register_action("alert_endpoint.changed", "Alert endpoint changed", audited.endpoint_changed)
        register_action(
            "alert_endpoint.removed", "Alert endpoint removed", "removed the alert endpoint {name}"
        )
        register_action(
            "alert_endpoint.rotated",
            "Alert endpoint rotated",
            audited.endpoint_rotated,
        )
        register_action(
            "alert_endpoint.tested", "Alert endpoint tested", "sent a test to the alert endpoint {name}"
        )
        register_action(
            "alert.redelivered", "Alert redelivered", "had the alert “{name}” sent to {place} again"
        )
        register_action("plan.added", "Plan added")
        register_action("plan.removed", "Plan removed")
        register_action(
            "deployment.added", "Deployment added", "named the model {model} by the deployment {name}"
        )
        register_action(
            "deployment.changed", "Deployment changed", "put the model {model} behind the deployment {name}"
        )
        register_action(
            "deployment.removed", "Deployment removed", "removed the deployment {name} of {model}"
        )
        register_action("caller.kept", "Caller kept for Try it", audited.caller_kept)
        register_action("caller.dropped", "Caller of Try it dropped", audited.caller_dropped)
        register_action("draft.begun", "Draft begun", "began the draft {name}")
        register_action("draft.changed", "Draft changed", "changed the draft {name}")
        register_action("draft.discarded", "Draft discarded", "discarded the draft {name}")
        register_action("draft.published", "Draft published", audited.draft_published)
        register_action("replay.asked", "Replay asked", audited.replay_asked)
        register_action("replay.cancelled", "Replay cancelled", audited.replay_cancelled)
        register_action("usage.repriced", "Re-pricing begun", audited.usage_repriced)
        register_action("month.closed", "Month closed", audited.month_closed)
        register_action("end_user.changed", "End user changed", audited.end_user_changed)
        register_action("end_user.removed", "End user removed", audited.end_user_removed)
        register_action("boost.given", "Boost given", audited.boost_given)
        register_action("boost.ended", "Boost ended before its time", audited.boost_ended)
