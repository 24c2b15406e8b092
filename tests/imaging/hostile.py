"""Broken and hostile DICOM, made from one good study by a seeded generator; and the judge that reads it.

``python -m tests.imaging.hostile FOLDER COUNT`` makes COUNT cases and reads each in a child of its own with a limit on
memory and time. It prints one JSON line per case: its kind, and how the child ended.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from tests.imaging.dicom_factory import write_visit

PATIENT_NAME = "Geheim^Gisela"
PATIENT_ID = "PAT-GEHEIM-4711"
MEMORY_BYTES = 3 << 30
CPU_SECONDS = 60
# Waiting for something that never comes takes no CPU; a busy machine takes long too.
SECONDS = 600
Mutation = Callable[[list[Path], random.Random], None]

_HEADER_BYTES = 2000
_BOMB_BYTES = 2 << 30
_ZEROS_BYTES = 16 << 20
_TRICKY_UIDS = (
    "../../../tmp/evil", "/etc/passwd", "1.2.3\\..\\..", "1" * 200, "", "1.2.\n3", "=1+1", "%s%n", "\u202e1.2",
)  # fmt: skip
_TRICKY_TEXTS = (
    "=HYPERLINK(1)", "@SUM(A1)", "\x1b[2J\x07", "<script>alert(1)</script>", "'; DROP TABLE jobs;--", "\x00" * 20,
)  # fmt: skip


def flip_bytes(files: list[Path], chance: random.Random) -> None:
    content = bytearray(files[0].read_bytes())
    for _ in range(chance.randint(1, 20)):
        content[chance.randrange(132, min(len(content), _HEADER_BYTES))] = chance.randrange(256)
    files[0].write_bytes(content)


def cut_off(files: list[Path], chance: random.Random) -> None:
    content = files[0].read_bytes()
    files[0].write_bytes(content[: chance.randrange(len(content))])


def false_length(files: list[Path], chance: random.Random) -> None:
    """The length of some element is a lie."""
    content = bytearray(files[0].read_bytes())
    position = chance.randrange(140, 1200)
    lie = chance.choice([0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0, 1])
    content[position : position + 4] = struct.pack("<I", lie)
    files[0].write_bytes(content)


def deep_sequence(files: list[Path], chance: random.Random) -> None:
    """Sequences inside sequences, of stated or undefined length."""
    depth = chance.choice([1000, 5000])
    undefined = chance.random() < 0.5
    content = b""
    for _ in range(depth):
        if undefined:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"
            content = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
            content = b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<I", len(item)) + item
    whole = files[0].read_bytes()
    marker = b"\x10\x00\x10\x00PN"  # before Patient's Name
    files[0].write_bytes(whole.replace(marker, content + marker, 1))


def huge_image(files: list[Path], chance: random.Random) -> None:
    change(files[0], Rows=65535, Columns=65535, NumberOfFrames=chance.choice([1, 100000, 2**31 - 1]))


def deflate_bomb(files: list[Path], chance: random.Random) -> None:
    """Two gigabytes of zeros in two megabytes."""
    dataset = pydicom.dcmread(files[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    written = pydicom.dcmread(io.BytesIO(whole), stop_before_pixels=True)
    start = 132 + 12 + written.file_meta.FileMetaInformationGroupLength
    inflated = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(inflated + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", _BOMB_BYTES))
    body += packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands alone, so one block of zeros can be repeated.
    zeros = packer.compress(bytes(_ZEROS_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    files[0].write_bytes(whole[:start] + body + zeros * (_BOMB_BYTES // _ZEROS_BYTES) + packer.flush())


def picture_bomb(files: list[Path], chance: random.Random) -> None:
    """A compressed picture whose own header claims 65,500 × 65,500 pixels."""
    dataset = pydicom.dcmread(files[0])
    syntax = chance.choice([JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless, RLELossless])
    size = struct.pack(">HH", 65500, 65500)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00"
    area = struct.pack(">8I", 65500, 65500, 0, 0, 65500, 65500, 0, 0)
    streams = {
        JPEGBaseline8Bit: b"\xff\xd8\xff\xc0\x00\x0b\x08" + size + b"\x01\x01\x11\x00" + scan + b"\x3f\x00",
        JPEGLSLossless: b"\xff\xd8\xff\xf7\x00\x0b\x10" + size + b"\x01\x01\x11\x00" + scan + b"\x00\x00",
        JPEG2000Lossless: b"\xff\x4f\xff\x51\x00\x29\x00\x00" + area + b"\x00\x01\x0f\x01\x01\xff\x93",
        RLELossless: struct.pack("<16I", 2, 64, 80, *[0] * 13) + b"\x81\x00" * 8,
    }
    claimed = chance.choice([10, 65500])
    dataset.Rows = dataset.Columns = claimed
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([streams[syntax] + bytes(100) + b"\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(files[0], enforce_file_format=True)


def tricky_uid(files: list[Path], chance: random.Random) -> None:
    keyword = chance.choice(
        ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"]
    )
    value = chance.choice(_TRICKY_UIDS)
    for path in files:
        change(path, **{keyword: value})


def tricky_text(files: list[Path], chance: random.Random) -> None:
    keyword = chance.choice(
        ["PatientComments", "SeriesDescription", "StudyDescription", "ProtocolName", "Manufacturer"]
    )
    change(files[0], **{keyword: chance.choice(_TRICKY_TEXTS)})


def impossible_number(files: list[Path], chance: random.Random) -> None:
    keyword = chance.choice(
        ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "SliceThickness"]
    )
    value = chance.choice([["1e400"], ["nan"], ["-0"], ["1", "2"], ["a\\b"], ["1" * 300], [""]])
    change(files[0], **{keyword: value})


def wrong_character_set(files: list[Path], chance: random.Random) -> None:
    change(
        files[0],
        SpecificCharacterSet=chance.choice(["ISO_IR 999", "ISO 2022 IR 87", "GB18030", "\\\\", "utf-8"]),
    )
    content = files[0].read_bytes().replace(b"t1_mprage", b"t1\x1b$B\xff\xfe\x80a", 1)
    files[0].write_bytes(content)


def private_tags(files: list[Path], chance: random.Random) -> None:
    dataset = pydicom.dcmread(files[0])
    block = dataset.private_block(0x0029, "EVIL", create=True)
    block.add_new(0x01, "UN", chance.randbytes(5000))
    block.add_new(0x02, "SQ", [Dataset()])
    dataset.save_as(files[0])


def strange_files(files: list[Path], chance: random.Random) -> None:
    """Links out of the folder and in circles, a pipe, an empty file, names that hurt."""
    folder = files[0].parent
    (folder / "passwd.dcm").symlink_to("/etc/passwd")
    (folder / "circle").symlink_to(folder)
    (folder / "gone.dcm").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.dcm")
    (folder / "empty.dcm").touch()
    (folder / ("n" * 250)).write_bytes(chance.randbytes(500))
    (folder / "new\nline\x1b[31m").write_bytes(b"DICM")


def twin_instances(files: list[Path], chance: random.Random) -> None:
    """Two files of one SOP Instance UID with other content."""
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 0xFF
    files[0].with_name("twin.dcm").write_bytes(content)


def wrong_representation(files: list[Path], chance: random.Random) -> None:
    """An element says it is of another value representation than it is."""
    content = files[0].read_bytes()
    keyword = chance.choice([b"DS", b"UI", b"US", b"IS", b"LO", b"CS", b"DA", b"SQ", b"PN"])
    places = [place for place in range(340, len(content) - 1) if content[place : place + 2] == keyword]
    if places:
        place = chance.choice(places)
        other = chance.choice([b"SQ", b"OB", b"UN", b"AT", b"FD", b"UT", b"ZZ", b"\0\0"])
        files[0].write_bytes(content[:place] + other + content[place + 2 :])


def other_tag(files: list[Path], chance: random.Random) -> None:
    """Elements change places: values that belong elsewhere, needed ones that are gone."""
    dataset = pydicom.dcmread(files[0])
    elements = [element for element in dataset if element.tag.group > 2 and element.keyword != "PixelData"]
    for element in chance.sample(elements, 3):
        del dataset[element.tag]
        tag = chance.choice([chance.randrange(0x00080000, 0x7FE00000), chance.choice(elements).tag])
        dataset.add_new(tag, element.VR, element.value)
    dataset.save_as(files[0])


def many_values(files: list[Path], chance: random.Random) -> None:
    """A number with a hundred thousand values, a text of a megabyte."""
    change(files[0], ImageType=["ORIGINAL"] * 100_000, ImageComments="x" * 1_000_000)
    if chance.random() < 0.5:
        change(files[0], WindowCenter=["1"] * 100_000)


def decoding_bomb(files: list[Path], chance: random.Random) -> None:
    """A proper picture of 81 million pixels in a few hundred kilobytes, in place of one of 120 pixels."""
    kind, syntax = chance.choice([("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)])
    buffer = io.BytesIO()
    side = 9000 if kind == "JPEG" else 3000
    Image.new("L", (side, side)).save(buffer, kind)
    dataset = pydicom.dcmread(files[0])
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    if chance.random() < 0.5:
        dataset.Rows = dataset.Columns = side
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(files[0], enforce_file_format=True)


def directory(files: list[Path], chance: random.Random) -> None:
    """A DICOMDIR whose records point out of the folder."""
    record = Dataset()
    record.DirectoryRecordType = "IMAGE"
    record.ReferencedFileID = chance.choice([["..", "..", "etc", "passwd"], ["/etc/passwd"], ["..\\..\\x"]])
    dataset = pydicom.dcmread(files[0])
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MediaStorageDirectoryStorage
    dataset.DirectoryRecordSequence = [record]
    with pydicom.config.disable_value_validation():
        dataset.save_as(files[0].with_name("DICOMDIR"))


def several(files: list[Path], chance: random.Random) -> None:
    """Some of the others together, on files of their own."""
    for number, mutation in enumerate(chance.sample([m for m in MUTATIONS if m is not several], 3)):
        mutation(files[number:], chance)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bytes, flip_bytes, flip_bytes, cut_off, false_length, false_length, deep_sequence, huge_image, deflate_bomb,
    picture_bomb, decoding_bomb, tricky_uid, tricky_text, impossible_number, wrong_character_set, private_tags,
    strange_files, twin_instances, wrong_representation, other_tag, many_values, directory, several, several,
)  # fmt: skip


def change(path: Path, **attributes: object) -> None:
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(path)
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
            if keyword == "SOPInstanceUID":
                dataset.file_meta.MediaStorageSOPInstanceUID = value
        dataset.save_as(path)


def make_case(folder: Path, number: int) -> str:
    """Make a case; returns its kind."""
    chance = random.Random(number)
    mutation = MUTATIONS[number % len(MUTATIONS)]
    attributes = {"PatientName": PATIENT_NAME, "PatientID": PATIENT_ID}
    made = write_visit(folder, contrasts=("t1ce", "flair"), name=f"case {number}", attributes=attributes)
    try:
        mutation(made["t1ce"], chance)
    except (ValueError, TypeError, OverflowError, AttributeError, struct.error, OSError):
        # pydicom will not write it: a cut file takes its place.
        cut_off(made["t1ce"], chance)
    return mutation.__name__


def read_everything(folder: Path) -> int:
    """What the application reads of a folder; 0 when it was read, 3 when it was refused with a sentence."""
    from imaging.catalog import read_catalog
    from imaging.errors import ImagingError
    from imaging.reader import read_volume
    from imaging.role_selection import select_roles

    try:
        catalog = read_catalog(folder)
        for visit in catalog.visits:
            select_roles(visit, required=frozenset())
            for series in visit.series:
                if series.geometry is not None:
                    read_volume(series)
    except ImagingError as error:
        print(f"{error.message} [{error.reason.value}]", flush=True)
        return 3
    return 0


def judge(read: Callable[[], int], log: Path) -> int:
    """Read in a child with limits; its exit code, negative for the signal that ended it. Its words go to a file."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        signal.alarm(SECONDS)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            code = read()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def clear(folder: Path) -> None:
    """Delete a case, its links and circles too."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def main(root: Path, count: int, first: int) -> None:
    import imaging.catalog
    import imaging.reader
    import imaging.role_selection  # noqa: F401  imported once, before the children

    for number in range(first, first + count):
        folder = root / str(number)
        kind = make_case(folder, number)
        before = sorted(path.name for path in root.iterdir())
        code = judge(lambda folder=folder: read_everything(folder), root.parent / "log")
        told = (root.parent / "log").read_text(errors="replace")
        clean = before == sorted(path.name for path in root.iterdir())
        line = {"number": number, "kind": kind, "code": code, "told": told[-2000:], "clean": clean}
        print(json.dumps(line), flush=True)
        clear(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
