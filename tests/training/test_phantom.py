"""The virtual patient: is the truth true, do the images show it, is the DICOM sound."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from imaging.geometry import Geometry, Volume
from imaging.roles import Role
from training.phantom import PhantomSettings, PhantomTruth, main, make_phantom
from training.virtual_patient.anatomy import make_anatomy
from training.virtual_patient.contrast import Thresholds
from training.virtual_patient.disease import grow
from training.virtual_patient.growth import FisherKpp
from training.virtual_patient.settings import PRESETS

SMALL = PhantomSettings(seed=3, preset="small", visit_days=(0, 60), languages=("de", "es"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PhantomTruth:
    return make_phantom(tmp_path_factory.mktemp("phantom"), SMALL)


def read_slices(folder: Path) -> dict[str, list[Dataset]]:
    """Images under a folder by Series Instance UID."""
    series: dict[str, list[Dataset]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        image = pydicom.dcmread(path)
        series.setdefault(image.SeriesInstanceUID, []).append(image)
    return series


def read_volume(images: list[Dataset]) -> Volume:
    """A series as highdicom builds it, in this repository's (i, j, k) order."""
    volume = hd.get_volume_from_series(images)
    swap = np.eye(4)[[2, 1, 0, 3]]
    array = volume.array.transpose(2, 1, 0)
    return Volume(array, Geometry(array.shape, volume.affine @ swap))


def role_volumes(truth: PhantomTruth, visit: int) -> dict[Role, Volume]:
    slices = read_slices(truth.dicom_folder / f"visit{visit + 1}")
    return {role: read_volume(slices[uid]) for role, uid in truth.visits[visit].series.items()}


def test_treatment_thins_the_tumour_at_its_moments(tmp_path: Path) -> None:
    settings = replace(SMALL, visit_days=(0, 20), distractors=False, treatment=((5.0, 0.5), (20.0, 0.1)))
    anatomy = make_anatomy(SMALL.seed, PRESETS["small"].head_mm, skull=False)
    untreated, treated, twice = (
        grow(anatomy, replace(settings, treatment=given), 2.0)[1]
        for given in ((), settings.treatment, ((5.0, 0.5), (5.0, 0.5)))
    )
    assert np.array_equal(untreated[0], treated[0])
    # what is rare grows exponentially: half of it is half of it still; the dose of the last day comes too late
    rare = (untreated[1] > 1e-4) & (untreated[1] < 1e-2)
    assert np.median(treated[1][rare] / untreated[1][rare]) == pytest.approx(0.5, rel=0.05)
    assert np.median(twice[1][rare] / untreated[1][rare]) == pytest.approx(0.25, rel=0.05)
    assert float((treated[1] > 0.6).sum()) < float((untreated[1] > 0.6).sum())


@pytest.mark.parametrize("treatment", [((5.0, 0.0),), ((9.0, 0.5), (5.0, 0.5)), ((-1.0, 0.5),)])
def test_treatment_that_cannot_be_is_refused(treatment: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="treatment"):
        PhantomSettings(treatment=treatment)


