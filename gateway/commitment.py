"""Storage commitment (DICOM PS3.4 annex J): the archive's word that it keeps what we sent.

We ask by N-ACTION on the association that brought the objects. The answer, an N-EVENT-REPORT, comes on the same
association or on one that the archive opens to our receiver; :class:`Commitments` is where the two meet. Nothing is
kept over a restart: an unanswered delivery is repeated as a whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.events import Event as NetworkEvent
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
SUCCESS = 0x0000
_REQUEST_COMMITMENT = 1
_ALL_COMMITTED, _SOME_FAILED = 1, 2
_PROCESSING_FAILURE, _NO_SUCH_EVENT_TYPE = 0x0110, 0x0113


_REPLY_SECONDS = 10.0


@dataclass
class _Transaction:
    committed: frozenset[str] = frozenset()
    told_on: Association | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class Commitments:
    """Requests that wait for their answer, by Transaction UID; threads may share it.

    Parameters
    ----------
    has_receiver : bool
        Whether the archive can open an association to us; without, commitment is not asked for.
    """

    def __init__(self, has_receiver: bool) -> None:
        self.has_receiver = has_receiver
        self._lock = threading.Lock()
        self._open: dict[str, _Transaction] = {}

    def begin(self) -> str:
        """Transaction UID of a new request."""
        transaction_uid = str(generate_uid())
        with self._lock:
            self._open[transaction_uid] = _Transaction()
        return transaction_uid

    def wait(self, transaction_uid: str, seconds: float) -> frozenset[str] | None:
        """SOP Instance UIDs the archive committed to; None when it has not answered within some seconds."""
        with self._lock:
            transaction = self._open[transaction_uid]
        return transaction.committed if transaction.answered.wait(seconds) else None

    def was_told_on(self, transaction_uid: str, association: Association) -> bool:
        """Whether the answer came on this association."""
        with self._lock:
            return self._open[transaction_uid].told_on is association

    def end(self, transaction_uid: str) -> None:
        """Wait for an answer no more."""
        with self._lock:
            self._open.pop(transaction_uid, None)

    def settle(self, event: NetworkEvent) -> tuple[int, Dataset | None]:
        """Handle an N-EVENT-REPORT; its status. A transaction that is not ours, or no longer, is a failure."""
        if event.event_type not in (_ALL_COMMITTED, _SOME_FAILED):
            return _NO_SUCH_EVENT_TYPE, None
        try:
            report = event.event_information
            transaction_uid = str(report.TransactionUID)
            committed = frozenset(
                str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence", [])
            )
        except Exception:  # whatever a hostile dataset makes pydicom raise, the answer is the same
            return _PROCESSING_FAILURE, None
        with self._lock:
            transaction = self._open.get(transaction_uid)
            if transaction is None:
                return _PROCESSING_FAILURE, None
            if not transaction.answered.is_set():
                transaction.committed, transaction.told_on = committed, event.assoc
                transaction.answered.set()
        return SUCCESS, None


class Request:
    """Asks on an association that has brought the objects, and waits for an answer there.

    Parameters
    ----------
    association : Association
        Still open.
    commitments : Commitments
        Settles answers, wherever they come.
    transaction_uid : str
        From :meth:`Commitments.begin`.
    """

    def __init__(self, association: Association, commitments: Commitments, transaction_uid: str) -> None:
        self._association = association
        self._commitments = commitments
        self._transaction_uid = transaction_uid
        self._is_replying = False
        self._replied = threading.Event()
        association.bind(evt.EVT_N_EVENT_REPORT, commitments.settle)
        association.bind(evt.EVT_DIMSE_SENT, self._reply_begins)
        association.bind(evt.EVT_PDU_SENT, self._reply_has_left)

    @property
    def is_offered(self) -> bool:
        """Whether the other side accepted storage commitment."""
        return any(
            context.abstract_syntax == StorageCommitmentPushModel
            for context in self._association.accepted_contexts
        )

    def send(self, objects: Iterable[tuple[str, str]]) -> bool:
        """Ask for commitment of objects (SOP Class UID, SOP Instance UID); whether the request was taken.

        Raises
        ------
        ValueError, RuntimeError
            When the association has ended.
        """
        request = Dataset()
        request.TransactionUID = self._transaction_uid
        request.ReferencedSOPSequence = Sequence()
        for sop_class, sop_uid in objects:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
            request.ReferencedSOPSequence.append(item)
        status, _ = self._association.send_n_action(
            request, _REQUEST_COMMITMENT, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
        )
        return bool(status.get("Status") == SUCCESS)

    def wait(self, seconds: float) -> frozenset[str] | None:
        """Wait for an answer while the association stays open; None when there is none yet."""
        end = time.monotonic() + seconds
        committed = None
        while committed is None and self._association.is_established and time.monotonic() < end:
            committed = self._commitments.wait(self._transaction_uid, 0.2)
        if self._commitments.was_told_on(self._transaction_uid, self._association):
            # To release before our reply has left would break the association off.
            self._replied.wait(_REPLY_SECONDS)
        return committed

    def _reply_begins(self, event: NetworkEvent) -> None:
        self._is_replying = self._is_replying or isinstance(event.message, N_EVENT_REPORT_RSP)

    def _reply_has_left(self, event: NetworkEvent) -> None:
        if self._is_replying:
            self._replied.set()
