"""The attributes of a series that say what it shows and when, the same for classic and enhanced objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from pydicom.dataset import Dataset

from imaging.files import text

# No scanner of the kinds read here existed earlier: such a date is a placeholder of a de-identifier.
_LATEST_PLACEHOLDER = date(1970, 1, 1)  # 1900-01-01 and the beginning of Unix time stand for no date

# Pairs of date and time, best first. Content dates come last: reprocessing renews them.
_DATE_LEVELS = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
    ("ContentDate", "ContentTime"),
)


@dataclass(frozen=True)
class SeriesHeaders:
    """What the headers of a series say about the acquisition. Times in ms, angles in degrees; None if absent."""

    description: str = ""
    protocol_name: str = ""
    body_part: str = ""
    manufacturer: str = ""
    model: str = ""
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    sequence_name: str = ""
    acquisition_type: str = ""
    acquisition_contrast: str = ""
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    echo_train_length: int | None = None
    diffusion_b_value: float | None = None
    contrast_agent: str = ""


@dataclass(frozen=True)
class AcquisitionTime:
    """When a series was acquired; ``has_time`` is False when only the day is known."""

    moment: datetime
    has_time: bool


def functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """One functional group macro of a frame, from the frame itself or shared by all (PS3.3 C.7.6.16)."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    holders = [*frames[frame : frame + 1], *shared[:1]]
    for holder in holders:
        items = holder.get(keyword)
        if items:
            item: Dataset = items[0]
            return item
    return None


def number(value: Any) -> float | None:
    """First value as a float; None when absent, empty or no number."""
    if value is not None and not isinstance(value, str | bytes) and hasattr(value, "__iter__"):
        value = next(iter(value), None)
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return None


def read_headers(dataset: Dataset) -> SeriesHeaders:
    """Headers of a classic or enhanced MR or CT object."""
    timing = _group(dataset, "MRTimingAndRelatedParametersSequence")
    echo = _group(dataset, "MREchoSequence")
    modifier = _group(dataset, "MRModifierSequence")
    diffusion = _group(dataset, "MRDiffusionSequence")
    train = number(dataset.get("EchoTrainLength", timing.get("EchoTrainLength")))
    return SeriesHeaders(
        description=text(dataset, "SeriesDescription"),
        protocol_name=text(dataset, "ProtocolName"),
        body_part=text(dataset, "BodyPartExamined"),
        manufacturer=text(dataset, "Manufacturer"),
        model=text(dataset, "ManufacturerModelName"),
        image_type=tuple(dict.fromkeys(_image_type(dataset))),
        scanning_sequence=_scanning_sequence(dataset, modifier),
        sequence_variant=_words(dataset, "SequenceVariant"),
        scan_options=_words(dataset, "ScanOptions"),
        sequence_name=text(dataset, "SequenceName") or text(dataset, "PulseSequenceName"),
        acquisition_type=text(dataset, "MRAcquisitionType").upper(),
        acquisition_contrast=text(dataset, "AcquisitionContrast").upper(),
        repetition_time_ms=number(dataset.get("RepetitionTime", timing.get("RepetitionTime"))),
        echo_time_ms=number(dataset.get("EchoTime", echo.get("EffectiveEchoTime"))),
        inversion_time_ms=number(dataset.get("InversionTime", modifier.get("InversionTimes"))),
        flip_angle_deg=number(dataset.get("FlipAngle", timing.get("FlipAngle"))),
        echo_train_length=None if train is None else int(train),
        diffusion_b_value=number(dataset.get("DiffusionBValue", diffusion.get("DiffusionBValue"))),
        contrast_agent=_contrast_agent(dataset),
    )


def series_label(series_number: int | None, uid: str) -> str:
    """How messages name a series: by number, else by the end of its UID. Never by its description."""
    return f"series {series_number}" if series_number is not None else f"series with UID ending {uid[-12:]}"