class TestGrowth:
    def test_without_diffusion_every_cell_grows_logistically(self) -> None:
        start = np.random.default_rng(0).uniform(0.01, 0.9, (6, 5, 4)).astype(np.float32)
        model = FisherKpp(np.zeros((6, 5, 4)), 0.05, 1.0)
        # Zero diffusivity marks what is not brain, so use a vanishing one.
        grown = FisherKpp(np.full((6, 5, 4), 1e-12), 0.05, 1.0).advance(start, 40)
        factor = np.exp(0.05 * 40)
        assert np.allclose(grown, start * factor / (1 + start * (factor - 1)), atol=1e-5)
        assert not model.advance(start, 40).any()

    def test_without_proliferation_a_gaussian_stays_gaussian(self) -> None:
        line = np.arange(61) - 30.0
        squared = line[:, None, None] ** 2 + line[None, :, None] ** 2 + line**2
        width, diffusivity, days = 5.0, 0.2, 60.0
        start = np.exp(-squared / (2 * width**2)).astype(np.float32)
        end = FisherKpp(np.full(start.shape, diffusivity), 0.0, 1.0).advance(start, days)
        spread = width**2 + 2 * diffusivity * days
        exact = (width**2 / spread) ** 1.5 * np.exp(-squared / (2 * spread))
        assert np.abs(end - exact).max() < 0.005 * exact.max()

    def test_nothing_leaves_a_ragged_brain(self) -> None:
        rng = np.random.default_rng(1)
        diffusivity = np.where(rng.random((30, 30, 30)) > 0.3, rng.uniform(0.01, 0.3, (30, 30, 30)), 0)
        start = np.where(diffusivity > 0, rng.random((30, 30, 30)), 0).astype(np.float32)
        end = FisherKpp(diffusivity, 0.0, 1.0).advance(start, 90)
        assert end.sum() == pytest.approx(start.sum(), rel=1e-4)
        assert not end[diffusivity == 0].any()

    def test_time_error_falls_with_the_square_of_the_step(self) -> None:
        line = np.arange(40) - 19.5
        start = 0.8 * np.exp(-(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line**2) / 50)
        diffusivity = np.full(start.shape, 0.2)

        def end(step: float) -> np.ndarray:
            return FisherKpp(diffusivity, 0.08, 1.0, step).advance(start.astype(np.float32), 32)

        fine = end(0.25)
        coarse_error, middle_error = (np.abs(end(step) - fine).max() for step in (4.0, 2.0))
        assert coarse_error / middle_error > 3.2

    def test_front_moves_at_the_speed_of_fisher_and_kolmogorov(self) -> None:
        diffusivity, proliferation = 0.5, 0.05
        start = np.zeros((400, 3, 3), np.float32)
        start[:20] = 1
        model = FisherKpp(np.full(start.shape, diffusivity), proliferation, 1.0)
        early = model.advance(start, 300)
        late = model.advance(early, 300)
        speed = ((late[:, 1, 1] > 0.5).sum() - (early[:, 1, 1] > 0.5).sum()) / 300
        # Bramson: the speed 2 sqrt(D rho) is reached from below as 3 / (2 t) dies out.
        expected = 2 * np.sqrt(diffusivity * proliferation) - 1.5 * np.sqrt(diffusivity / proliferation) * (
            np.log(600 / 300) / 300
        )
        assert speed == pytest.approx(expected, rel=0.05)

    def test_growing_to_a_volume_reaches_it(self) -> None:
        line = np.arange(50) - 25.0
        start = 0.8 * np.exp(-(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line**2) / 10)
        model = FisherKpp(np.full(start.shape, 0.1), 0.04, 1.0)
        density, days = model.grow_until(start.astype(np.float32), 0.6, 3000.0)
        # A ball on a lattice grows by whole shells of voxels at a time.
        assert (density > 0.6).sum() == pytest.approx(3000, rel=0.03)
        assert np.allclose(model.advance(start.astype(np.float32), days), density, atol=2e-3)

    def test_impossible_tumours_are_refused(self) -> None:
        start = np.zeros((8, 8, 8), np.float32)
        start[4, 4, 4] = 0.5
        model = FisherKpp(np.full(start.shape, 0.1), 0.05, 1.0)
        with pytest.raises(ValueError, match="within 20 years"):
            model.grow_until(start, 0.6, 1e6)
        with pytest.raises(ValueError, match="must not be negative"):
            FisherKpp(np.full(start.shape, -0.1), 0.05, 1.0)


