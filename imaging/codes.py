"""Every coded concept that OncoTwin writes into a DICOM object.

Standard concepts come first, with the context group (PS3.16) they are taken from. What no standard code says
exactly is a private concept of the scheme ``99ONCOTWIN``; ``docs/codes.md`` is its public registry. A private code
keeps its meaning forever: a changed meaning gets a new value.
"""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from imaging.labels import TumourLabel
from imaging.report_content import Status

PRIVATE_SCHEME = "99ONCOTWIN"
PRIVATE_SCHEME_UID = "2.25.254975066016430156959513561916562605646"
PRIVATE_SCHEME_VERSION = "1"


def _private(value: str, meaning: str) -> Code:
    """Private concept; Code Value is SH, at most 16 characters (PS3.3 table 8.8-1)."""
    return Code(value, PRIVATE_SCHEME, meaning)


# Segments and findings. CID 7150, 7159, 4 (brain), 7162, 7005.
MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
NECROSIS = Code("6574001", "SCT", "Necrosis")
EDEMA = Code("79654002", "SCT", "Edema")
ENHANCING_LESION = Code("C113842", "NCIt", "Enhancing Lesion")
BRAIN = Code("12738006", "SCT", "Brain")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
MATHEMATICAL_MODEL = _private("OT1007", "Mathematical growth model")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")

SEGMENT_TYPES: dict[TumourLabel, Code] = {
    TumourLabel.NCR: NECROSIS,
    TumourLabel.ED: EDEMA,
    TumourLabel.ET: ENHANCING_LESION,
}

PREDICTION_CATEGORY = _private("OT1000", "Model prediction, not observed")
PREDICTED_CORE = _private("OT1001", "Predicted tumor core")
PREDICTED_REST = _private("OT1002", "Predicted tumor outside the core")
PREDICTED_WHOLE = _private("OT1003", "Predicted whole tumor")
GROWTH_MODEL = _private("OT1004", "Calibrated tumor growth model")
TUMOUR_CORE = _private("OT1005", "Tumor core (necrosis and enhancing tumor)")
WHOLE_TUMOUR = _private("OT1006", "Whole tumor (core and edema)")

REGION_FINDINGS: dict[str, Code] = {
    "NCR": NECROSIS,
    "ED": EDEMA,
    "ET": ENHANCING_LESION,
    "TC": TUMOUR_CORE,
    "WT": WHOLE_TUMOUR,
}

# Document titles, procedure (CID 7021, 100; PS3.16 TID 1500) and containers.
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
MRI_PROCEDURE = Code("25056-3", "LN", "MRI unspecified body region")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
DIAGNOSTIC_IMAGING_REPORT = Code("18748-4", "LN", "Diagnostic Imaging Report")

# Quantities, derivations (CID 7464) and units (UCUM, case-sensitive; volumes CID 7462).
VOLUME = Code("118565006", "SCT", "Volume")
QUANTITY = Code("246205007", "SCT", "Quantity")
DERIVATION = Code("121401", "DCM", "Derivation")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MEDIAN = Code("373099004", "SCT", "Median")
PREDICTED_DENSITY = _private("OT1101", "Predicted tumor cell fraction of capacity")
PREDICTED_VOLUME = _private("OT1102", "Predicted volume")
PERCENTILE_2_5 = _private("OT1201", "2.5th percentile of the posterior")
PERCENTILE_97_5 = _private("OT1202", "97.5th percentile of the posterior")
PRIOR_MEDIAN = _private("OT1203", "Median of the prior")
PRIOR_SIGMA_LOG = _private("OT1204", "Standard deviation of log under the prior")
CONTRACTION = _private("OT1205", "Posterior over prior sd of log (contraction)")

NO_UNITS = Code("1", "UCUM", "no units")
CUBIC_CENTIMETER = Code("cm3", "UCUM", "cubic centimeter")
DAY = Code("d", "UCUM", "day")
MILLIMETER = Code("mm", "UCUM", "mm")
DEGREE = Code("deg", "UCUM", "Degree")
UNITS: dict[str, Code] = {
    "1": NO_UNITS,
    "d": DAY,
    "mm": MILLIMETER,
    "/d": Code("/d", "UCUM", "per day"),
    "/Gy": Code("/Gy", "UCUM", "per gray"),
    "mm/d": Code("mm/d", "UCUM", "millimeter per day"),
    "mm2/d": Code("mm2/d", "UCUM", "square millimeter per day"),
}

# Growth parameters, by the name they have in ``ParameterReport``.
PARAMETERS: dict[str, Code] = {
    "diffusivity": _private("OT1301", "Tumor cell diffusivity"),
    "proliferation": _private("OT1302", "Tumor cell proliferation rate"),
    "front_velocity": _private("OT1303", "Tumor front velocity"),
    "radiosensitivity": _private("OT1304", "Tumor radiosensitivity alpha"),
    "chemosensitivity": _private("OT1305", "Tumor chemosensitivity at reference dose"),
}
EFFECTIVE_SAMPLES = _private("OT1351", "Effective number of data points")
FIT_DICE_CORE = _private("OT1352", "Dice of model and segmentation, core")
FIT_DICE_WHOLE = _private("OT1353", "Dice of model and segmentation, whole tumor")

