"""What all DICOM outputs share: patient, study, equipment, dates and the last step onto disk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import DA, TM, validate_value

from imaging.codes import ACQUISITION_EQUIPMENT, PROCESSING_EQUIPMENT
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.writers.identity import RunIdentity, WrittenObject, uid_of

RESEARCH_NOTICE = "RESEARCH - not for clinical use"
CHARACTER_SET = "ISO_IR 192"

# As long as every UID of ``uid_of``, so that the real one takes its place without a second encoding.
_PLACEHOLDER_UID = "2.25." + "9" * 39

# Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): type 2 there, so present even when empty.
_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
_OPTIONAL = (
    "IssuerOfPatientID",
    "PatientBirthTime",
    "OtherPatientIDs",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialTimePointID",
)
_IDENTIFYING = ("PatientName", "PatientID")
_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "StationName",
)


def patient_and_study(reference: Dataset) -> Dataset:
    """Attributes that place an output beside its source image in the archive.

    Name and identifier are taken over whatever they are. Other values that break the rules of their own value
    representation are left empty or out: an output must not carry on the faults of its input.
    """
    inherited = Dataset()
    inherited.StudyInstanceUID = str(reference.StudyInstanceUID)
    for keyword in (*_REQUIRED, *_OPTIONAL):
        value = _text(reference.get(keyword))
        if keyword not in _IDENTIFYING and not _is_valid(keyword, value):
            value = None
        if value or keyword in _REQUIRED:
            setattr(inherited, keyword, value or "")
    if inherited.PatientSex not in ("M", "F", "O", ""):
        inherited.PatientSex = ""
    return inherited


def plain_header(reference: Dataset) -> Dataset:
    """Single-frame MR header without patient, for highdicom to derive an object from.

    highdicom expects every type 2 attribute in its sources, copies what it finds and logs patient names that
    look odd to it; it gets a header that is complete and belongs to nobody, and the patient is put in afterwards.
    """
    header = Dataset()
    header.SOPClassUID = MRImageStorage
    header.SOPInstanceUID = str(reference.SOPInstanceUID)
    header.StudyInstanceUID = str(reference.StudyInstanceUID)
    header.SeriesInstanceUID = str(reference.SeriesInstanceUID)
    header.Modality = str(reference.get("Modality", "MR"))
    header.FrameOfReferenceUID = frame_of_reference_uid(reference)
    header.PositionReferenceIndicator = None
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        setattr(header, keyword, None)
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"):
        setattr(header, keyword, None)
    if reference.get("LossyImageCompression") == "01":
        header.LossyImageCompression = "01"
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in reference:
                setattr(header, keyword, reference.get(keyword))
    return header


def frame_of_reference_uid(reference: Dataset) -> str:
    """Frame of Reference of an image; one of its own for a series that fails to name any."""
    named: str = reference.get("FrameOfReferenceUID") or ""
    return named or uid_of("oncotwin frame of reference", str(reference.SeriesInstanceUID))


def equipment(software: SoftwareIdentity, model: ModelIdentity) -> dict[str, Any]:
    """Keyword arguments of the Enhanced General Equipment Module (PS3.3 C.7.5.2); LO takes 64 characters."""
    return {
        "manufacturer": software.manufacturer,
        "manufacturer_model_name": software.name,
        "software_versions": [software.version, f"{model.name} {model.version}"[:64]],
        "device_serial_number": f"{software.name}-{software.version}"[:64],
    }


def content_dates(date: datetime) -> dict[str, Any]:
    """Keyword arguments for the dates of an object.

    The wall clock never enters a file, so that the same input gives the same bytes: an output carries the
    acquisition time of the visit it speaks of. When it was computed is in the archive's own records.
    """
    return {
        "content_date": date.date(),
        "content_time": date.time(),
        "series_date": date.date(),
        "series_time": date.time(),
    }


def finish(
    path: Path,
    dataset: Dataset,
    *,
    reference: Dataset,
    identity: RunIdentity,
    role: str,
    software: SoftwareIdentity,
    model: ModelIdentity,
    mark: str = "",
) -> WrittenObject:
    """Put patient, study, provenance and identifiers into an object and write it.

    ``mark`` is what a reader compares the content with, see :mod:`imaging.own_copies`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    dataset.SpecificCharacterSet = CHARACTER_SET
    dataset.update(patient_and_study(reference))
    dataset.ContributingEquipmentSequence = _contributing_equipment(reference, software, model, mark)
    # Type 3, and the only honest value would be the wall clock.
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        dataset.pop(keyword, None)
    dataset.SeriesInstanceUID = identity.series_uid(role)
    _fix_dimension_organization(dataset, uid_of("oncotwin dimensions", identity.digest, role))

    dataset.SOPInstanceUID = _PLACEHOLDER_UID
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(_PLACEHOLDER_UID)
    encoded = _encoded(dataset)
    instance_uid = identity.instance_uid(role, encoded)
    path.write_bytes(encoded.replace(_PLACEHOLDER_UID.encode(), instance_uid.encode()))
    return WrittenObject(
        path=path,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_class_name=dataset.SOPClassUID.name,
        sop_instance_uid=instance_uid,
        series_instance_uid=str(dataset.SeriesInstanceUID),
        study_uid=str(dataset.StudyInstanceUID),
        description=str(dataset.SeriesDescription),
        source_series_uid=str(reference.SeriesInstanceUID),
    )


