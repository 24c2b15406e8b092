"""C-STORE provider: takes instances from known callers, durably, and answers only then."""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import pydicom
import pynetdicom
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pynetdicom import AE, evt
from pynetdicom.events import Event as NetworkEvent
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from gateway.audit import AuditLog, Event, Outcome
from gateway.commitment import Commitments
from gateway.folders import WorkFolder, instances_in, is_uid
from gateway.metrics import Metrics
from gateway.settings import ReceiverSection, TlsSection
from imaging.annotation_index import ANNOTATION_CLASSES
from imaging.series import IMAGE_CLASSES

SOURCE = "received"
STORAGE_CLASSES = tuple(sorted(IMAGE_CLASSES | ANNOTATION_CLASSES))
# Everything the ingest decodes; never deflated, whose length nothing bounds.
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5",
)  # fmt: skip

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_STUDY_UID = 0x0020000D
_RATE_WINDOW_SECONDS = 10.0


class Receiver:
    """Listens for associations and files what they bring.

    Parameters
    ----------
    settings : ReceiverSection
        Address, allowed callers and limits.
    folders : WorkFolder
        Where instances go.
    pressure : callable
        Says why nothing can be taken now; empty when all is well.
    commitments : Commitments
        Gets the answers to our requests for storage commitment.
    audit, metrics
        Told about every association and every refusal.
    """

    def __init__(
        self,
        settings: ReceiverSection,
        folders: WorkFolder,
        pressure: Callable[[], str],
        commitments: Commitments,
        audit: AuditLog,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._folders = folders
        self._pressure = pressure
        self._commitments = commitments
        self._audit = audit
        self._metrics = metrics
        self._lock = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._recent: dict[str, deque[float]] = defaultdict(deque)
        self._server: ThreadedAssociationServer | None = None
        self._other_temporary_folder: str | None = None

    def start(self) -> int:
        """Begin to listen; returns the port."""
        settings = self._settings
        # Datasets go to the disk while they arrive: memory does not depend on what a caller sends. pynetdicom puts them
        # into the process's temporary folder, which has to lie on the disk of the work folder for a link to be enough.
        pynetdicom._config.STORE_RECV_CHUNKED_DATASET = True
        self._other_temporary_folder = tempfile.tempdir
        tempfile.tempdir = str(self._folders.incoming)
        entity = AE(ae_title=settings.ae_title)
        entity.supported_contexts = []
        entity.add_supported_context(Verification)
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        # Here the caller is the provider: it keeps what we sent and reports to us.
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.allowed_callers)
        entity.maximum_associations = settings.max_associations
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = settings.idle_timeout_seconds
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_EVENT_REPORT, self._commitments.settle),
            (evt.EVT_REJECTED, self._tell_rejected),
            (evt.EVT_ESTABLISHED, self._tell_established),
        ]
        self._server = entity.start_server(
            (settings.host, settings.port),
            block=False,
            evt_handlers=handlers,  # type: ignore[arg-type]
            ssl_context=server_context(settings.tls) if settings.tls else None,
        )
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None
            tempfile.tempdir = self._other_temporary_folder

    def _store(self, event: NetworkEvent) -> int:
        caller = event.assoc.requestor.ae_title
        reason, status = self._take(event, caller)
        if status == SUCCESS:
            self._metrics.received.inc()
        else:
            self._metrics.refused.labels(reason).inc()
            self._audit.write(
                Event.TRANSFERRED,
                f"instance refused: {reason}",
                outcome=Outcome.MINOR_FAILURE,
                participant=_participant(event),
            )
        return status

    def _take(self, event: NetworkEvent, caller: str) -> tuple[str, int]:
        if self._pressure():
            return "back_pressure", OUT_OF_RESOURCES
        if not self._within_rate(caller):
            return "rate", OUT_OF_RESOURCES
        received = event.dataset_path
        if received.stat().st_size > self._settings.max_instance_mb * 1e6:
            return "too_large", OUT_OF_RESOURCES
        sop_uid = str(event.request.AffectedSOPInstanceUID or "")
        study_uid = _study_uid(received)
        if not is_uid(sop_uid) or not is_uid(study_uid):
            return "not_understood", CANNOT_UNDERSTAND
        inbox = self._folders.inbox(SOURCE, study_uid)
        if not self._has_room(inbox):
            return "too_many_instances", OUT_OF_RESOURCES
        aside = self._folders.aside()
        try:
            os.link(received, aside)
            if self._folders.accept(aside, inbox, sop_uid):
                with self._lock:
                    self._sizes[inbox] += 1
        except OSError:
            aside.unlink(missing_ok=True)
            return "disk", OUT_OF_RESOURCES
        return "", SUCCESS

    def _has_room(self, inbox: Path) -> bool:
        with self._lock:
            if inbox not in self._sizes:
                self._sizes[inbox] = len(instances_in(inbox))
            return self._sizes[inbox] < self._settings.max_instances_per_study

    def _within_rate(self, caller: str) -> bool:
        moment = time.monotonic()
        with self._lock:
            recent = self._recent[caller]
            while recent and recent[0] < moment - _RATE_WINDOW_SECONDS:
                recent.popleft()
            if len(recent) >= self._settings.instances_per_second * _RATE_WINDOW_SECONDS:
                return False
            recent.append(moment)
            return True

    def _tell_established(self, event: NetworkEvent) -> None:
        self._audit.write(Event.BEGIN_TRANSFER, "association accepted", participant=_participant(event))

    def _tell_rejected(self, event: NetworkEvent) -> None:
        self._audit.write(
            Event.SECURITY_ALERT,
            "association rejected: caller or called AE title not allowed, or too many associations",
            outcome=Outcome.SERIOUS_FAILURE,
            participant=_participant(event),
        )


def _participant(event: NetworkEvent) -> str:
    """AE title and address of the other side. An AE title that is none could carry anything, so it is shown quoted."""
    requestor = event.assoc.requestor
    return f"{requestor.ae_title!r} {requestor.address}"


def _study_uid(path: Path) -> str:
    """Study Instance UID of a file, reading no further than that; empty when the file cannot be read."""

    def past_it(tag: BaseTag, vr: str | None, length: int) -> bool:
        return tag > _STUDY_UID

    try:
        with path.open("rb") as file, pydicom.config.disable_value_validation():
            return str(read_partial(file, stop_when=past_it).get("StudyInstanceUID", ""))
    except Exception:  # whatever a hostile file makes pydicom raise, the answer is the same
        return ""


def server_context(tls: TlsSection) -> ssl.SSLContext:
    """TLS of a server that asks for the other side's certificate (BCP 195: 1.2 or newer)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(str(tls.certificate), str(tls.key))
    return context


def client_context(tls: TlsSection) -> ssl.SSLContext:
    """TLS of a client that shows a certificate of its own. AE hosts are often bare addresses: names are not checked,
    the authority is."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(tls.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.load_cert_chain(str(tls.certificate), str(tls.key))
    return context
