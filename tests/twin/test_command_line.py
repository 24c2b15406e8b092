"""The command line on NIfTI files, from simulation to forecast."""

import json

import nibabel
import numpy as np
import pytest

from tests.twin.heads import head
from twin.__main__ import main


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
    assert [fit["day"] for fit in written["fit"]] == [0.0, 70.0]
    (forecast,) = written["forecasts"]
    assert forecast["day"] == 100.0
    low, high = forecast["volume_whole_mm3"]["interval95"]
    assert low < forecast["volume_whole_mm3"]["estimate"] < high
    tumour = nibabel.load(tmp_path / "out" / "tumour_30.nii.gz")
    assert set(np.unique(np.asarray(tumour.dataobj))) == {0, 2, 3}


@pytest.mark.parametrize("visit", ["0", "x:seg.nii.gz", "0:missing.nii.gz"])
def test_bad_visits_are_one_sentence_and_no_output(visit, maps, tmp_path, capsys):
    assert main(["calibrate", *maps, "--visit", visit, "-o", str(tmp_path / "result.json")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "result.json").exists()
