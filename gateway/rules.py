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


def _objection(rule: RuleSection, study: Examination) -> str:
    if rule.modalities and not set(rule.modalities) & set(study.modalities):
        return f"no {' or '.join(rule.modalities)} series"
    if rule.description is not None and not any(
        re.search(rule.description, text, re.IGNORECASE) for text in study.descriptions
    ):
        return "no description fits"
    if study.refused:  # what is missing may be among them: the application says what is wrong with them
        return ""
    missing = [role for role in rule.roles if role not in study.roles]
    return f"no {' and no '.join(missing)}" if missing else ""
