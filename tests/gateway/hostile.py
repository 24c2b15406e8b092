"""The hostile corpus sent to the gateway: ``python -m tests.gateway.hostile FOLDER COUNT [FIRST]``.

Each case goes by C-STORE, its bytes as they are, to a receiver in this process, whose memory is limited. What it took
is queued and examined as a worker does it, in a child with limits. Prints one JSON line per case.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pynetdicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association

from app.settings import IngestSection
from gateway.audit import AuditLog
from gateway.commitment import Commitments
from gateway.examination import Examination, describe
from gateway.folders import WorkFolder, instances_in, remove, snapshot, study_uid_of
from gateway.jobs import JobTable
from gateway.metrics import Metrics
from gateway.receiver import SOURCE, STORAGE_CLASSES, TRANSFER_SYNTAXES, Receiver
from gateway.rules import takes
from gateway.settings import ReceiverSection, RuleSection
from tests.imaging.hostile import MEMORY_BYTES, clear, judge, make_case

EXAMINED, REFUSED, UNREADABLE = 0, 3, 1
_OUR_NAMES = re.compile(
    r"[0-9a-f]{32}(\.dcm|\.refused)?|study|incoming|inbox|received|work|audit\.jsonl|jobs\.sqlite(-\w+)?"
)
_PREAMBLE_BYTES = 132
_DEFLATED = "1.2.840.10008.1.2.1.99"


class Target:
    """A receiver with its table of jobs."""

    def __init__(self, root: Path) -> None:
        self.folders = WorkFolder(root)
        self.jobs = JobTable(f"sqlite:///{root / 'jobs.sqlite'}")
        section = ReceiverSection(port=0, allowed_callers=("MODALITY",), max_instance_mb=100.0)
        audit = AuditLog(root / "audit.jsonl")
        self._receiver = Receiver(section, self.folders, lambda: "", Commitments(True), audit, Metrics())
        self.port = self._receiver.start()

    def stop(self) -> None:
        self._receiver.stop()

    def strange_names(self) -> list[str]:
        """Files and folders in the work folder that are not named by us."""
        return [p.name for p in self.folders.root.rglob("*") if not _OUR_NAMES.fullmatch(p.name)]


def send_as_it_is(folder: Path, port: int) -> list[str]:
    """Send every file whose meta information a sender can read, bytes unchanged; the status of each as text."""
    statuses = []
    association: Association | None = None
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        if association is None or not association.is_established:
            association = _associate(port)
        try:
            status = association.send_c_store(path).get("Status")
            statuses.append("hung up" if status is None else f"{status:04x}")
        except Exception as error:  # the sender cannot read its own file: it would not have been sent
            statuses.append(type(error).__name__)
    if association is not None and association.is_established:
        association.release()
    return statuses


def _associate(port: int) -> Association:
    entity = AE(ae_title="MODALITY")
    for sop_class in STORAGE_CLASSES:
        for syntax in (*TRANSFER_SYNTAXES, _DEFLATED):
            entity.add_requested_context(sop_class, UID(syntax))
    association = entity.associate("127.0.0.1", port, ae_title="ONCOTWIN")
    assert association.is_established, "the receiver has died"
    return association


def mend_meta(folder: Path) -> None:
    """Give files whose meta information was hit that of an unharmed one, so that the rest of them is sent."""
    files = [path for path in sorted(folder.rglob("*.dcm")) if path.is_file() and not path.is_symlink()]
    whole = [path for path in files if _meta_length(path)]
    if not whole:
        return
    good = whole[-1].read_bytes()[: _meta_length(whole[-1])]
    for path in files:
        if not _meta_length(path):
            path.write_bytes(good + path.read_bytes()[len(good) :])


def _meta_length(path: Path) -> int:
    """Bytes before the dataset; 0 when a sender could not use them."""
    try:
        meta = read_file_meta_info(path)
        assert meta.TransferSyntaxUID in TRANSFER_SYNTAXES
        return _PREAMBLE_BYTES + 12 + int(meta.FileMetaInformationGroupLength)
    except Exception:  # whatever a mutated header makes pydicom raise, a sender could not use it
        return 0


def examine_all(target: Target, log: Path) -> Iterator[tuple[int, str]]:
    """Queue and examine what arrived; exit code of the examination and what it said."""
    for inbox in target.folders.arrived(SOURCE):
        job = target.jobs.add(study_uid_of(inbox), instances_in(inbox), SOURCE)
        if job is not None:
            study = target.folders.job(job.id)
            snapshot(inbox, job.instances, study)
            code = judge(lambda study=study: _examine(study), log)
            yield code, log.read_text(errors="replace")
            remove(study)
        remove(inbox)


def _examine(study: Path) -> int:
    """As gateway.attempt does it."""
    answer = describe(study, IngestSection())
    text = json.dumps(answer)
    assert json.loads(text) == json.loads(text)
    found = Examination(**{k: tuple(v) if isinstance(v, list) else v for k, v in answer.items()})
    print(takes((RuleSection(),), found))
    if found.refusal:
        print(f"{found.refusal[1]} [{found.refusal[0]}]")
        return REFUSED
    return EXAMINED


def main(root: Path, count: int, first: int) -> None:
    for library in ("pydicom", "pynetdicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    import imaging.catalog
    import imaging.role_selection  # noqa: F401  imported once, before the children

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True
    target = Target(root / "gateway")
    log = root / "log"
    for number in range(first, first + count):
        folder = root / "case"
        with pydicom.config.disable_value_validation():
            kind = make_case(folder, number)
            mend_meta(folder)
            before = sorted(os.listdir(root))
            statuses = send_as_it_is(folder, target.port)
        examined = list(examine_all(target, log))
        line = {
            "number": number,
            "kind": kind,
            "statuses": statuses,
            "codes": [code for code, _ in examined],
            "told": "".join(told for _, told in examined)[-2000:],
            "clean": sorted({*os.listdir(root)} - {"log"}) == sorted({*before} - {"log"})
            and not target.strange_names(),
        }
        print(json.dumps(line), flush=True)
        clear(folder)
    target.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
