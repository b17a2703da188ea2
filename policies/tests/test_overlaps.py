"""How a policy stands to the others: as the index of policies resolves them."""

from __future__ import annotations

from itertools import product

from policies.describing.overlaps import Relation, overlaps
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Kind, Mode, PolicyRule, Scope
from usage.assessment import PolicyRef

SCOPES = [
    Scope(user=u, feature=f, plan=p) for u, f, p in product(("", "ann"), ("", "chat"), ("", "free", "pro"))
]


def stored(ordinal: int, scope: Scope, kind: Kind = Kind.OVERRIDE, mode: Mode = Mode.ENFORCE) -> StoredPolicy:
    rule = PolicyRule(name=f"p{ordinal}", scope=scope, kind=kind, mode=mode)
    ref = PolicyRef(id=str(ordinal), name=rule.name, version=1, scope=scope.label)
    return StoredPolicy(ref=ref, ordinal=ordinal, rule=rule)


def test_what_goes_before_it_wins_wherever_both_match() -> None:
    policies = [stored(number, scope) for number, scope in enumerate(SCOPES * 2)]
    for one, other in product(policies, policies):
        found = overlaps(one, [other])
        if one is other:
            assert found == []
            continue
        a, b = one.rule.scope, other.rule.scope
        caller = {name: getattr(a, name) or getattr(b, name) for name in ("user", "feature", "plan")}
        candidates = PolicyIndex([one, other]).explain(**caller)
        if len(candidates) < 2:
            assert found == [], (a, b)
        else:
            expected = Relation.GOES_BEFORE if candidates[0].policy is other else Relation.STANDS_BACK
            assert [each.relation for each in found] == [expected], (a, b)


def test_guardrails_apply_as_well_and_what_is_off_does_not() -> None:
    mine = stored(1, Scope(plan="free"))
    rail, off = stored(2, Scope(), Kind.GUARDRAIL), stored(3, Scope(), mode=Mode.OFF)
    assert [each.relation for each in overlaps(mine, [rail, off])] == [Relation.AS_WELL]
    assert [each.relation for each in overlaps(rail, [mine])] == [Relation.AS_WELL]
