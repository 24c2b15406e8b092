"""Which series of a visit is its T1, T1 after contrast agent, T2 and FLAIR, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np

from imaging.catalog import RefusedSeries, Series, Visit
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry
from imaging.roles import ROLES, Role
from imaging.weighting import Weighting, weigh

# A slab thinner than this does not cover a brain; the adult brain measures about 170 x 130 x 110 mm.
_BRAIN_EXTENT_MM = 100.0
# Slices up to this thick count as a three-dimensional acquisition's.
_VOLUMETRIC_SPACING_MM = 2.0
# The agent needs this long to be injected and the scan to be repeated.
_SHORTEST_REPEAT = timedelta(minutes=1)

# Why a role that nobody needs may lack a series without ending the run.
_DISPENSABLE = (Reason.MISSING_SEQUENCE, Reason.TRUNCATED)

_TITLES: dict[Role, str] = {"t1": "T1", "t1ce": "T1 after contrast agent", "t2": "T2", "flair": "FLAIR"}
_OVERRIDE = "name the right one by series_number or series_uid in the role rules of app.yaml"


@dataclass(frozen=True)
class RoleRule:
    """A rule of ``app.yaml`` that goes before all judgement of headers.

    Parameters
    ----------
    role : {"t1", "t1ce", "t2", "flair", "none"}
        What the matching series is; "none" keeps it out of every role.
    description : str, optional
        Regular expression searched in the Series Description, ignoring case.
    series_number : int, optional
        Series Number.
    series_uid : str, optional
        Series Instance UID.
    visit_date : datetime.date, optional
        The rule holds for the visit of this day only.

    Raises
    ------
    ValueError
        If the rule has no condition on the series, or its expression is not valid.
    """

    role: Role | Literal["none"]
    description: str | None = None
    series_number: int | None = None
    series_uid: str | None = None
    visit_date: date | None = None

    def __post_init__(self) -> None:
        if self.role not in (*ROLES, "none"):
            raise ValueError(f"a rule names the role {self.role!r}; use one of {', '.join(ROLES)} or none")
        if self.description is None and self.series_number is None and self.series_uid is None:
            raise ValueError(f"a rule for {self.role} needs a description, series_number or series_uid")
        try:
            re.compile(self.description or "")
        except re.error as error:
            raise ValueError(
                f"the description of a rule for {self.role} is no regular expression: {error}"
            ) from error

    def matches(self, series: Series | RefusedSeries, visit: Visit) -> bool:
        """Whether every condition of the rule holds."""
        return (
            (self.visit_date is None or self.visit_date == visit.date.date())
            and (self.series_uid is None or self.series_uid == series.uid)
            and (self.series_number is None or self.series_number == series.number)
            and (
                self.description is None
                or re.search(self.description, series.description, re.IGNORECASE) is not None
            )
        )


@dataclass(frozen=True, eq=False)
class RoleSelection:
    """The choice for one visit.

    Parameters
    ----------
    chosen : mapping of Role to Series
        One series a role; roles that the visit lacks are absent.
    reasons : mapping of str to str
        One sentence for every series of the visit, chosen or not, by Series Instance UID. No patient data.
    """

    chosen: Mapping[Role, Series]
    reasons: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Candidate:
    series: Series | RefusedSeries
    why: str
    evidence: int = 0


def select_roles(visit: Visit, *, required: frozenset[Role], rules: Sequence[RoleRule] = ()) -> RoleSelection:
    """Choose the series of a visit.

    Rules come first. Then description, timing and contrast agent say what each series shows. Among several of one
    kind, the one that covers the brain, is three-dimensional, has the finest voxels, is axial and has the largest
    field wins.

    Parameters
    ----------
    visit : Visit
        The visit.
    required : frozenset of Role
        Roles the run cannot do without.
    rules : sequence of RoleRule
        Overrides, the first match of a role counts.

    Raises
    ------
    ImagingError
        ``MISSING_SEQUENCE`` if a required role has no series, ``AMBIGUOUS_SEQUENCE`` if two are equally good, or
        the reason of a refused series that is the only candidate (of a required role, where a file of it is broken) or
        that a rule names.
    """
    selection, problems = propose_roles(visit, rules=rules)
    for role in ROLES:
        if role in problems and (role in required or problems[role].reason not in _DISPENSABLE):
            raise problems[role]
    return selection


def propose_roles(
    visit: Visit, *, rules: Sequence[RoleRule] = ()
) -> tuple[RoleSelection, Mapping[Role, ImagingError]]:
    """What ``select_roles`` would choose, and for each role without a series the error that says why.

    Raises
    ------
    ImagingError
        Only the reason of a refused series that a rule names.
    """
    reasons = {series.uid: f"Not usable: {series.sentence}" for series in visit.refused}
    candidates: dict[Role, list[_Candidate]] = {role: [] for role in ROLES}
    open_series = _apply_rules(visit, rules, candidates, reasons)
    for role, found in _judge(open_series, reasons).items():
        if not candidates[role]:
            candidates[role] = found
            continue
        for candidate in found:
            reasons[candidate.series.uid] = (
                f"Not chosen: {candidate.series.label} {candidate.why}, but a rule names another one."
            )
    chosen: dict[Role, Series] = {}
    problems: dict[Role, ImagingError] = {}
    for role in ROLES:
        try:
            chosen[role] = _best(role, candidates[role], visit, reasons)
        except ImagingError as error:
            problems[role] = error
    return RoleSelection(chosen, reasons), problems


def _apply_rules(
    visit: Visit, rules: Sequence[RoleRule], candidates: dict[Role, list[_Candidate]], reasons: dict[str, str]
) -> list[Series | RefusedSeries]:
    """Let rules place series; returns those that no rule speaks of."""
    open_series: list[Series | RefusedSeries] = [*visit.series, *visit.refused]
    for rule in rules:
        if rule.role != "none" and candidates[rule.role]:
            continue
        for series in [item for item in open_series if rule.matches(item, visit)]:
            open_series.remove(series)
            if rule.role == "none":
                reasons[series.uid] = "Not chosen: a rule keeps it out."
            elif isinstance(series, RefusedSeries):
                raise ImagingError(
                    series.reason, f"A rule names {series.label} as {rule.role}, but {series.sentence}"
                )
            else:
                candidates[rule.role].append(_Candidate(series, "is named by a rule"))
    return open_series


def _judge(
    open_series: Sequence[Series | RefusedSeries], reasons: dict[str, str]
) -> dict[Role, list[_Candidate]]:
    """Candidates of each role by their headers; refused series too, to be named when they are missed."""
    found: dict[Role, list[_Candidate]] = {role: [] for role in ROLES}
    t1_series: list[tuple[Series | RefusedSeries, Weighting]] = []
    for series in open_series:
        weighting = weigh(series.modality, series.headers)
        if weighting.kind is None:
            reasons.setdefault(series.uid, f"Not chosen: {series.label} {weighting.sentence}.")
        elif weighting.kind == "t1":
            t1_series.append((series, weighting))
        else:
            found[weighting.kind].append(_Candidate(series, weighting.sentence, weighting.evidence))
    # The agent of a CT of the same sitting says nothing of the MR.
    agents = [
        item.acquired
        for item in open_series
        if item.modality == "MR" and item.headers.contrast_agent and item.acquired
    ]
    first_agent = min(agents, default=None)
    by_agent: list[_Candidate] = []
    # One name for the whole examination tells its series apart by nothing.
    protocols_tell = {"pre", "post"} <= {weighting.protocol_phase for _, weighting in t1_series}
    for series, weighting in t1_series:
        role, how = _before_or_after(
            series, weighting, protocols_tell, first_agent is not None and _after(series, first_agent)
        )
        candidate = _Candidate(series, f"{weighting.sentence}, {how}", weighting.evidence)
        found[role].append(candidate)
        if how == _BY_AGENT:
            by_agent.append(candidate)
    if not found["t1"]:
        _split_by_time(found, by_agent)
    return found


_BY_AGENT = "after contrast agent by ContrastBolusAgent"


def _after(series: Series | RefusedSeries, moment: datetime) -> bool:
    return series.acquired is not None and series.has_time and series.acquired > moment


def _before_or_after(
    series: Series | RefusedSeries, weighting: Weighting, protocols_tell: bool, follows_agent: bool
) -> tuple[Literal["t1", "t1ce"], str]:
    """Words say most: some scanners keep the agent in every header of an examination, others in none."""
    words = (
        (weighting.phase, "description"),
        (weighting.protocol_phase if protocols_tell else None, "ProtocolName"),
    )
    for phase, where in words:
        if phase == "post":
            return "t1ce", f"after contrast agent by {where}"
        if phase == "pre":
            return "t1", f"before contrast agent by {where}"
    if series.headers.contrast_agent:
        return "t1ce", _BY_AGENT
    if follows_agent:
        return "t1ce", "after contrast agent because it follows a series with ContrastBolusAgent"
    return "t1", "without ContrastBolusAgent"


def _split_by_time(found: dict[Role, list[_Candidate]], by_agent: Sequence[_Candidate]) -> None:
    """Two runs of one protocol, both with the agent in their header: the first was before the injection."""
    ordered = sorted(by_agent, key=lambda candidate: candidate.series.acquired or datetime.max)
    if len(ordered) < 2 or not _is_repeat(ordered[0].series, ordered[1].series):
        return
    first = ordered[0]
    found["t1ce"].remove(first)
    why = first.why.replace(_BY_AGENT, "the first of two runs of one protocol")
    found["t1"].append(_Candidate(first.series, why, first.evidence))


def _is_repeat(first: Series | RefusedSeries, second: Series | RefusedSeries) -> bool:
    if not isinstance(first, Series) or not isinstance(second, Series):
        return False
    if not (first.has_time and second.has_time) or first.geometry is None or second.geometry is None:
        return False
    one, two = first.headers, second.headers
    same_timing = (one.repetition_time_ms, one.echo_time_ms, one.inversion_time_ms, one.flip_angle_deg) == (
        two.repetition_time_ms,
        two.echo_time_ms,
        two.inversion_time_ms,
        two.flip_angle_deg,
    )
    same_grid = np.allclose(first.geometry.spacing, second.geometry.spacing, rtol=0.01) and np.allclose(
        first.geometry.directions, second.geometry.directions, atol=0.1
    )
    return same_timing and bool(same_grid) and second.acquired - first.acquired >= _SHORTEST_REPEAT


def _quality(candidate: _Candidate) -> tuple[float, ...]:
    """Sorting key, larger is better; equal keys are a true tie."""
    series = candidate.series
    if not isinstance(series, Series) or series.geometry is None:
        return (-1.0,)
    geometry: Geometry = series.geometry
    extent = np.array(geometry.spacing) * geometry.shape
    coarsest = max(geometry.spacing)
    volumetric = series.headers.acquisition_type != "2D" and coarsest <= _VOLUMETRIC_SPACING_MM
    kinds = series.headers.image_type
    return (
        float(extent.min() >= _BRAIN_EXTENT_MM),
        float(candidate.evidence),
        float(volumetric),
        -round(coarsest, 1),
        -round(geometry.voxel_volume_mm3, 1),
        # Thick slices are usually axial for every contrast, and equal planes lose least when they are brought together.
        float(bool(np.argmax(np.abs(np.cross(geometry.directions[:, 0], geometry.directions[:, 1]))) == 2)),
        round(float(extent.prod()) / 1e5),
        # Scanners store the same acquisition with and without distortion and intensity correction.
        float("DIS3D" in kinds) + float(bool({"DIS2D", "DIS3D"} & set(kinds))) + float("NORM" in kinds),
        float("DERIVED" not in kinds),
    )


def _best(role: Role, candidates: Sequence[_Candidate], visit: Visit, reasons: dict[str, str]) -> Series:
    refused = [candidate.series for candidate in candidates if isinstance(candidate.series, RefusedSeries)]
    usable = [
        (candidate.series, candidate) for candidate in candidates if isinstance(candidate.series, Series)
    ]
    if not usable:
        raise _missing(role, refused, visit)
    ranked = sorted(usable, key=lambda pair: (_quality(pair[1]), pair[0].uid), reverse=True)
    winner, best = ranked[0]
    ties = [series for series, candidate in ranked if _quality(candidate) == _quality(best)]
    if len(ties) > 1:
        names = " and ".join(sorted(series.label for series in ties))
        for series in ties:
            reasons[series.uid] = f"Not chosen: {names} are equally good {_TITLES[role]} series."
        raise ImagingError(
            Reason.AMBIGUOUS_SEQUENCE,
            f"The visit of {visit.date:%Y-%m-%d} has equally good {_TITLES[role]} series: {names}; {_OVERRIDE}.",
        )
    remark = f"; {refused[0].label} looked like one too but cannot be used" if refused else ""
    among = f", the best of {len(usable)} by coverage and resolution" if len(usable) > 1 else ""
    reasons[winner.uid] = f"Chosen as {role}: {winner.label} {best.why}{among}{remark}."
    for series, candidate in ranked[1:]:
        reasons[series.uid] = (
            f"Not chosen: {series.label} {candidate.why}, but {winner.label} covers more or is finer."
        )
    return winner


def _missing(role: Role, refused: Sequence[RefusedSeries], visit: Visit) -> ImagingError:
    start = f"The visit of {visit.date:%Y-%m-%d} has no usable {_TITLES[role]} series"
    if refused:
        return ImagingError(refused[0].reason, f"{start}, because {refused[0].sentence}")
    unknown = [series for series in visit.refused if _lost_its_headers(series)]
    if unknown:
        sentence = f"{start}, and what {unknown[0].label} showed is unknown: {unknown[0].sentence}"
        return ImagingError(Reason.TRUNCATED, sentence)
    return ImagingError(
        Reason.MISSING_SEQUENCE,
        f"{start}; add it, or {_OVERRIDE} if one of its {len(visit.series)} series is it, or, where this was no MR of "
        "the head, take it out of the input or keep it out with the rule "
        f"{{role: none, description: '.*', visit_date: {visit.date:%Y-%m-%d}}}.",
    )


def _lost_its_headers(series: RefusedSeries) -> bool:
    """Whether a file was cut off before all that says what its series shows."""
    return series.reason is Reason.TRUNCATED and not (
        series.description or series.headers.protocol_name or series.headers.repetition_time_ms
    )
