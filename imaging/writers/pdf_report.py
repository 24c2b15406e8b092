"""The report for people: two A4 pages, and the DICOM object that carries them into the archive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

import highdicom as hd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from imaging.codes import DIAGNOSTIC_IMAGING_REPORT, private_scheme
from imaging.report_content import ModelIdentity, ReportContent, SoftwareIdentity
from imaging.writers.common import (
    RESEARCH_NOTICE,
    content_dates,
    equipment,
    finish,
    plain_header,
    referenced_instance,
)
from imaging.writers.identity import RunIdentity, WrittenObject
from imaging.writers.pdf_forecast import forecast_page
from imaging.writers.pdf_layout import STYLE, Page
from imaging.writers.pdf_measurement import measurement_page

_ROLE = "report pdf"
_SERIES_NUMBER = 9901


@dataclass(frozen=True)
class Patient:
    """Whose report it is, as printed on both pages.

    Parameters
    ----------
    patient_id : str
        PatientID (0010,0020).
    name : str
        PatientName (0010,0010) with its component groups separated by ``=``.
    birth_date : str
        ``YYYYMMDD`` or empty.
    sex : str
        ``M``, ``F``, ``O`` or empty.
    """

    patient_id: str
    name: str
    birth_date: str
    sex: str

    @classmethod
    def of(cls, dataset: Dataset) -> Patient:
        """Patient of an image."""
        return cls(
            *(
                str(dataset.get(keyword) or "")
                for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
            )
        )

    @property
    def printed_name(self) -> str:
        """Name in reading order: ``Family, Given``, other scripts in brackets."""
        groups = [
            ", ".join(filter(None, (parts[0], " ".join(filter(None, parts[1:])))))
            for parts in (group.split("^") for group in self.name.split("="))
        ]
        spelled = [group for group in groups if group]
        if len(spelled) < 2:
            return "".join(spelled)
        return f"{spelled[0]} ({'; '.join(spelled[1:])})"


def render_pdf(content: ReportContent, patient: Patient) -> bytes:
    """The two pages as PDF with text as text; the same content gives the same bytes."""
    metadata = {
        "Title": f"OncoTwin report - {RESEARCH_NOTICE}",
        "Creator": f"{content.software.name} {content.software.version}",
        "CreationDate": None,
        "ModDate": None,
    }
    with rc_context(STYLE), BytesIO() as buffer:
        with PdfPages(buffer, metadata=metadata) as pages:
            for page in _pages(content, patient):
                pages.savefig(page.figure)
        return buffer.getvalue()


def save_page_png(content: ReportContent, patient: Patient, number: int, path: Path, dpi: int = 130) -> None:
    """Page 1 or 2 as PNG, for documentation."""
    with rc_context(STYLE):
        page = _pages(content, patient)[number - 1]
        FigureCanvasAgg(page.figure)
        page.figure.savefig(path, dpi=dpi, metadata={"Software": None})


def write_encapsulated_pdf(
    path: Path,
    *,
    reference: Dataset,
    pdf: bytes,
    identity: RunIdentity,
    software: SoftwareIdentity,
    model: ModelIdentity,
    date: datetime,
) -> WrittenObject:
    """Write the pages as Encapsulated PDF (PS3.3 A.45.1) into the study of the last visit.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    reference : pydicom.Dataset
        An image of the last visit.
    pdf : bytes
        From :func:`render_pdf`.
    identity, software, model
        Who computed it.
    date : datetime.datetime
        Acquisition of the last visit.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    header = plain_header(reference)
    dataset = hd.base.SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=identity.series_uid(_ROLE),
        series_number=_SERIES_NUMBER,
        sop_instance_uid="2.25.0",
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=f"OncoTwin report PDF - {RESEARCH_NOTICE}",
        coding_schemes=[private_scheme()],
        **equipment(software, model),
        **content_dates(date),
    )
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "YES"
    dataset.AcquisitionDateTime = None
    dataset.DocumentTitle = f"OncoTwin report, {RESEARCH_NOTICE}"
    dataset.ConceptNameCodeSequence = [hd.sr.CodedConcept.from_code(DIAGNOSTIC_IMAGING_REPORT)]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(pdf)
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    dataset.SourceInstanceSequence = [
        referenced_instance(str(reference.SOPClassUID), str(reference.SOPInstanceUID))
    ]
    return finish(
        path, dataset, reference=reference, identity=identity, role=_ROLE, software=software, model=model
    )


def _pages(content: ReportContent, patient: Patient) -> list[Page]:
    born = patient.birth_date
    facts = [f"ID {patient.patient_id or 'not given'}"]
    if len(born) == 8 and born.isdigit():
        facts.append(f"born {born[:4]}-{born[4:6]}-{born[6:]}")
    if patient.sex:
        facts.append(f"sex {patient.sex}")
    name = patient.printed_name or "name not given"
    line = "   ·   ".join(facts)
    return [measurement_page(content, name, line), forecast_page(content, name, line)]
