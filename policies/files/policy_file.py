"""The policy file: text to a PolicySet and back; what changed between two policies.

All that is wrong with a file is found in one go; each error names its place and how to correct it.
"""

from __future__ import annotations

import difflib
from typing import Any

import yaml

from policies.files.documents import VERSION, document, policy_set_of, rule_of
from policies.files.file_errors import FileError, raise_any, refused
from policies.files.strict_yaml import FLOAT, compose
from policies.rules import (
    PolicyRule,
    PolicySet,
)


def parse(text: str) -> PolicySet:
    """What a policy file says. Raises PolicyFileError with all errors, at most ERRORS_MAX."""
    errors: list[FileError] = []
    found = policy_set_of(compose(text, errors), errors)
    raise_any(errors)
    return found


def dump(policy_set: PolicySet) -> str:
    """The file that `parse` reads back as the same set."""
    deployments = policy_set.deployments
    return _yaml(
        {
            "version": VERSION,
            "plans": _Flow(policy_set.plans),
            **({} if deployments is None else {"deployments": dict(deployments)}),
            "policies": [_laid_out(rule) for rule in policy_set.policies],
        }
    )


def parse_one(text: str) -> PolicyRule:
    """The policy that `dump_one` wrote. Raises PolicyFileError."""
    errors: list[FileError] = []
    found = compose(text, errors)
    raise_any(errors)
    if not isinstance(found, dict):
        raise refused("", "must be one policy: a mapping that begins with its name")
    return rule_of(found)


def dump_one(rule: PolicyRule) -> str:
    """One policy, as it stands in a file."""
    return _yaml(_laid_out(rule))


def diff(before: PolicyRule | None, after: PolicyRule | None) -> tuple[str, ...]:
    """The lines of a unified diff between two policies as in a file, without its header."""
    old, new = (() if rule is None else _yaml([_laid_out(rule)]).splitlines() for rule in (before, after))
    return tuple(difflib.unified_diff(old, new, n=2, lineterm=""))[2:]


class _Flow(list[Any]):
    """Written on one line: [a, b]."""


class _FlowMapping(dict[str, Any]):
    """Written on one line: {a: 1, b: 2}."""


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Flow, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
_Dumper.add_representer(
    _FlowMapping,
    lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=True),
)
# A text that would be read as a number here is to be quoted; of those of YAML 1.1 the dumper knows by itself.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def _laid_out(rule: PolicyRule) -> dict[str, Any]:
    found = document(rule)
    for name in ("scope", "models", "per_request"):
        if name in found:
            found[name] = _FlowMapping(found[name])
    if "limits" in found:
        found["limits"] = [_FlowMapping(limit) for limit in found["limits"]]
    return found


def _yaml(value: Any) -> str:
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110
    )
    return text
