"""What lies in a folder tree: DICOM objects, broken ones, and files that are something else."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from imaging.errors import ImagingError, Reason

# What pydicom raises, depending on where a damaged file was cut.
_PARSE_ERRORS = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, KeyError, AttributeError,
    NotImplementedError, OverflowError, RecursionError, struct.error, zlib.error,
)  # fmt: skip
# A deflated file that grows beyond this is an attack, not an image.
_LONGEST_INFLATED = 1 << 30
_INFLATED_AT_ONCE = 1 << 24
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SHORTEST = 132  # preamble and magic word
_EMPTY = "empty"
# What the system says of a link without a target or in a circle, and of a file that was there a moment ago.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PIXEL_GROUP = 0x7FE0
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class DicomFile:
    """One DICOM object, its pixels left out.

    Parameters
    ----------
    path : pathlib.Path
        Where it lies.
    name : str
        Its path relative to the folder read.
    header : pydicom.Dataset
        All attributes except private ones and pixel data.
    sha256 : str
        Digest of the whole file.
    """

    path: Path
    name: str
    header: Dataset
    sha256: str

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID."""
        return text(self.header, "SOPInstanceUID")

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return text(self.header, "SeriesInstanceUID")


@dataclass(frozen=True)
class BrokenFile:
    """A file that is DICOM, but cut off or unreadable; ``header`` is what is left of its attributes.

    So is a link without a target, and a file that vanishes while the folder is read: each may have been a slice.
    """

    name: str
    sentence: str
    header: Dataset = field(default_factory=Dataset, repr=False, compare=False)

    @property
    def series_uid(self) -> str:
        """Series Instance UID; empty when even that is lost."""
        return text(self.header, "SeriesInstanceUID")