class TestTruth:
    def test_the_core_has_the_volume_asked_for_and_everything_grows(self, phantom: PhantomTruth) -> None:
        first, second = (visit.volumes_ml for visit in phantom.visits)
        assert first["TC"] == pytest.approx(SMALL.first_visit_core_ml, rel=0.1)
        assert all(second[region] > 1.2 * first[region] for region in ("TC", "WT", "NCR"))
        assert first["WT"] == pytest.approx(first["NCR"] + first["ED"] + first["ET"])

    def test_smooth_borders_are_level_sets(self, tmp_path: Path) -> None:
        settings = PhantomSettings(seed=3, preset="small", visit_days=(0,), roughness=0, distractors=False)
        visit = make_phantom(tmp_path, settings).visits[0]
        core = visit.density.array > settings.thresholds.core
        assert np.array_equal(core, np.isin(visit.labels.array, (1, 3)))
        assert visit.volumes_ml["TC"] == pytest.approx(settings.first_visit_core_ml, rel=0.02)

    def test_truth_lies_beside_the_dicom_folder(self, phantom: PhantomTruth) -> None:
        folder = phantom.dicom_folder.parent
        written = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        assert written["settings"]["diffusivity"] == SMALL.diffusivity
        assert written["visits"][1]["day"] == 60
        assert written["visits"][0]["series"] == phantom.visits[0].series
        assert {path.name for path in (folder / "truth").iterdir()} == {
            f"visit{n}_{what}.nii.gz" for n in (1, 2) for what in ("labels", "density")
        }
        assert {path.suffix for path in phantom.dicom_folder.rglob("*") if path.is_file()} == {".dcm", ".txt"}
        labels = Volume.load_nifti(folder / "truth" / "visit2_labels.nii.gz")
        # NIfTI keeps single precision.
        assert labels.geometry.matches(phantom.visits[1].labels.geometry, tolerance_mm=1e-2)

    def test_images_show_the_tumour_where_the_truth_says(self, phantom: PhantomTruth) -> None:
        for number, visit in enumerate(phantom.visits):
            median: dict[Role, dict[int, float]] = {}
            for role, volume in role_volumes(phantom, number).items():
                labels = visit.labels.resampled(volume.geometry, interpolation="nearest").array
                inside = visit.density.resampled(volume.geometry).array
                median[role] = {n: float(np.median(volume.array[labels == n])) for n in (1, 2, 3)}
                # Tissue next to the tumour, barely infiltrated.
                median[role][0] = float(np.median(volume.array[(inside > 0.005) & (inside < 0.05)]))
            assert median["t1ce"][3] > 1.4 * max(median["t1ce"][n] for n in (0, 1, 2))
            assert median["t1ce"][1] < 0.6 * median["t1ce"][0]
            assert median["flair"][2] > 1.3 * median["flair"][0]
            assert median["t2"][2] > 1.3 * median["t2"][0]
            assert median["t1"][1] < median["t1"][2] < median["t1"][0]

    def test_the_rigid_motion_aligns_the_visits(self, phantom: PhantomTruth) -> None:
        first, second = (role_volumes(phantom, visit)["t1ce"] for visit in (0, 1))
        start = phantom.visits[0]
        brain = Volume(phantom.anatomy.brain, phantom.anatomy.geometry.moved(start.motion, ""))
        grid = first.geometry.axis_aligned_cover(4.0)
        inside = brain.resampled(grid).array

        def agreement(transform: np.ndarray) -> float:
            moved = Volume(second.array, second.geometry.moved(transform, ""))
            return float(
                np.corrcoef(*(image.resampled(grid).array[inside] for image in (first, moved)))[0, 1]
            )

        truth = agreement(phantom.to_first_visit(1))
        assert truth > agreement(np.eye(4)) + 0.3
        for axis in range(3):
            for error_mm in (-2.0, 2.0):
                wrong = phantom.to_first_visit(1)
                wrong[axis, 3] += error_mm
                assert agreement(wrong) < truth

    def test_another_anatomy_seed_is_another_head(self) -> None:
        first = make_anatomy(1, 4.0, False).brain
        second = make_anatomy(2, 4.0, False).brain
        overlap = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert 0.6 < overlap < 0.93
        assert 1.0e6 < first.sum() * 64 < 2.0e6

    def test_healthy_and_healed_heads(self, tmp_path: Path) -> None:
        settings = PhantomSettings(seed=3, preset="small", tumour_gone_from=1, skull=False, distractors=False)
        truth = make_phantom(tmp_path, settings)
        assert truth.visits[0].volumes_ml["TC"] > 10
        assert truth.visits[1].volumes_ml["WT"] == 0
        image = role_volumes(truth, 1)["t1ce"]
        # Skull-stripped: nothing but the brain, and nothing in it as bright as a rim.
        assert 1.0e6 < (image.array > 0).sum() * image.geometry.voxel_volume_mm3 < 2.2e6
        assert 0.3 < (image.array == 0).mean()


