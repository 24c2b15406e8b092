"""Which series were acquired in one sitting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from imaging.errors import Reason
from imaging.series import RefusedSeries, Series

# A StudyInstanceUID that spans longer than this was reused for a follow-up.
_LONGEST_STUDY = timedelta(hours=24)


def group_visits(
    items: Sequence[Series | RefusedSeries], gap: timedelta
) -> tuple[list[list[Series | RefusedSeries]], list[RefusedSeries]]:
    """Series of one sitting together, in the order of time; and those that no date places."""
    timed = sorted((item for item in items if item.has_time), key=moment)
    groups: list[list[Series | RefusedSeries]] = []
    for item in timed:
        close = [group for group in groups if _belongs(item, group, gap)]
        groups = [group for group in groups if group not in close]
        groups.append([member for group in close for member in group] + [item])
    unplaced: list[RefusedSeries] = []
    for item in sorted(
        (item for item in items if not item.has_time),
        key=lambda item: (item.acquired is None, item.study_uid, item.uid),
    ):
        home = _untimed_home(item, groups)
        if home is not None:
            home.append(item)
        elif isinstance(item, RefusedSeries) and item.acquired is None:
            unplaced.append(item)
        elif any(moment(member).date() == moment(item).date() for group in groups for member in group):
            unplaced.append(_ambiguous_day(item))
        else:
            groups.append([item])
    dated = [group for group in groups if not _has_dummy_date(group)]
    unplaced += [_dummy_dated(item) for group in groups if group not in dated for item in group]
    return sorted(dated, key=lambda group: min(map(moment, group))), unplaced


def moment(item: Series | RefusedSeries) -> datetime:
    return item.acquired or datetime.max


def _belongs(item: Series | RefusedSeries, group: Sequence[Series | RefusedSeries], gap: timedelta) -> bool:
    return any(
        abs(moment(item) - moment(member)) <= (_LONGEST_STUDY if member.study_uid == item.study_uid else gap)
        for member in group
    )


def _untimed_home(
    item: Series | RefusedSeries, groups: Sequence[list[Series | RefusedSeries]]
) -> list[Series | RefusedSeries] | None:
    """The visit of a series without time of day: its study's, else the only one of its day."""
    candidates = [group for group in groups if any(member.study_uid == item.study_uid for member in group)]
    if item.acquired is not None:
        day = item.acquired.date()
        of_day = [group for group in groups if any(moment(member).date() == day for member in group)]
        candidates = [group for group in candidates if group in of_day] or of_day
    return candidates[0] if len(candidates) == 1 else None


def _has_dummy_date(group: Sequence[Series | RefusedSeries]) -> bool:
    """Whether several studies with several series each state one and the same second: a de-identifier put it there."""
    studies = Counter(item.study_uid for item in group)
    moments = {moment(item).replace(microsecond=0) for item in group}
    return len(studies) > 1 and min(studies.values()) > 1 and len(moments) == 1


def _dummy_dated(item: Series | RefusedSeries) -> RefusedSeries:
    return _undated(
        item,
        f"{item.label} has the same date and time to the second as all series of other studies, as some de-identifiers "
        "write: when each study was acquired is unknown; restore the dates, or shift them by the same number of days.",
    )


def _ambiguous_day(item: Series | RefusedSeries) -> RefusedSeries:
    return _undated(
        item,
        f"{item.label} has no AcquisitionTime, and its day has several visits: which one it belongs to is unknown; add "
        "the time.",
    )


def _undated(item: Series | RefusedSeries, sentence: str) -> RefusedSeries:
    return RefusedSeries(
        uid=item.uid,
        description=item.description,
        reason=Reason.MISSING_DATE,
        sentence=sentence,
        modality=item.modality,
        file_count=len(item.instance_uids),
        study_uid=item.study_uid,
        number=item.number,
        headers=item.headers,
        instance_uids=item.instance_uids,
    )