@dataclass(frozen=True)
class IgnoredFile:
    """A file that is not used, with the reason."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class FolderContent:
    """Everything found in a folder tree, in the order of the relative paths."""

    objects: tuple[DicomFile, ...]
    broken: tuple[BrokenFile, ...]
    ignored: tuple[IgnoredFile, ...]


@contextmanager
def tolerant_dicom() -> Iterator[None]:
    """Read values as they are: real headers break value rules, and pydicom's warnings quote patient data."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def text(dataset: Dataset, keyword: str) -> str:
    """Attribute as text without padding; empty when absent, several values joined by a backslash."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    if not isinstance(value, str) and hasattr(value, "__iter__") and not hasattr(value, "components"):
        return "\\".join(str(item).strip() for item in value)
    return str(value).strip(" \0")


def read_folder(folder: Path, progress: Progress | None = None) -> FolderContent:
    """Read every file below a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Root of the tree; nested folders and any other files may be in it.
    progress : callable, optional
        Called as ``progress(files_done, files_in_all)``.

    Raises
    ------
    ImagingError
        ``NO_PERMISSION`` if the folder or a file may not be read, ``EMPTY_INPUT`` if there is no folder or no file.
    """
    names = sorted(_walk(folder))
    if not names:
        raise ImagingError(
            Reason.EMPTY_INPUT, f"{folder.name or folder} holds no files; give a folder of DICOM files."
        )
    objects: list[DicomFile] = []
    broken: list[BrokenFile] = []
    ignored: list[IgnoredFile] = []
    for done, name in enumerate(names, start=1):
        found = _read_file(folder / name, name)
        if isinstance(found, DicomFile):
            objects.append(found)
        elif isinstance(found, BrokenFile):
            broken.append(found)
        else:
            ignored.append(found)
        if progress is not None:
            progress(done, len(names))
    # An empty file among DICOM files may have been a slice; anywhere else it is nothing.
    beside = {file.path.parent for file in objects}
    lost = [file for file in ignored if file.reason == _EMPTY and (folder / file.path).parent in beside]
    broken += [
        BrokenFile(file.path, f"{file.path} is empty, and beside DICOM files; copy it again or take it out.")
        for file in lost
    ]
    return FolderContent(tuple(objects), tuple(broken), tuple(file for file in ignored if file not in lost))


def read_again(path: Path, *, pixels: bool = True) -> FileDataset:
    """A file that :func:`read_folder` took for DICOM, with or without a preamble.

    Raises
    ------
    ImagingError
        ``UNDECODABLE`` if it cannot be read any more.
    """
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    except OSError as error:
        raise ImagingError(
            Reason.UNDECODABLE, f"{path.name} cannot be read any more ({error.strerror})."
        ) from error
    if "TransferSyntaxUID" not in dataset.file_meta:
        # A file without preamble has no meta header; its pixels are encoded as its attributes are.
        is_implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        )
    return dataset


def _walk(folder: Path) -> Iterator[str]:
    vanished: list[str] = []

    def refuse(error: OSError) -> None:
        path = Path(error.filename or folder)
        if error.errno not in _GONE:
            raise _unreadable(path.name, error)
        if path == folder:
            raise ImagingError(
                Reason.EMPTY_INPUT, f"{path.name} does not exist; give a folder of DICOM files."
            )
        vanished.append(os.path.relpath(path, folder))

    if folder.is_file():
        raise ImagingError(Reason.NOT_DICOM, f"{folder.name} is a file; give the folder that holds it.")
    for parent, _, files in os.walk(folder, onerror=refuse):
        for file in files:
            yield os.path.relpath(os.path.join(parent, file), folder)
    yield from vanished


def _unreadable(name: str, error: OSError) -> ImagingError:
    if isinstance(error, PermissionError):
        return ImagingError(
            Reason.NO_PERMISSION, f"{name} may not be read; give this user permission to read it."
        )
    return ImagingError(Reason.NO_PERMISSION, f"{name} cannot be read ({error.strerror}).")


def _read_file(path: Path, name: str) -> DicomFile | BrokenFile | IgnoredFile:
    try:
        if path.exists() and not path.is_file():
            return IgnoredFile(name, "not a regular file")
        content = path.read_bytes()
    except OSError as error:
        if error.errno in _GONE:
            return _gone(path, name)
        raise _unreadable(name, error) from error
    has_magic = content[128:132] == b"DICM"
    if not has_magic and not _may_lack_preamble(content):
        if len(content) < _SHORTEST and path.suffix.lower() == ".dcm" and not path.name.startswith("."):
            return BrokenFile(
                name, f"{name} is named .dcm but is cut off after {len(content)} bytes; copy it again."
            )
        if not content and _has_name_of_media(path):
            return IgnoredFile(name, _EMPTY)
        return IgnoredFile(name, "not a DICOM file")
    with tolerant_dicom():
        if has_magic and _inflates_too_far(content):
            return BrokenFile(
                name, f"{name} grows beyond 1 GB when it is inflated; take it out of the folder."
            )
        dataset = _parse(content, force=not has_magic)
        if dataset is None or not dataset or not _has_whole_values(dataset):
            return _broken(name, content) if has_magic else IgnoredFile(name, "not a DICOM file")
        unreadable = _decode([dataset.file_meta, dataset])
        if unreadable:
            return BrokenFile(
                name,
                f"{name} is damaged: its {unreadable} cannot be read; copy it again or take it out of the folder.",
                _readable(dataset),
            )
        if text(dataset.file_meta, "MediaStorageSOPClassUID") == pydicom.uid.MediaStorageDirectoryStorage:
            return IgnoredFile(name, "DICOMDIR, a directory of other files")
        if not has_magic and not (text(dataset, "SOPClassUID") and text(dataset, "SeriesInstanceUID")):
            return IgnoredFile(name, "not a DICOM file")
        if not _has_all_pixels(dataset):
            return _broken(name, content)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            if not text(dataset, keyword):
                return BrokenFile(name, f"{name} has no {keyword}; export it again from its source.")
        for keyword in _PIXEL_KEYWORDS:
            if keyword in dataset:
                delattr(dataset, keyword)
    return DicomFile(path, name, dataset, hashlib.sha256(content).hexdigest())


def _has_name_of_media(path: Path) -> bool:
    """Whether a name has no suffix, as on exchange media (PS3.10 8.5), or ends as a UID does."""
    suffix = path.suffix[1:]
    return not path.name.startswith(".") and (not suffix or suffix.isdigit())


def _gone(path: Path, name: str) -> BrokenFile:
    if path.is_symlink():
        return BrokenFile(
            name, f"{name} is a link without a target; restore the target or take the link out of the folder."
        )
    return BrokenFile(
        name, f"{name} vanished while the folder was read; run again when nothing changes the folder."
    )


def _may_lack_preamble(content: bytes) -> bool:
    """Old exports start with an element of the first group (0002 or 0008, little endian) instead of a preamble.

    With which one depends on the kind of object; what follows must be DICOM with a class and a series.
    """
    return content[:2] in (b"\x02\x00", b"\x08\x00") and len(content) > _SHORTEST


def _parse(content: bytes, *, force: bool = False, pixels: bool = True) -> FileDataset | None:
    try:
        return pydicom.dcmread(BytesIO(content), force=force, stop_before_pixels=not pixels)
    except _PARSE_ERRORS:
        return None


def _inflates_too_far(content: bytes) -> bool:
    """Whether a deflated dataset is longer than any image; inflated in pieces, none of which is kept."""
    try:
        # From memory: of a file, as many bytes would be asked for as a false length claims.
        file = io.BytesIO(content)
        file.seek(128 + 4)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if text(meta, "TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return False
        # preamble, magic word, and the element that holds the length of the meta information
        packed = content[128 + 4 + 12 + int(meta.FileMetaInformationGroupLength) :]
        inflater, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while packed and length <= _LONGEST_INFLATED:
            length += len(inflater.decompress(packed, _INFLATED_AT_ONCE))
            packed = inflater.unconsumed_tail
    except _PARSE_ERRORS:
        return False  # what cannot be inflated is told by the parser
    return length > _LONGEST_INFLATED


def _has_whole_values(dataset: Dataset) -> bool:
    """Whether no value is shorter than its stated length."""
    return all(_is_whole(element) for element in dataset.values())


def _is_whole(element: object) -> bool:
    if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
        return True
    return len(element.value or b"") == element.length


def _decode(datasets: Sequence[Dataset]) -> str:
    """Decode every public value once, drop private ones; returns the keyword of a value that cannot be decoded.

    pydicom decodes at first access. Doing it here, where its warnings are silent, keeps damaged values from
    surfacing later as errors of another kind.
    """
    for dataset in datasets:
        for tag in list(dataset.keys()):
            if tag.is_private:
                del dataset[tag]
                continue
            try:
                element = dataset[tag]
                nested = _decode(list(element.value or [])) if element.VR == "SQ" else ""
            except _PARSE_ERRORS:
                nested = keyword_for_tag(tag) or str(tag)
            if nested:
                return nested
    return ""


def _has_all_pixels(dataset: Dataset) -> bool:
    """Whether an image has as many pixels as its header states."""
    if "Rows" not in dataset or dataset.get("NumberOfFrames") == 0:
        return "Image Storage" not in UID(text(dataset, "SOPClassUID")).name
    if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
        return False
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    if "PixelData" not in dataset or (syntax.is_transfer_syntax and syntax.is_encapsulated):
        return True
    return len(dataset.PixelData) >= _native_length(dataset)


def _native_length(dataset: Dataset) -> int:
    """Bytes of uncompressed pixel data; 0 when the header does not tell, which others refuse by name."""
    try:
        bits = math.prod(int(dataset.get(keyword) or 0) for keyword in ("Rows", "Columns", "BitsAllocated"))
        samples = int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        return 0
    length = (bits * samples + 7) // 8
    # Two pixels share their colour (PS3.3 C.7.6.3.1.2).
    return length * 2 // 3 if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422" else length


def _readable(header: Dataset) -> Dataset:
    """Those attributes whose value is whole and can be decoded."""
    kept = Dataset()
    for tag in header.keys():
        if tag.is_private or tag.group == _PIXEL_GROUP or not _is_whole(header.get_item(tag)):
            continue
        with suppress(*_PARSE_ERRORS):
            element = header[tag]
            if element.VR != "SQ" or not _decode(list(element.value or [])):
                kept.add(element)
    return kept


def _broken(name: str, content: bytes) -> BrokenFile:
    header = _parse(content, pixels=False) or Dataset()
    where = "pixel data" if "Rows" in header and _has_whole_values(header) else "header"
    sentence = f"{name} is a DICOM file cut off in its {where}; copy it again or take it out of the folder."
    return BrokenFile(name, sentence, _readable(header))