class TestDicom:
    def test_dciodvfy_finds_no_error(self, phantom: PhantomTruth) -> None:
        if shutil.which("dciodvfy") is None:
            pytest.fail("dciodvfy is not installed: make test installs dicom3tools")
        files = sorted(phantom.dicom_folder.rglob("0002.dcm"))
        assert len(files) == 12
        for path in files:
            report = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
            assert report.returncode == 0 and "Error" not in report.stderr + report.stdout, report.stderr

    def test_each_visit_is_a_study_with_its_own_coordinates(self, phantom: PhantomTruth) -> None:
        every = []
        for number, visit in enumerate(phantom.visits):
            images = [x for s in read_slices(phantom.dicom_folder / f"visit{number + 1}").values() for x in s]
            every += images
            assert {x.StudyInstanceUID for x in images} == {visit.study_instance_uid}
            assert {x.FrameOfReferenceUID for x in images} == {visit.frame_of_reference_uid}
            when = SMALL.first_visit + timedelta(days=SMALL.visit_days[number])
            assert {x.AcquisitionDate for x in images} == {when.strftime("%Y%m%d")}
            assert {x.PatientID for x in images} == {"PHANTOM-0003"}
            assert {str(x.PatientName) for x in images} == {"Phantom^Åsa"}
        assert len({x.StudyInstanceUID for x in every}) == 2
        assert len({x.SOPInstanceUID for x in every}) == len(every)

    def test_contrast_agent_stays_once_given(self, phantom: PhantomTruth) -> None:
        for number, visit in enumerate(phantom.visits):
            slices = read_slices(phantom.dicom_folder / f"visit{number + 1}")
            injected = slices[visit.series["t1ce"]][0].AcquisitionTime
            for images in slices.values():
                assert ("ContrastBolusAgent" in images[0]) == (images[0].AcquisitionTime >= injected)

    def test_slices_are_oblique_and_anisotropic_as_prescribed(self, phantom: PhantomTruth) -> None:
        volumes = role_volumes(phantom, 0)
        assert volumes["t2"].geometry.spacing == pytest.approx((2.5, 2.5, 5.0), abs=1e-6)
        tilt = np.degrees(np.arccos(abs(volumes["t2"].geometry.directions[2, 2])))
        assert 5 < tilt < 20
        assert int(np.abs(volumes["t1ce"].geometry.directions[:, 2]).argmax()) == 0
        assert volumes["t2"].array.max() <= 4095

    def test_distractors_are_there_and_recognisable(self, phantom: PhantomTruth) -> None:
        slices = read_slices(phantom.dicom_folder / "visit1")
        others = [x for uid, x in slices.items() if uid not in phantom.visits[0].series.values()]
        localiser, reformat = sorted(others, key=lambda images: images[0].SeriesNumber)
        assert len({tuple(x.ImageOrientationPatient) for x in localiser}) == 3
        assert list(reformat[0].ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert (phantom.dicom_folder / "visit1" / "notes.txt").is_file()

    def test_equal_settings_give_equal_files(self, phantom: PhantomTruth, tmp_path: Path) -> None:
        again = make_phantom(tmp_path, SMALL).dicom_folder
        for path in phantom.dicom_folder.rglob("*.dcm"):
            assert path.read_bytes() == (again / path.relative_to(phantom.dicom_folder)).read_bytes()


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"visit_days": (5, 60)}, "start at 0"),
            ({"visit_days": (0, 60, 30)}, "not fall"),
            ({"diffusivity": 0}, "diffusivity must be positive"),
            ({"noise": -1}, "noise must not be negative"),
            ({"preset": "huge"}, "preset must be one of"),
            ({"languages": ("tlh",)}, "languages must be among"),
        ],
    )
    def test_nonsense_is_refused(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PhantomSettings(**change)  # type: ignore[arg-type]

    def test_thresholds_must_rise(self) -> None:
        with pytest.raises(ValueError, match="must rise"):
            Thresholds(0.2, 0.8, 0.6)

    def test_an_onset_outside_the_brain_is_refused(self, tmp_path: Path) -> None:
        settings = PhantomSettings(preset="small", onset_mni_mm=(0, 95, 0), skull=False)
        with pytest.raises(ValueError, match="outside the brain"):
            make_phantom(tmp_path, settings)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-o", str(tmp_path), "--preset", "small", "--no-tumour", "--days", "0", "--patient-id", "X1"]
    assert main(arguments) == 0
    assert "DICOM in" in capsys.readouterr().out
    settings = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))["settings"]
    assert settings["tumour_gone_from"] == 0 and settings["identity"]["patient_id"] == "X1"
    assert main(arguments) == 2
    assert "already holds files" in capsys.readouterr().err
    assert main(["-o", str(tmp_path / "new"), "--days", "3"]) == 2
    assert "start at 0" in capsys.readouterr().err
