"""C-STORE provider: takes instances from known callers, durably, and answers only then."""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

import pynetdicom
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event as NetworkEvent
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from gateway.audit import AuditLog, Event, Outcome
from gateway.commitment import Commitments
from gateway.folders import RECEIVED, Filed, WorkFolder, instances_in, is_uid, key_of
from gateway.headers import Header, read_header
from gateway.metrics import Metrics
from gateway.refusals import Refusal
from gateway.settings import ReceiverSection, TlsSection
from imaging.annotation_index import ANNOTATION_CLASSES
from imaging.series import IMAGE_CLASSES

SOURCE = RECEIVED
STORAGE_CLASSES = tuple(sorted(IMAGE_CLASSES | ANNOTATION_CLASSES))
# Everything the ingest decodes; never deflated, whose length nothing bounds.
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5",
)  # fmt: skip

SUCCESS = 0x0000
_RATE_WINDOW_SECONDS = 10.0
logger = logging.getLogger("oncotwin.gateway")


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
        self._cut_off: WeakSet[Association] = WeakSet()
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
            (evt.EVT_PDU_RECV, self._cut_off_too_large),
            (evt.EVT_CONN_CLOSE, self._drop_part),
        ]
        self._server = server = entity.start_server(
            (settings.host, settings.port),
            block=False,
            evt_handlers=handlers,  # type: ignore[arg-type]
            ssl_context=server_context(settings.tls) if settings.tls else None,
        )
        assert server is not None, "only a server that blocks is none"
        return int(server.server_address[1])

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None
            tempfile.tempdir = self._other_temporary_folder

    def _store(self, event: NetworkEvent) -> int:
        header = Header()
        try:
            header = read_header(event.dataset_path)
            refusal = self._take(event, header)
        except OSError:
            refusal = Refusal.DISK
        except Exception as error:  # its text may quote the instance
            logger.error("an instance could not be taken: %s", type(error).__name__)
            refusal = Refusal.FAULT
        if refusal is None:
            self._metrics.received.inc()
            return SUCCESS
        # Noted before the answer: whatever the caller does then, the rest is not taken for the whole study.
        self._folders.refuse(header.study_uid, _sop_uid(event), refusal)
        self._tell_refused(event, refusal)
        return refusal.status

    def _take(self, event: NetworkEvent, header: Header) -> Refusal | None:
        if self._pressure():
            return Refusal.BACK_PRESSURE
        if not self._within_rate(event.assoc.requestor.ae_title):
            return Refusal.RATE
        received, sop_uid = event.dataset_path, _sop_uid(event)
        if received.stat().st_size > self._largest:
            return Refusal.TOO_LARGE
        if not is_uid(sop_uid) or not is_uid(header.study_uid):
            return Refusal.NOT_UNDERSTOOD
        inbox = self._folders.inbox(SOURCE, header.study_uid)
        if not self._has_room(inbox, sop_uid):
            return Refusal.TOO_MANY_INSTANCES
        aside = self._folders.aside()
        try:
            os.link(received, aside)
            if self._folders.accept(aside, inbox, sop_uid) is Filed.NEW:
                with self._lock:
                    self._sizes[inbox] += 1
        finally:
            aside.unlink(missing_ok=True)
        return None

    @property
    def _largest(self) -> float:
        """Bytes that an instance may have."""
        return self._settings.max_instance_mb * 1e6

    def _cut_off_too_large(self, event: NetworkEvent) -> None:
        """Hang up on a caller whose object has exceeded the limit, and not only when all of it has filled the disk."""
        part = _part(event.assoc)
        if part is None or event.assoc in self._cut_off or part.stat().st_size <= self._largest:
            return
        if self._refuse_part(event, part, Refusal.TOO_LARGE):
            self._cut_off.add(event.assoc)
        event.assoc.abort()

    def _drop_part(self, event: NetworkEvent) -> None:
        """Delete what came of an object whose transfer broke off; nothing more is written to it."""
        part = _part(event.assoc)
        if part is None:
            return
        if event.assoc in self._cut_off or self._refuse_part(event, part, Refusal.BROKEN_OFF):
            part.unlink(missing_ok=True)

    def _refuse_part(self, event: NetworkEvent, part: Path, refusal: Refusal) -> bool:
        """Whether it could be noted that an instance was not taken of which a part has come."""
        self._tell_refused(event, refusal)
        try:
            self._folders.refuse_part(part, refusal)
        except OSError as error:
            logger.error("what came of an instance cannot be read (%s); it is kept", error.strerror)
            return False
        return True

    def _tell_refused(self, event: NetworkEvent, refusal: Refusal) -> None:
        self._metrics.refused.labels(refusal.value).inc()
        self._audit.write(
            Event.TRANSFERRED,
            f"instance refused: {refusal.value}",
            outcome=Outcome.MINOR_FAILURE,
            participant=_participant(event),
        )

    def _has_room(self, inbox: Path, sop_uid: str) -> bool:
        with self._lock:
            if inbox not in self._sizes:
                self._sizes[inbox] = len(instances_in(inbox))
            is_full = self._sizes[inbox] >= self._settings.max_instances_per_study
        return not is_full or (inbox / f"{key_of(sop_uid)}.dcm").exists()

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


def _sop_uid(event: NetworkEvent) -> str:
    return str(getattr(event.request, "AffectedSOPInstanceUID", None) or "")


def _part(association: Association) -> Path | None:
    """File of the object that is coming, as long as it is not whole. Only pynetdicom's message knows it."""
    return getattr(association.dimse.message, "_data_set_path", None)


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
