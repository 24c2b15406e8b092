"""What contrast a series shows, judged by its description in several languages and checked against its timing."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from imaging.headers import SeriesHeaders

Kind = Literal["t1", "t2", "flair"]
Timing = Literal["t1", "t2", "flair", "pd", "t2star", "stir"]
Phase = Literal["pre", "post"]

_NAMES = {"t1": "T1", "t2": "T2", "flair": "FLAIR", "pd": "proton density", "t2star": "T2*", "stir": "STIR"}


@dataclass(frozen=True)
class Weighting:
    """What a series shows.

    Parameters
    ----------
    kind : {"t1", "t2", "flair"} or None
        None when it is no candidate for any role.
    sentence : str
        Why, as the end of a sentence that begins with the series; holds no patient data.
    phase, protocol_phase : {"pre", "post"} or None
        Before or after contrast agent, as far as the words of the description and of ProtocolName say so. Some vendors
        write one ProtocolName into all series of an examination.
    evidence : int
        2 when description and timing agree, 1 when only one of them speaks, 0 without a kind.
    """

    kind: Kind | None
    sentence: str
    phase: Phase | None = None
    evidence: int = 0
    protocol_phase: Phase | None = None


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


# Order matters: the first match names the reason.
_OTHER_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a localiser", _words(r"lo[ck]ali[sz]\w*|loc|scout|survey|ubersicht|reperage|aah\w*|smartbrain|(?:3|tri) ?plane")),
    ("a diffusion series", _words(r"e?adc|e?dwi|dti|dki|diff?us\w*|diff|trace\w*|tensor|ivim|resolve|fa map|b ?1000")),
    ("a perfusion series", _words(r"perf\w*|dsc|dce|pwi|p?c?asl|r?cb[fv]|mtt|ttp|tmax|ktrans|dyn\w*|twist")),
    ("a susceptibility series", _words(r"swi|swan|swip|venobold|qsm|t2w? ?\*|t2 ?star|t2 ?gre|ha?emo|medic") ),
    ("a functional series", _words(r"bold|fmri|rest|resting\w*")),
    ("an angiography", _words(r"mr[av]|ce ?mra|tof|angio\w*|veno\w*|phase contrast|pca|[23]d ?pc")),
    ("a projection or reformat", _words(r"mips?|minip|reform\w*|vrt|curved")),
    ("a subtraction", _words(r"subs?(?! ?[0-9])|subtr\w*|soustr\w*|difference")),
    ("a computed map", _words(r"maps?|mapping|synth\w*|symri|magic|qalas|quant\w*|(?:in|opp\w*)? ?phase|t1 ?rho|pdff")),
    ("a calibration", _words(r"cal|calib\w*|asset|sense ?ref\w*|coil ?sens\w*|b[01] ?field|field ?map\w*|shim\w*")),
    ("a spectroscopy", _words(r"mrs|svs|csi|spectro\w*")),
    ("a steady-state series", _words(r"ciss|fiesta|true? ?fisp|trufi|b?ssfp")),
    ("a proton density series", _words(r"pd|pdw|dp|proton\w*|rho")),
    ("a STIR series", _words(r"stir")),
    ("another inversion series", _words(r"psir|dir|inv ?[12]|double ir|fgatir|wm ?null\w*|mtr|mtc|cest|apt")),
    ("an image of the spine or neck", _words(r"spine|[chlb]ws|wirbel\w*|cervical\w*|lumbar|rachis|colonna|neck")),
)  # fmt: skip
_OTHER_IMAGE_TYPES: tuple[tuple[str, frozenset[str]], ...] = (
    ("a localiser", frozenset({"LOCALIZER"})),
    ("a diffusion series", frozenset({"DIFFUSION", "ADC", "TRACEW", "TRACE", "FA", "EADC"})),
    ("a perfusion series", frozenset({"PERFUSION", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "ASL"})),
    ("a susceptibility series", frozenset({"SWI", "MNIP"})),
    ("a functional series", frozenset({"FMRI", "BOLD"})),
    ("a subtraction", frozenset({"SUBTRACTION", "SUB", "SUBTRACT"})),
    (
        "a projection or reformat",
        frozenset(
            {"MPR", "CSA MPR", "MIP", "MINIP", "MIN IP", "MAX IP", "PROJECTION IMAGE", "REFORMATTED", "CPR"}
        ),
    ),
    ("a screenshot", frozenset({"SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE"})),
    ("a phase image", frozenset({"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"})),
    ("a computed map", frozenset({"T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "MAP"})),
)
_OTHER_BODY_PARTS = _words(
    r"\w*spine|(?:[ctls]|ls|cervical|thoracic|lumbar|sacral|lumbosacral|whole|total) spine|neck|chest|thorax|abdomen|"
    r"pelvis|breast|knee|shoulder|heart|prostate|liver"
)
# Protocols leave a wrong BodyPartExamined behind: words that name the head, or sequences made for it, speak against it.
_HEAD = re.compile(
    r"brain|head|skull|crani|crane|kopf|schadel|hirn|neuro|cereb|cerveau|encef|enceph|testa|cabeza|tete|glio|"
    r"flair|dark ?fluid|mp2?rage|bravo|мозг|голов|脑|脳|頭|头"
)

_FLAIR = re.compile(r"flair|dark ?fluid|(?<![a-z])(?:da ?fl|tirm|t2 ?tir|t2 ?ir)(?![a-z])")
_T1 = re.compile(r"(?<![a-z0-9])t1(?![0-9])")
_T2 = re.compile(r"(?<![a-z0-9])t2(?![0-9*])")
_T1_SEQUENCES = _words(
    r"me?mp2?rage|ir ?f?spgr|f?spgr|bravo|vibe|flash|t?fl3d\w*|tfe|thrive|lava|mpr|mprage\w*"
)

_AGENTS = (
    r"gd|gad|gado\w*|dotarem|clariscan|prohance|multihance|magnevist|vueway|elucirem|omniscan|km|mdc|mdk|ce|"
    r"civ|contrast\w*|kontrast\w*|contrest\w*|inj|injec\w*|iv"
)
_BOTH_PHASES = re.compile(
    rf"(?<![a-z])(?:w(?:ith)?(?: and)? w(?: ?o|ithout)|pre(?: and)? post|mit und ohne)(?: (?:{_AGENTS}))?(?![a-z])"
)
_PRE = re.compile(
    rf"(?<![a-z])(?:(?:pre(?! ?op| ?surg)|avant|prima|w ?o|without)(?: ?(?:{_AGENTS}))?|nativ[eo]?|plain|unenhanced|"
    rf"non ?contrast\w*|(?:no|ohne|o|vor|sans|sin|sem|senza|bez|zonder|utan|uden)(?: de)? (?:{_AGENTS})|"
    rf"ohne|sans|senza)(?![a-z])|平扫|平掃|単純|без контраст\w*"
)
# "Post" also begins other words, and follow-ups are post operation, radiation or treatment.
_POST = re.compile(
    rf"(?<![a-z])(?:post(?! ?op| ?pro| ?er| ?surg| ?r[tx]| ?rad| ?chemo| ?treat| ?tx| ?ther| ?fossa| ?resec)\w*|pos|"
    rf"{_AGENTS}|mkm|enhanced|enh|avec|apres|dopo|c ?\+)(?![a-z])|\+ ?(?:c|gd|gado\w*|km|ce|mdc)(?![a-z])|"
    rf"(?<![a-z0-9])t1w?(?:c|\+)(?![a-z])|造影|增强|増強|контраст"
)
_CONTRASTS: dict[str, Kind] = {"T1": "t1", "T2": "t2", "FLUID_ATTENUATED": "flair"}


def weigh(modality: str, headers: SeriesHeaders) -> Weighting:
    """Judge what a series shows.

    Description and timing are judged apart. They agree, or one is silent, or they contradict each other: then the
    series is no candidate, for one of them is wrong.
    """
    if modality != "MR":
        return Weighting(None, f"is {modality or 'of unknown modality'}, not MR")
    description = normalised(headers.description)
    protocol = normalised(headers.protocol_name)
    other = _other_kind(headers, description or protocol)
    if other:
        return Weighting(None, f"is {other}")
    told = (
        _kind_by_words(description)
        or _kind_by_words(protocol)
        or _kind_by_words(normalised(headers.sequence_name))
    )
    timing = kind_by_timing(headers)
    kind, evidence = _combined(told, timing, headers)
    numbers = _timing_text(headers)
    if kind is None:
        if told is not None and timing is not None:
            sentence = f"is called {_NAMES[told]} but its timing ({numbers}) is that of {_NAMES[timing]}"
        elif timing is not None:
            sentence = f"is a {_NAMES[timing]} series by its timing ({numbers})"
        else:
            sentence = "says neither in its description nor in its timing what it shows"
        return Weighting(None, sentence)
    sources = {
        2: f"description and timing ({numbers})",
        1: "description" if told == kind else f"timing ({numbers})",
    }
    return Weighting(
        kind,
        f"is {_NAMES[kind]} by {sources[evidence]}",
        phase_by_words(description),
        evidence,
        phase_by_words(protocol),
    )


def is_of_another_part(headers: SeriesHeaders) -> bool:
    """Whether BodyPartExamined names another part of the body than the head, and no other word contradicts it."""
    words = (headers.body_part, headers.description, headers.protocol_name)
    is_other = _OTHER_BODY_PARTS.fullmatch(normalised(headers.body_part)) is not None
    return is_other and not any(_HEAD.search(normalised(text)) for text in words)


def normalised(words: str) -> str:
    """Lower case, without accents, with single spaces for separators; ``+`` and ``*`` carry meaning and stay."""
    plain = "".join(
        c for c in unicodedata.normalize("NFKD", words.casefold()) if not unicodedata.combining(c)
    )
    return re.sub(r"[^\w+*]+|_", " ", plain).strip()


def phase_by_words(words: str) -> Phase | None:
    """Before or after contrast agent, from normalised words; None when they do not say, or say both."""
    words = _BOTH_PHASES.sub(" ", words)
    is_pre = _PRE.search(words) is not None
    is_post = _POST.search(_PRE.sub(" ", words)) is not None
    if is_pre == is_post:
        return None
    return "pre" if is_pre else "post"


def kind_by_timing(headers: SeriesHeaders) -> Timing | None:
    """Contrast by repetition, echo and inversion time; None between the usual ranges.

    The ranges cover clinical protocols at 1 to 3 T: MPRAGE and spoiled gradient echo, (T)SE, T1 FLAIR, two- and
    three-dimensional T2 FLAIR.
    """
    tr, te, ti = headers.repetition_time_ms, headers.echo_time_ms, headers.inversion_time_ms
    if headers.acquisition_contrast in _CONTRASTS:
        return _CONTRASTS[headers.acquisition_contrast]
    if tr is None or te is None:
        return None
    is_gradient_echo = "GR" in headers.scanning_sequence and "SE" not in headers.scanning_sequence
    if ti is not None and ti > 0:
        if te >= 60:
            return "flair" if ti >= 1400 and tr >= 3500 else "stir" if ti <= 400 else None
        if te <= 50 and ti <= 1400:
            return "stir" if ti <= 300 and not is_gradient_echo and tr >= 1500 else "t1"
        return None
    if is_gradient_echo:
        return "t1" if te <= 12 else "t2star"
    if te <= 40 and tr <= 1300:
        return "t1"
    if te >= 60 and tr >= 1800:
        return "t2"
    return "pd" if te <= 50 and tr > 2500 else None


def _other_kind(headers: SeriesHeaders, words: str) -> str:
    for name, types in _OTHER_IMAGE_TYPES:
        if types.intersection(headers.image_type[2:]):
            return name
    for name, pattern in _OTHER_KINDS:
        if pattern.search(words):
            return name
    if "DERIVED" in headers.image_type and re.search(r"(?<!t1 )(?<!t1w )(?<![a-z])mpr(?![a-z])", words):
        return "a projection or reformat"
    if (headers.diffusion_b_value or 0) > 0:
        return "a diffusion series"
    if "EP" in headers.scanning_sequence:
        return "an echo-planar series"
    if _OTHER_BODY_PARTS.fullmatch(normalised(headers.body_part)):
        return "an image of another body part"
    if headers.acquisition_contrast not in {"", "UNKNOWN", "MIXED", *_CONTRASTS}:
        return f"of AcquisitionContrast {headers.acquisition_contrast}"
    return ""


def _kind_by_words(words: str) -> Kind | None:
    is_t1, is_t2 = _T1.search(words) is not None, _T2.search(words) is not None
    if _FLAIR.search(words):
        return "t1" if is_t1 and not is_t2 else "flair"
    if is_t1 != is_t2:
        return "t1" if is_t1 else "t2"
    return "t1" if not is_t1 and _T1_SEQUENCES.search(words) else None


def _combined(told: Kind | None, timing: Timing | None, headers: SeriesHeaders) -> tuple[Kind | None, int]:
    if told is None:
        return (timing, 1) if timing in ("t1", "t2", "flair") else (None, 0)
    if timing is None:
        return told, 1
    if told == timing:
        return told, 2
    if told == "flair" and timing == "t2":
        # De-identifiers drop the inversion time; only its long TR is left to tell FLAIR from T2.
        return ("flair", 1) if (headers.repetition_time_ms or 0) >= 4000 else (None, 0)
    if timing == "flair" and told == "t2":
        return "flair", 1
    if timing == "t1" and told == "flair":
        return "t1", 1
    return None, 0


def _timing_text(headers: SeriesHeaders) -> str:
    times = (
        ("TR", headers.repetition_time_ms),
        ("TE", headers.echo_time_ms),
        ("TI", headers.inversion_time_ms),
    )
    return ", ".join(f"{name} {value:g} ms" for name, value in times if value)
