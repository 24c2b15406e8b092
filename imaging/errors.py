"""What can go wrong with a patient's images, as values that the application turns into an exit code."""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Machine-readable reason why a run, or one series of it, was refused."""

    NO_PERMISSION = "no_permission"
    EMPTY_INPUT = "empty_input"
    NOT_DICOM = "not_dicom"
    TRUNCATED = "truncated"
    SEVERAL_PATIENTS = "several_patients"
    MISSING_ATTRIBUTE = "missing_attribute"
    MISSING_DATE = "missing_date"
    MISSING_SEQUENCE = "missing_sequence"
    AMBIGUOUS_SEQUENCE = "ambiguous_sequence"
    MISSING_SLICE = "missing_slice"
    DUPLICATE_POSITION = "duplicate_position"
    MIXED_ORIENTATION = "mixed_orientation"
    MIXED_GEOMETRY = "mixed_geometry"
    SINGLE_POSITION = "single_position"
    NOT_A_VOLUME = "not_a_volume"
    UNSUPPORTED = "unsupported"
    UNDECODABLE = "undecodable"
    BAD_ANNOTATION = "bad_annotation"
    BAD_DOSE = "bad_dose"
    ZERO_INTERVAL = "zero_interval"
    REGISTRATION_FAILED = "registration_failed"
    BAD_OUTPUT_FOLDER = "bad_output_folder"


class ImagingError(Exception):
    """Input or output that cannot be used; the message is one sentence for the person who must act on it.

    Parameters
    ----------
    reason : Reason
        Machine-readable reason.
    message : str
        One sentence that names the file, attribute or series and says what to do. Never patient data.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
