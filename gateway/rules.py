"""Whether a study is for us."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.examination import Examination
from gateway.settings import RuleSection


def takes(rules: Sequence[RuleSection], study: Examination) -> str:
    """Why no rule takes a study, or nothing when one does.

    The sentence names what is missing, not what is there: descriptions may hold anything.
    """
    reasons = [_objection(rule, study) for rule in rules]
    if "" in reasons:
        return ""
    return "; ".join(dict.fromkeys(reasons)) or "there are no rules"


def roles_of_priors(rules: Sequence[RuleSection], study: Examination) -> frozenset[str]:
    """Contrasts that an earlier study must have to be used with this one: those asked of it, and the usual ones."""
    asked = next((rule.roles for rule in rules if not _objection(rule, study)), ())
    return frozenset({*asked, *RuleSection().roles})


def _objection(rule: RuleSection, study: Examination) -> str:
    if rule.modalities and not set(rule.modalities) & set(study.modalities):
        return f"no {' or '.join(rule.modalities)} series"
    if rule.description is not None and not any(
        re.search(rule.description, text, re.IGNORECASE) for text in study.descriptions
    ):
        return "no description fits"
    # What is doubtful may be what is missing: the application says what is wrong with it.
    missing = [role for role in rule.roles if role not in (*study.roles, *study.doubtful)]
    return f"no {' and no '.join(missing)}" if missing else ""
