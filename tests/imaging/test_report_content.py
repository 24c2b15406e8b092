"""What the report says of a forecast's skill."""

from dataclasses import replace

import pytest

from imaging.report_content import Estimate, VolumeSkill, _skill_sentence

SKILL = VolumeSkill(9.0, Estimate(10.0, (8.0, 11.0)), 8.5, 13.75)


def test_a_forecast_from_the_earlier_visits_is_called_skill():
    assert SKILL.inside95 is True
    assert _skill_sentence("whole tumour", SKILL).startswith(
        "Skill at the last visit, whole tumour: 10.0 mL [8.0, 11.0] forecast from the earlier visits, 9.0 mL measured"
    )


@pytest.mark.parametrize("observed", [9.0, 20.0])
def test_the_priors_forecast_is_not_called_the_skill_of_the_model(observed):
    prior = replace(SKILL, observed_ml=observed, acceptable=False)
    assert prior.inside95 is None
    said = _skill_sentence("whole tumour", prior)
    assert "does not explain the earlier visits alone" in said and "prior's forecast" in said
    assert "forecast from the earlier visits" not in said
