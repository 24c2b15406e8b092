"""Several people at one server, named or not: nobody's work is lost, and nobody clicks on another's mask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from monailabel_app.clients import case_of
from tests.monailabel_app.reader import INFER, Reader
from tests.monailabel_app.served import RunningServer
from tests.monailabel_app.slicer import export_scribbles, import_answer, load_volume

DEFAULT = "user-xyz"
"""What Slicer's plugin calls itself until somebody sets a name."""
Segments = dict[str, np.ndarray]
MakeReader = Callable[..., Reader]


@pytest.fixture
def sit_down(slicer: ModuleType, server: RunningServer, tmp_path: Path) -> MakeReader:
    """A person at a Slicer of one's own, on this machine: every address is the same."""

    def make(folder: str, name: str = DEFAULT) -> Reader:
        return Reader(slicer, server, tmp_path / folder, name)

    return make


def block(volume: Path, first: int) -> Segments:
    """Core in oedema, somewhere in the image."""
    shape = load_volume(volume)[0].shape
    drawn = {name: np.zeros(shape, bool) for name in ("ED", "NCR", "ET")}
    drawn["ED"][first : first + 12, 10:22, 10:22] = True
    drawn["ET"][first + 3 : first + 9, 13:19, 13:19] = True
    drawn["ED"] &= ~drawn["ET"]
    return drawn


def drawings(studies: Path) -> list[Path]:
    return sorted(studies.rglob("oncotwin-drawing-*.dcm"))


def shown_at_opening(reader: Reader, image: str) -> Segments:
    """What Slicer loads when it has got a case: it looks the label up in the list of all cases."""
    info = reader.client.datastore()["objects"][image]["labels"]["original"]["info"]
    return import_answer(Path(reader.client.download_label(image, "original")), info["params"])


def clicked(reader: Reader, image: str, segment: str, **points: Any) -> np.ndarray:
    """The segment that a click on it returns; without points, what the server takes for the present one."""
    sent = {"foreground": [], "background": [], **points}
    file, said = reader.run("clicks", image, label=segment, **sent)
    return import_answer(file, said, [segment])[segment]


def test_one_reader_who_set_no_name_is_never_in_the_own_way(sit_down: MakeReader, studies: Path) -> None:
    anna = sit_down("anna")
    image, volume = anna.open("random")
    before = len(drawings(studies))
    for first in (20, 21):
        anna.submit(image, volume, block(volume, first))
    again, volume = anna.open("finished")
    assert again != image and case_of(again) == case_of(image)
    assert all(
        np.array_equal(shown_at_opening(anna, again)[name], block(volume, 21)[name])
        for name in "ED ET".split()
    )
    for first in (22, 23):
        anna.submit(again, volume, block(volume, first))
    assert len(drawings(studies)) == before + 4


def test_two_who_set_no_name_are_told_apart_and_nothing_is_lost(
    sit_down: MakeReader, studies: Path, state: Path
) -> None:
    anna, bert = sit_down("anna"), sit_down("bert")
    image, volume = anna.open("finished")
    same, _ = bert.open("finished")
    assert case_of(same) == case_of(image), "there is one finished case only"
    anna.submit(image, volume, block(volume, 30))
    before, kept = drawings(studies), set((state / "kept").glob("*"))
    with pytest.raises(bert.failure) as told:
        bert.submit(same, volume, block(volume, 35))
    assert "409" in told.value.msg and "Client/User-ID" in told.value.msg
    assert drawings(studies) == before and len(set((state / "kept").glob("*")) - kept) == 1
    bert.submit(same, volume, block(volume, 35))
    with pytest.raises(anna.failure, match="409"):
        anna.submit(image, volume, block(volume, 31))


def test_whoever_names_neither_person_nor_opening_is_asked_for_every_drawing(sit_down: MakeReader) -> None:
    """Without an id of one opening there is nothing to tell two people by but what they draw."""
    anna = sit_down("anna")
    image, volume = anna.open("finished")
    key = case_of(image)
    for first in (40, 41):
        with pytest.raises(anna.failure, match="409"):
            anna.submit(key, volume, block(volume, first))
        anna.submit(key, volume, block(volume, first))


def test_two_who_set_no_name_are_offered_different_cases(sit_down: MakeReader) -> None:
    anna, bert = sit_down("anna"), sit_down("bert")
    one, other = anna.open("random")[0], bert.open("random")[0]
    assert case_of(one) != case_of(other)


