"""The command line on NIfTI files, from simulation to forecast."""

import json

import nibabel
import numpy as np
import pytest

from tests.twin.heads import head
from twin import TwinError
from twin.__main__ import main
from twin.nifti import read_visit, read_volume


@pytest.fixture
def maps(tmp_path):
    tissue, _ = head(4.0)
    arguments = []
    for name, volume in (("wm", tissue.white_matter), ("gm", tissue.gray_matter)):
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.numpy(), np.diag([4.0, 4.0, 4.0, 1.0])), path)
        arguments += [f"--{name}", str(path)]
    return arguments


def test_simulated_visits_are_calibrated_and_forecast(maps, tmp_path):
    grown = [
        "--diffusivity",
        "0.3",
        "--proliferation",
        "0.04",
        "--days",
        "150",
        "220",
        "-o",
        str(tmp_path / "sim"),
    ]
    assert main(["simulate", *maps, "--seed-voxel", "21", "18", "16", *grown]) == 0
    visits = [f"{day}:{tmp_path / 'sim' / f'seg_day{day}.nii.gz'}" for day in (150, 220)]
    given = [*maps, "--visit", visits[1], "--visit", visits[0], "--samples", "8"]
    assert main(["forecast", *given, "--horizons", "30", "-o", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert written["parameters"]["front_velocity"]["identified"]
    assert [fit["day"] for fit in written["fit"]] == [150.0, 220.0]
    (forecast,) = written["forecasts"]
    assert forecast["day"] == 250.0
    days = written["curve"]["days"]
    assert days[0] == 150.0 and 220.0 in days and days[-1] == 250.0
    low, high = forecast["volume_whole_mm3"]["interval95"]
    assert low < forecast["volume_whole_mm3"]["estimate"] < high
    tumour = nibabel.load(tmp_path / "out" / "tumour_30.nii.gz")
    assert set(np.unique(np.asarray(tumour.dataobj))) == {0, 2, 3}


@pytest.mark.parametrize("visit", ["0", "x:seg.nii.gz", "0:missing.nii.gz"])
def test_bad_visits_are_one_sentence_and_no_output(visit, maps, tmp_path, capsys):
    assert main(["calibrate", *maps, "--visit", visit, "-o", str(tmp_path / "result.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("value", [0.5, 2.7, np.nan, np.inf, 4.0])
def test_what_is_no_label_is_one_sentence_that_names_the_file(value, tmp_path):
    """Interpolated labels became background, and nan a traceback."""
    labels = np.full((4, 4, 4), 2.0, dtype=np.float32)
    labels[1, 1, 1] = value
    path = tmp_path / "interpolated.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
    with pytest.raises(TwinError, match=r"interpolated\.nii\.gz"):
        read_visit(f"0:{path}", read_volume(path)[1])


def test_labels_kept_as_scaled_integers_are_labels(tmp_path):
    labels = np.arange(64, dtype=np.float32).reshape(4, 4, 4) % 4
    image = nibabel.Nifti1Image(labels, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    seen = read_visit(f"0:{tmp_path / 'scaled.nii.gz'}", read_volume(tmp_path / "scaled.nii.gz")[1])
    assert int(seen.whole.sum()) == 48 and int(seen.core.sum()) == 32


def test_days_of_visits_and_treatments_share_the_callers_calendar(maps, tmp_path):
    """Days were counted from the first visit in all that was written, and so no longer matched the treatments."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    tissue, _ = head(4.0)
    axes = np.meshgrid(
        *((np.arange(n) - m) * 4.0 for n, m in zip(tissue.shape, (21, 18, 16), strict=True)), indexing="ij"
    )
    distance = np.sqrt(sum(axis**2 for axis in axes))
    for name, (core, whole) in {"a": (7.0, 11.0), "b": (10.0, 15.0)}.items():
        labels = np.where(distance < core, 3, np.where(distance < whole, 2, 0)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / f"{name}.nii.gz")
    found = []
    for first in (0, 100):
        plan, out = tmp_path / f"{first}.json", tmp_path / f"out{first}"
        plan.write_text(json.dumps([{"kind": "radiotherapy", "days": [first + 70], "doses_gy": [10]}]))
        visits = [
            "--visit",
            f"{first}:{tmp_path / 'a.nii.gz'}",
            "--visit",
            f"{first + 60}:{tmp_path / 'b.nii.gz'}",
        ]
        run = ["forecast", *maps, *visits, "--treatments", str(plan), "--samples", "8", "--horizons", "30"]
        assert main([*run, "-o", str(out)]) == 0
        found.append(json.loads((out / "forecast.json").read_text()))
    early, late = found
    assert [fit["day"] for fit in late["fit"]] == [100.0, 160.0]
    assert late["forecasts"][0]["day"] == 190.0
    assert late["curve"]["days"] == pytest.approx([day + 100.0 for day in early["curve"]["days"]])
    for name in ("whole_lower", "whole_median", "whole_upper"):
        assert late["curve"][name] == pytest.approx(early["curve"][name], rel=1e-3)


def test_treatment_acts_in_a_simulation(maps, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps(
            [
                {"kind": "radiotherapy", "days": [20, 21, 22], "doses_gy": [6, 6, 6], "alpha_beta_gy": 10},
                {"kind": "chemotherapy", "days": [30], "doses": [75], "half_life_hours": 1.8},
                {"kind": "surgery", "day": 40, "resection": "removed.nii.gz"},
            ]
        )
    )
    removed = np.zeros((30, 33, 27), dtype=np.uint8)
    removed[21] = 1
    nibabel.save(nibabel.Nifti1Image(removed, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "removed.nii.gz")
    grown = ["--seed-voxel", "21", "18", "16", "--proliferation", "0.05", "--days", "35", "40.1"]
    densities = []
    for name, more in (("free", []), ("treated", ["--treatments", str(plan)])):
        assert main(["simulate", *maps, *grown, *more, "-o", str(tmp_path / name)]) == 0
        files = (tmp_path / name / f"density_day{day}.nii.gz" for day in ("35", "40.1"))
        densities.append([np.asarray(nibabel.load(file).dataobj) for file in files])
    free, treated = densities
    assert treated[0].sum() < 0.6 * free[0].sum()
    assert treated[1][21].max() < 0.05 * free[1][21].max() and treated[1][19].max() > 0


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("{", "JSON"),
        ("{}", "list"),
        ('[{"kind": "hope"}]', "Treatment 1"),
        ('[{"kind": "radiotherapy", "days": [1]}]', "doses_gy"),
        ('[{"kind": "chemotherapy", "days": [1], "doses": ["much"]}]', "not a number"),
        ('[{"kind": "chemotherapy", "days": [1], "doses": [75], "half_life_hours": 0}]', "not a number"),
        ('[{"kind": "radiotherapy", "days": [1], "doses_gy": [-2]}]', "not negative"),
    ],
)
def test_bad_treatments_are_one_sentence(written, named, maps, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    plan.write_text(written)
    run = ["simulate", *maps, "--seed-voxel", "21", "18", "16", "--days", "5", "-o", str(tmp_path / "out")]
    assert main([*run, "--treatments", str(plan)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and named in said
    assert not (tmp_path / "out").exists()
