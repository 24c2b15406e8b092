"""Command line: simulate, calibrate and forecast on NIfTI files, without DICOM."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from twin.calibration import calibrate
from twin.errors import TwinError
from twin.inputs import TissueMaps, TumourObservation
from twin.model import ReactionDiffusion
from twin.nifti import Grid, read_maps, read_visit, write_volume
from twin.operator import DiffusionOperator
from twin.prediction import forecast
from twin.priors import LogNormal, Priors
from twin.results import Calibration, Forecast
from twin.schedule import read_treatments
from twin.settings import CalibrationSettings, DeviceName
from twin.solver import trajectory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (TwinError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m twin", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{simulate,calibrate,forecast}")
    simulate = commands.add_parser("simulate", help="grow a tumour from a seed point")
    _add_maps(simulate)
    simulate.add_argument("--seed-voxel", type=int, nargs=3, required=True, metavar=("I", "J", "K"))
    simulate.add_argument("--seed-radius", type=float, default=4.0, help="mm (default 4)")
    simulate.add_argument(
        "--diffusivity", type=float, default=0.1, help="white matter, mm2/day (default 0.1)"
    )
    simulate.add_argument("--proliferation", type=float, default=0.03, help="1/day (default 0.03)")
    simulate.add_argument("--radiosensitivity", type=float, default=0.04, help="alpha, 1/Gy (default 0.04)")
    simulate.add_argument(
        "--chemosensitivity", type=float, default=0.2, help="1/day at the reference dose (default 0.2)"
    )
    _add_device(simulate)
    simulate.add_argument("--days", type=float, nargs="+", required=True, help="days to write, increasing")
    simulate.add_argument("-o", "--output", type=Path, required=True, help="folder")
    simulate.set_defaults(run=_simulate)
    for name, text in (("calibrate", "fit the growth model to visits"), ("forecast", "fit, then grow on")):
        command = commands.add_parser(name, help=text)
        _add_maps(command)
        command.add_argument(
            "--visit",
            action="append",
            required=True,
            metavar="DAY:SEG",
            help="day and label map (1 necrosis, 2 oedema, 3 enhancing); repeat for every visit",
        )
        command.add_argument(
            "--prior-diffusivity", type=float, nargs=2, default=(0.1, 0.9), metavar=("MEDIAN", "SIGMA")
        )
        command.add_argument(
            "--prior-proliferation", type=float, nargs=2, default=(0.03, 0.6), metavar=("MEDIAN", "SIGMA")
        )
        command.add_argument("--samples", type=int, default=64, help="posterior draws (default 64)")
        _add_device(command)
        command.add_argument(
            "-o", "--output", type=Path, required=True, help="JSON file, or folder of a forecast"
        )
        command.set_defaults(run=_calibrate if name == "calibrate" else _forecast)
        if name == "forecast":
            command.add_argument(
                "--horizons", type=float, nargs="+", default=[30.0, 60, 90, 120, 150, 180], help="days"
            )
    return parser


def _add_maps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wm", type=Path, required=True, help="white-matter probability map, NIfTI")
    parser.add_argument("--gm", type=Path, required=True, help="grey-matter probability map, NIfTI")
    parser.add_argument("--domain", type=Path, help="mask of tissue; default where white + grey exceed 0.5")
    parser.add_argument(
        "--treatments", type=Path, metavar="FILE", help="JSON list of treatments, see docs/command-line.md"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=get_args(DeviceName),
        default=CalibrationSettings.device,
        help=f"where growth is computed; auto takes a GPU when there is one (default {CalibrationSettings.device})",
    )


def _simulate(options: argparse.Namespace) -> None:
    maps, grid = read_maps(options.wm, options.gm, options.domain)
    if not all(0 <= v < n for v, n in zip(options.seed_voxel, maps.shape, strict=True)):
        raise TwinError(
            "bad_seed", f"The seed voxel {tuple(options.seed_voxel)} is outside the maps of {maps.shape}."
        )
    if not bool(maps.domain[tuple(options.seed_voxel)]):
        raise TwinError("bad_seed", f"The seed voxel {tuple(options.seed_voxel)} is outside the tissue.")
    settings = CalibrationSettings(device=options.device)
    weight = maps.white_matter + maps.gray_matter / settings.gray_matter_ratio
    operator = DiffusionOperator.build(weight, maps.domain, maps.spacing_mm, device=settings.solver_device())
    offsets = torch.meshgrid(
        *(
            (torch.arange(n) - s) * h
            for n, s, h in zip(maps.shape, options.seed_voxel, maps.spacing_mm, strict=True)
        ),
        indexing="ij",
    )
    square = sum(offset.double() ** 2 for offset in offsets)
    start = 0.9 * torch.exp(-square / (2 * options.seed_radius**2)) * maps.domain
    therapies = read_treatments(options.treatments, grid) if options.treatments else ()
    model = ReactionDiffusion(operator, therapies=therapies)
    parameters = {name: torch.tensor([getattr(options, name)]) for name in model.parameters}
    options.output.mkdir(parents=True, exist_ok=True)
    for day, state in zip(
        options.days, trajectory(model, parameters, start[None, None], options.days), strict=True
    ):
        density = state[0, 0].float()
        labels = 2 * (density > settings.whole_threshold).to(torch.uint8)
        labels[density > settings.core_threshold] = 3
        write_volume(options.output / f"density_day{day:g}.nii.gz", density, grid)
        write_volume(options.output / f"seg_day{day:g}.nii.gz", labels, grid)
        whole, core = int((labels > 0).sum()), int((labels == 3).sum())
        print(
            f"day {day:g}: whole {whole * maps.voxel_mm3 / 1000:.2f} mL, core {core * maps.voxel_mm3 / 1000:.2f} mL"
        )


def _fitted(options: argparse.Namespace) -> tuple[TissueMaps, list[TumourObservation], Calibration, Grid]:
    maps, grid = read_maps(options.wm, options.gm, options.domain)
    visits = sorted((read_visit(text, grid) for text in options.visit), key=lambda visit: visit.day)
    therapies = read_treatments(options.treatments, grid) if options.treatments else ()
    priors = Priors(LogNormal(*options.prior_diffusivity), LogNormal(*options.prior_proliferation))
    settings = CalibrationSettings(samples=options.samples, device=options.device)
    calibration = calibrate(maps, visits, priors, settings, _progress, therapies=therapies)
    return maps, visits, calibration, grid


def _calibrate(options: argparse.Namespace) -> None:
    _, _, calibration, _ = _fitted(options)
    _write_json(options.output, _summary(calibration))
    print(calibration.verdict)


def _forecast(options: argparse.Namespace) -> None:
    maps, visits, calibration, grid = _fitted(options)
    predicted = forecast(calibration, maps, visits, options.horizons, _progress)
    options.output.mkdir(parents=True, exist_ok=True)
    for horizon in predicted.horizons:
        name = f"{horizon.horizon_days:g}"
        write_volume(options.output / f"density_mean_{name}.nii.gz", horizon.density_mean, grid)
        write_volume(options.output / f"density_sd_{name}.nii.gz", horizon.density_sd, grid)
        likely = (horizon.probability_whole > 0.5).to(torch.uint8) * 2
        likely[horizon.probability_core > 0.5] = 3
        write_volume(options.output / f"tumour_{name}.nii.gz", likely, grid)
    _write_json(options.output / "forecast.json", _summary(calibration) | _forecast_summary(predicted))
    print(calibration.verdict)


def _summary(calibration: Calibration) -> dict[str, Any]:
    return {
        "verdict": calibration.verdict,
        "acceptable": calibration.acceptable,
        "parameters": {p.name: asdict(p) for p in calibration.parameters},
        "fit": [asdict(fit) for fit in calibration.fit],
        "skill": asdict(calibration.skill) if calibration.skill else None,
        "effective_samples": calibration.effective_samples,
        "warnings": list(calibration.warnings),
    }


def _forecast_summary(predicted: Forecast) -> dict[str, Any]:
    curve = predicted.curve
    return {
        "forecasts": [
            {
                "day": horizon.day,
                "horizon_days": horizon.horizon_days,
                "volume_core_mm3": asdict(horizon.volume_core_mm3),
                "volume_whole_mm3": asdict(horizon.volume_whole_mm3),
            }
            for horizon in predicted.horizons
        ],
        "curve": {name: [float(value) for value in values] for name, values in vars(curve).items()},
        "conformal": asdict(predicted.conformal),
        "forecast_warnings": list(predicted.warnings),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(content), indent=2) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON has no nan: an undefined number is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _progress(phase: str, fraction: float) -> None:
    print(
        f"\r{phase} {100 * fraction:3.0f} %", end="\n" if fraction >= 1 else "", file=sys.stderr, flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
