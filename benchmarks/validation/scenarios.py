"""The scenarios: which truth, how it is seen, and what the twin is told."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.validation.observation import Noise

EXACT = Noise()
INDEPENDENT = Noise(density=0.05)
CORRELATED = Noise(whole_mm=0.7, local_mm=0.7, length_mm=5.0)
REALISTIC = Noise(whole_mm=0.7, local_mm=0.7, length_mm=5.0, density=0.05)
ASSUMED = Noise(whole_mm=0.7, local_mm=0.7, length_mm=6.0)
"""The twin's own law."""
WITHOUT_DISCREPANCY = {
    "diffusivity_discrepancy": 0.0,
    "proliferation_discrepancy": 0.0,
    "growth_discrepancy": 0.0,
}


@dataclass(frozen=True)
class Scenario:
    """One way of being a virtual patient.

    Parameters
    ----------
    title : str
        For tables.
    truth : str
        Which course, see :func:`benchmarks.validation.cohort.course`.
    first, later : Noise
        Errors of the first visit's masks and of all later ones.
    mismatch : bool
        Whether the truth is another model than the twin's.
    horizons : tuple of float
        Days after the last visit.
    true_parameters : bool
        Whether diffusivity and proliferation of the truth mean what the twin's mean.
    told_gray : bool
        Whether the twin is told where grey matter is.
    mass_effect : float
        Extra room that new tumour takes, as a part of its density.
    registration_mm : float
        Length of the error by which every later visit is displaced, mm.
    own_thresholds : bool
        Whether every patient's masks have thresholds and an offset of their own, unknown to the twin.
    treatment : {"none", "told", "untold"}
        Whether the patient was treated between the last two visits, and whether the twin knows.
    own_priors : bool
        Whether the twin is told the laws that the patients' parameters are drawn from, instead of its defaults.
    settings : dict
        Differences from the default settings of the calibration.
    """

    title: str
    truth: str = "in_model"
    first: Noise = REALISTIC
    later: Noise = REALISTIC
    mismatch: bool = True
    horizons: tuple[float, ...] = (90.0,)
    true_parameters: bool = True
    told_gray: bool = True
    mass_effect: float = 0.0
    registration_mm: float = 0.0
    own_thresholds: bool = False
    treatment: str = "none"
    own_priors: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {
    "in_model": Scenario(
        "In-model, the twin's own noise law, no discrepancy (SBC)",
        first=ASSUMED,
        later=ASSUMED,
        mismatch=False,
        settings=WITHOUT_DISCREPANCY,
    ),
    "exact_first": Scenario(
        "Exact first scan, independent noise after", first=EXACT, later=INDEPENDENT, mismatch=False
    ),
    "noisy_first": Scenario(
        "Independent noise on all scans", first=INDEPENDENT, later=INDEPENDENT, mismatch=False
    ),
    "correlated": Scenario(
        "Exact first scan, correlated noise after", first=EXACT, later=CORRELATED, mismatch=False
    ),
    "noisy_correlated": Scenario(
        "Correlated and independent noise on all scans",
        mismatch=False,
        horizons=(30.0, 60.0, 90.0, 120.0, 150.0, 180.0),
    ),
    "default_priors": Scenario(
        "The same, with the product's own wider priors", mismatch=False, own_priors=False
    ),
    "hidden_tissue": Scenario("Hidden white and grey matter (10 to 1)", told_gray=False),
    # the law of the twin's parameters is not known for another model's tumours
    "two_species": Scenario(
        "Two species with necrosis", truth="two_species", true_parameters=False, own_priors=False
    ),
    "anisotropic": Scenario("Diffusion tensor (4 to 1)", truth="anisotropic"),
    "mass_effect": Scenario("Mass effect", mass_effect=0.3),
    "registration": Scenario("Registration error of 1 mm", registration_mm=1.0),
    "own_thresholds": Scenario("Masks with the patient's own thresholds and offset", own_thresholds=True),
    "treated_told": Scenario("Treatment between the visits, told", truth="treated", treatment="told"),
    "treated_untold": Scenario("Treatment between the visits, not told", truth="treated", treatment="untold"),
}
