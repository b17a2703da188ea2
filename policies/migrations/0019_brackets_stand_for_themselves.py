"""Model lists: `[` was the beginning of a class of characters (`gpt-[45]*`) and stands for itself from now on.

What lists in force say with a class they say with one line for each character, as the policy's next version. The line
itself stays: it may have meant a name with brackets. Of `[!4]` a deny list makes `?`, which denies more, and an allow
list nothing, which allows less. Older versions keep their words.
"""

import re
from itertools import product
from math import prod

from django.db import migrations

PATTERNS_MAX = 100
CLASS = re.compile(r"\[(!?\]?[^\]]*)\]")
RANGE = re.compile(r"(.)-(.)|(.)", re.DOTALL)
NOTE = "Brackets in model lists stand for themselves; what a class of characters said is said in lines."


def in_lines(pattern, *, denies):
    """The pattern, and what it says without classes; of a class with too much in it what `[!4]` says."""
    # Every second part is what stood in brackets.
    texts, classes = CLASS.split(pattern)[::2], CLASS.split(pattern)[1::2]
    if not classes:
        return [pattern]
    choices = [_characters(inside) for inside in classes]
    if not all(choices) or prod(map(len, choices)) > PATTERNS_MAX:
        choices = [["?"] if denies else [] for _ in classes]
    lines = [
        texts[0] + "".join(character + text for character, text in zip(chosen, texts[1:], strict=True))
        for chosen in product(*choices)
    ]
    return list(dict.fromkeys([pattern, *lines]))


def _characters(inside):
    """None of what is said by what it is not, of what is wild without brackets, and of a range of very many."""
    if inside.startswith("!"):
        return []
    found = []
    for first, last, single in RANGE.findall(inside):
        if not single and ord(last) - ord(first) > PATTERNS_MAX:
            return []
        found += [single] if single else [chr(code) for code in range(ord(first), ord(last) + 1)]
    return [] if {"*", "?"} & set(found) else list(dict.fromkeys(found))


def say_classes_in_lines(apps, schema_editor):
    """Running it again changes nothing."""
    policies = apps.get_model("policies", "Policy").objects.filter(archived_at=None)
    versions = apps.get_model("policies", "PolicyVersion").objects
    for policy in policies.iterator():
        allow = _without_classes(policy.models_allow, denies=False)
        deny = _without_classes(policy.models_deny, denies=True)
        if (allow, deny) == (policy.models_allow, policy.models_deny):
            continue
        document = versions.get(policy=policy, version=policy.version).document
        models = {name: names for name, names in (("allow", allow), ("deny", deny)) if names}
        policy.models_allow, policy.models_deny, policy.version = allow, deny, policy.version + 1
        policy.save(update_fields=["models_allow", "models_deny", "version"])
        versions.create(
            policy=policy,
            version=policy.version,
            document={**document, "models": models},
            actor="migration",
            note=NOTE,
        )


def _without_classes(patterns, *, denies):
    lines = [line for pattern in patterns for line in in_lines(pattern, denies=denies)]
    lines = list(dict.fromkeys(lines))
    # More than a list may have: it stays as it is, and its brackets stand for themselves.
    return lines if len(lines) <= PATTERNS_MAX else patterns


class Migration(migrations.Migration):
    dependencies = [("policies", "0018_blocked_call")]

    operations = [migrations.RunPython(say_classes_in_lines, migrations.RunPython.noop)]