def referenced_instance(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Item of a sequence that points to an instance (PS3.3 table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _contributing_equipment(
    reference: Dataset, software: SoftwareIdentity, model: ModelIdentity, mark: str
) -> Sequence[Dataset]:
    items: list[Dataset] = []
    known = {keyword: _text(reference.get(keyword)) for keyword in _EQUIPMENT}
    if known["Manufacturer"]:
        scanner = hd.ContributingEquipment(known["Manufacturer"][:64], ACQUISITION_EQUIPMENT)
        scanner.ContributionDescription = "Acquisition equipment of the source images"
        for keyword, value in known.items():
            if value and _is_valid(keyword, value):
                setattr(scanner, keyword, value)
        items.append(scanner)
    digests = f"Input {software.input_digest}, settings {software.settings_digest}"
    product = hd.ContributingEquipment(
        software.manufacturer,
        PROCESSING_EQUIPMENT,
        manufacturer_model_name=software.name,
        software_versions=software.version,
        contribution_description=(f"{digests}, {mark}" if mark else digests)[:1024],
    )
    product.DeviceUID = uid_of("oncotwin device", software.name, software.version)
    network = hd.ContributingEquipment(
        software.manufacturer,
        PROCESSING_EQUIPMENT,
        manufacturer_model_name=model.name[:64],
        software_versions=model.version[:64],
        contribution_description=f"Segmentation model, SHA-256 {model.sha256}",
    )
    network.DeviceUID = uid_of("oncotwin device", model.name, model.version, model.sha256)
    library = hd.ContributingEquipment(
        "Highdicom open-source contributors",
        PROCESSING_EQUIPMENT,
        manufacturer_model_name="highdicom",
        software_versions=hd.__version__,
        contribution_description="Software library used to create this instance",
    )
    return [*items, product, network, library]


def _fix_dimension_organization(dataset: Dataset, uid: str) -> None:
    """highdicom draws this UID at random."""
    if "DimensionOrganizationSequence" in dataset:
        dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
        for item in dataset.DimensionIndexSequence:
            item.DimensionOrganizationUID = uid


def _encoded(dataset: Dataset) -> bytes:
    with BytesIO() as buffer:
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def _text(value: Any) -> Any:
    """Value as text, so that it is encoded anew in this object's character set."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return [str(item) for item in value]
    return str(value)


def _is_valid(keyword: str, value: Any) -> bool:
    tag = tag_for_keyword(keyword)
    if not value or tag is None:
        return bool(value)
    vr = dictionary_VR(tag)
    try:
        for item in value if isinstance(value, list) else [value]:
            validate_value(vr, item, RAISE)
            if vr == "DA":
                DA(item)
            elif vr == "TM":
                TM(item)
    except ValueError:
        return False
    return True