# Skill: a visit forecast from those before it, by mask as in ``SkillReport``.
SKILL_FORECAST: dict[str, Code] = {
    "core": _private("OT1361", "Forecast of a known core volume"),
    "whole": _private("OT1371", "Forecast of a known whole-tumor volume"),
}
SKILL_ERROR: dict[str, Code] = {
    "core": _private("OT1362", "Forecast error, core volume"),
    "whole": _private("OT1372", "Forecast error, whole-tumor volume"),
}
SKILL_UNCHANGED_ERROR: dict[str, Code] = {
    "core": _private("OT1363", "Error of assuming no change, core"),
    "whole": _private("OT1373", "Error of assuming no change, whole tumor"),
}
SKILL_EXPONENTIAL_ERROR: dict[str, Code] = {
    "core": _private("OT1364", "Error of exponential growth, core"),
    "whole": _private("OT1374", "Error of exponential growth, whole tumor"),
}

# Qualitative evaluations.
IDENTIFIABILITY = _private("OT1401", "Parameter identifiability")
IDENTIFIED = _private("OT1402", "Identified by these scans")
NOT_IDENTIFIED = _private("OT1403", "Not identified by these scans")
ACCEPTABILITY = _private("OT1411", "Calibration acceptability")
ACCEPTABLE = _private("OT1412", "Model explains the scans")
NOT_ACCEPTABLE = _private("OT1413", "Model does not explain the scans")
RUN_STATUS = _private("OT1420", "Outcome of the analysis")
STATUS: dict[Status, Code] = {
    Status.OK: _private("OT1421", "Measured, calibrated and forecast"),
    Status.SINGLE_VISIT: _private("OT1422", "One visit: growth not identifiable"),
    Status.NO_TUMOUR: _private("OT1423", "No tumor found"),
    Status.TUMOUR_GONE: _private("OT1424", "No tumor left at follow-up"),
    Status.NOT_EXPLAINED: _private("OT1425", "Growth model does not explain the scans"),
}
SEGMENTATION_SOURCE = _private("OT1430", "Source of the segmentation")
SEGMENTATION_SOURCES: dict[str, Code] = {
    "network": _private("OT1431", "Segmented by the network"),
    "dicom_seg": _private("OT1432", "DICOM SEG found with the images"),
    "rtstruct": _private("OT1433", "RT Structure Set found with the images"),
    "other_algorithm": _private("OT1434", "Segmentation by another algorithm found with the images"),
}

# Texts.
WARNING_TEXT = _private("OT1501", "Warning")
VERDICT_TEXT = _private("OT1502", "Verdict of the calibration")
INTENDED_USE_TEXT = _private("OT1503", "Intended use")
SOFTWARE_TEXT = _private("OT1504", "Software version")
MODEL_TEXT = _private("OT1505", "Segmentation model version")
REGISTRATION_METRIC_TEXT = _private("OT1506", "Registration similarity measure")
SKILL_TEXT = _private("OT1507", "Skill of the forecast")
CONFORMAL_TEXT = _private("OT1508", "Origin of the forecast intervals")
TREATMENT_TEXT = _private("OT1509", "Treatment given to the growth model")

# Quality of what the measurements rest on.
REGISTRATION_SIMILARITY = _private("OT1601", "Similarity after registration to first visit")
REGISTRATION_THRESHOLD = _private("OT1602", "Least acceptable registration similarity")
REGISTRATION_ROTATION = _private("OT1603", "Rotation to first visit")
REGISTRATION_TRANSLATION = _private("OT1604", "Translation to first visit")
SERIES_SIMILARITY: dict[str, Code] = {
    "t1": _private("OT1611", "Similarity after registration of T1"),
    "t1ce": _private("OT1612", "Similarity after registration of T1 post contrast"),
    "t2": _private("OT1613", "Similarity after registration of T2"),
    "flair": _private("OT1614", "Similarity after registration of FLAIR"),
}
SEGMENTATION_ENTROPY = _private("OT1621", "Mean segmentation entropy in the tumor")
DAYS_SINCE_FIRST = _private("OT1701", "Time since the first visit")
HORIZON = _private("OT1702", "Forecast horizon after the last visit")


def all_codes() -> list[Code]:
    """Every concept of this module; the tests hold the written objects to this list."""
    found: list[Code] = []
    for value in globals().values():
        if isinstance(value, Code):
            found.append(value)
        elif isinstance(value, dict):
            found.extend(item for item in value.values() if isinstance(item, Code))
    return list(dict.fromkeys(found))


def private_codes() -> list[Code]:
    """The private concepts, in order of their values."""
    return sorted((c for c in all_codes() if c.scheme_designator == PRIVATE_SCHEME), key=lambda c: c.value)


def private_scheme() -> CodingSchemeIdentificationItem:
    """Item of the Coding Scheme Identification Sequence (PS3.3 C.12.1) that says whose the private codes are."""
    item = CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="OncoTwin private codes",
        version=PRIVATE_SCHEME_VERSION,
        responsible_organization="OncoTwin",
    )
    # highdicom writes the UID of registered schemes only; the standard wants it of every scheme that has one.
    item.CodingSchemeUID = PRIVATE_SCHEME_UID
    return item