def test_a_click_does_not_land_on_the_mask_of_another_without_a_name(sit_down: MakeReader) -> None:
    anna, bert = sit_down("anna"), sit_down("bert")
    image, _ = anna.open("finished")
    same, _ = bert.open("finished")
    drawn = shown_at_opening(bert, same)["ET"]
    hit = np.argwhere(drawn)[0]
    assert clicked(anna, image, "ED", foreground=[hit.tolist()])[tuple(hit)]
    assert np.array_equal(clicked(bert, same, "ET"), drawn)


@pytest.mark.parametrize("names", [(DEFAULT, DEFAULT), ("anna", "bert")])
def test_a_click_builds_on_the_drawing_that_was_opened_last(
    sit_down: MakeReader, names: tuple[str, str]
) -> None:
    anna, bert = (sit_down(folder, name) for folder, name in zip(("anna", "bert"), names, strict=True))
    image, volume = anna.open("finished")
    anna.run("tumour", image)
    older, newer = shown_at_opening(anna, image)["ET"], block(volume, 50 if DEFAULT in names else 55)
    assert not np.array_equal(older, newer["ET"])
    theirs, _ = bert.open("finished")
    bert.submit(theirs, volume, newer)
    assert np.array_equal(clicked(anna, image, "ET"), older), (
        "hers is what Slicer shows until she opens it again"
    )
    again, _ = anna.open("finished")
    assert np.array_equal(shown_at_opening(anna, again)["ET"], newer["ET"])
    assert np.array_equal(clicked(anna, again, "ET"), newer["ET"])
    anna.submit(again, volume, newer)
    # Nothing of a session that was left stays in the next one.
    hit = np.argwhere(newer["ET"])[0].tolist()
    assert not np.array_equal(clicked(anna, again, "ET", background=[hit]), newer["ET"])
    once_more, _ = anna.open("finished")
    assert np.array_equal(clicked(anna, once_more, "ET"), newer["ET"])


def test_a_click_on_a_case_with_an_unseen_drawing_is_refused(sit_down: MakeReader) -> None:
    anna = sit_down("anna")
    image, _ = anna.open("finished")
    with pytest.raises(anna.failure, match="that you have not opened"):
        clicked(sit_down("carl", "carl"), case_of(image), "ET")


def scribbled(reader: Reader, image: str, volume: Path, shown: Segments, **strokes: np.ndarray) -> np.ndarray:
    """Oedema after strokes over what Slicer shows."""
    file, info = export_scribbles({**shown, **strokes}, volume, reader.folder / "scribbles.nii.gz")
    asked = {**INFER, "label_info": info, "selected_label_name": "ED", "roi": []}
    answer, said = reader.client.infer("scribbles", image, asked, str(file))
    return import_answer(Path(answer), said, ["ED"])["ED"]


def test_a_stroke_over_another_segment_leaves_no_hole_in_it(sit_down: MakeReader) -> None:
    anna = sit_down("anna")
    image, volume = anna.open("finished")
    shown = shown_at_opening(anna, image)
    stroke = np.zeros_like(shown["ET"])
    middle = np.argwhere(shown["ET"]).mean(0).round().astype(int)
    stroke[middle[0], middle[1], middle[2] - 5 : middle[2] + 6] = True
    assert (stroke & shown["ET"]).any()
    assert not (scribbled(anna, image, volume, shown, background_scribbles=stroke) & stroke).any()
    assert np.array_equal(clicked(anna, image, "ET"), shown["ET"])


def test_where_nobody_knows_what_lay_under_a_stroke_no_click_builds_on_it(sit_down: MakeReader) -> None:
    anna = sit_down("anna")
    image, volume = anna.open("random")
    painted = block(volume, 20)
    stroke = np.zeros_like(painted["ET"])
    stroke[25, 15, 8:24] = True
    scribbled(anna, image, volume, painted, background_scribbles=stroke)
    with pytest.raises(anna.failure, match="under your scribbles"):
        clicked(anna, image, "ET")
    anna.submit(image, volume, painted)
    assert np.array_equal(clicked(anna, image, "ET"), painted["ET"])


def test_nobody_is_named_in_what_the_server_keeps(sit_down: MakeReader, state: Path) -> None:
    image, _ = sit_down("anna", "Anna Maier").open("finished")
    kept = (state / "opened.json").read_text()
    assert (
        case_of(image) in json.loads(kept) and "Maier" not in kept and "~" not in kept and DEFAULT not in kept
    )