def acquisition_time(dataset: Dataset) -> AcquisitionTime | None:
    """When one instance was acquired; None if no attribute holds a usable date."""
    stamp = text(dataset, "AcquisitionDateTime")
    day = _parse_date(stamp[:8])
    if day is not None:
        clock = _parse_time(stamp[8:])
        return AcquisitionTime(datetime.combine(day, clock or time()), clock is not None)
    for date_keyword, time_keyword in _DATE_LEVELS:
        day = _parse_date(text(dataset, date_keyword))
        if day is None:
            continue
        clock = _parse_time(text(dataset, time_keyword)) or _other_time(dataset, day)
        return AcquisitionTime(datetime.combine(day, clock or time()), clock is not None)
    return None


def parse_moment(dataset: Dataset, date_keyword: str, time_keyword: str) -> datetime | None:
    """Date and time of two attributes; midnight without a time, None without a date."""
    day = _parse_date(text(dataset, date_keyword))
    return None if day is None else datetime.combine(day, _parse_time(text(dataset, time_keyword)) or time())


def varying(datasets: Sequence[Dataset], keywords: Sequence[str]) -> list[str]:
    """Those of the attributes whose values differ between the datasets."""
    return [keyword for keyword in keywords if len({text(dataset, keyword) for dataset in datasets}) > 1]


def _group(dataset: Dataset, keyword: str) -> Dataset:
    return functional_group(dataset, 0, keyword) or Dataset()


def _words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(word.strip().upper() for word in text(dataset, keyword).split("\\") if word.strip())


def _image_type(dataset: Dataset) -> Iterator[str]:
    yield from _words(dataset, "ImageType")
    for keyword in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence"):
        yield from _words(_group(dataset, keyword), "FrameType")


def _scanning_sequence(dataset: Dataset, modifier: Dataset) -> tuple[str, ...]:
    """Scanning Sequence in the classic terms, also for enhanced objects."""
    words = list(_words(dataset, "ScanningSequence"))
    terms = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
    words += terms.get(text(dataset, "EchoPulseSequence").upper(), [])
    if text(modifier, "InversionRecovery").upper() == "YES":
        words.append("IR")
    if text(dataset, "EchoPlanarPulseSequence").upper() == "YES":
        words.append("EP")
    return tuple(dict.fromkeys(words))


def _contrast_agent(dataset: Dataset) -> str:
    agent = text(dataset, "ContrastBolusAgent")
    for item in dataset.get("ContrastBolusAgentSequence") or []:
        agent = agent or text(item, "CodeMeaning") or text(item, "CodeValue")
    stated_absent = {
        "",
        "0",
        "NO",
        "NONE",
        "N",
        "NA",
        "N/A",
        "-",
        "NIL",
        "NULL",
        "WITHOUT",
        "NO CONTRAST",
        "NON",
    }
    is_dummy = re.fullmatch(
        r"\W*(removed|anonymi[sz]ed|deidentified|redacted|withheld)\W*", agent, re.IGNORECASE
    )
    return "" if agent.upper() in stated_absent or is_dummy else agent


def _other_time(dataset: Dataset, day: date) -> time | None:
    """Time of day from another level that does not speak of another day."""
    for date_keyword, time_keyword in _DATE_LEVELS:
        if _parse_date(text(dataset, date_keyword)) in (None, day):
            clock = _parse_time(text(dataset, time_keyword))
            if clock is not None:
                return clock
    return None


def _parse_date(value: str) -> date | None:
    match = re.fullmatch(r"(\d{4})[.\-]?(\d{2})[.\-]?(\d{2})", value)
    try:
        parsed = date(*map(int, match.groups())) if match else None
    except ValueError:
        return None
    return parsed if parsed is not None and parsed > _LATEST_PLACEHOLDER else None


def _parse_time(value: str) -> time | None:
    match = re.match(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?", value)
    if match is None:
        return None
    hour, minute, second, fraction = match.groups(default="0")
    try:
        return time(int(hour), int(minute), min(int(second), 59), int(fraction.ljust(6, "0")))
    except ValueError:
        return None
