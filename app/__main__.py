"""Command line of the application: ``python -m app -i IN -o OUT``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

from app.settings import SettingsError, load_settings, settings_path, with_patient

ROOT = Path(__file__).resolve().parent.parent

# Holoscan and its libraries log to stdout and would drown the answer; their level is read at import.
os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments, with the MONAI Application Package's variables as defaults."""
    environment = os.environ
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Longitudinal glioblastoma DICOM in; segmentations, a calibrated growth forecast and DICOM "
        "reports out. Research use only, not a medical device.",
        epilog="Exit codes: 0 done, 1 fault of the program, 2 usage or settings, 3 input, 4 registration, "
        "5 model, 6 calibration, 7 output.",
    )
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        default=environment.get("HOLOSCAN_INPUT_PATH"),
        help="folder of DICOM files",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=environment.get("HOLOSCAN_OUTPUT_PATH"),
        help="folder of results, made by the run; it must not exist or be empty",
    )
    parser.add_argument(
        "-m",
        "--models",
        type=Path,
        default=environment.get("HOLOSCAN_MODEL_PATH", ROOT / "models"),
        help="folder with one MONAI bundle, or the bundle itself (default: the one shipped)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=settings_path(environment),
        help="settings (default: the app.yaml shipped)",
    )
    parser.add_argument(
        "--progress",
        choices=("text", "json"),
        default=environment.get("ONCOTWIN_PROGRESS", "text"),
        help="form of the lines on the error output (default: text)",
    )
    parser.add_argument(
        "--patient-settings",
        type=Path,
        help="treatments and series_rules of this patient, beside the settings",
    )
    parser.add_argument(
        "--any-patient",
        action="store_true",
        help="refuse settings for one patient in --config, such as treatments; the gateway and cohorts give this",
    )
    parser.add_argument("--nifti", action="store_true", help="also write every mask and map as NIfTI")
    options = parser.parse_args(arguments)
    for name in ("input", "output"):
        value = getattr(options, name)
        if value is None:
            parser.error(f"no {name} folder: give -{name[0]} or set HOLOSCAN_{name.upper()}_PATH")
        setattr(options, name, Path(value))
    options.models, options.config = Path(options.models), Path(options.config)
    return options


class ProgressFormatter(logging.Formatter):
    """Lines of progress and failure with the seconds since the start, as text or as one JSON object each."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form
        self._started = time.monotonic()

    def format(self, record: logging.LogRecord) -> str:
        elapsed = time.monotonic() - self._started
        details: dict[str, object] = getattr(record, "failure", {})
        if self._form == "json":
            event = "failure" if details else "progress"
            line = {"event": event, "elapsed_s": round(elapsed, 1), "message": record.getMessage(), **details}
            return json.dumps(line, ensure_ascii=False)
        if details:
            return f"oncotwin: {record.getMessage()}" + (
                f" [{details['reason']}]" if "reason" in details else ""
            )
        return f"[{elapsed:6.1f} s] {record.getMessage()}"


def show_progress(form: str) -> logging.Logger:
    """Print the ``oncotwin`` log to stderr; returns that log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ProgressFormatter(form))
    logger = logging.getLogger("oncotwin")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def silence_libraries() -> None:
    """Keep quiet what would show values of DICOM attributes, and one warning about something harmless."""
    for library in ("pydicom", "highdicom"):
        warnings.filterwarnings("ignore", module=library)
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="Current stack size", category=RuntimeWarning)


def main(arguments: list[str] | None = None) -> int:
    """Run the application; returns the exit code."""
    options = parse_arguments(arguments)
    log = show_progress(options.progress)
    silence_libraries()
    log.info("starting")

    try:
        settings = load_settings(options.config)
        if options.any_patient and (key := settings.oncotwin.of_one_patient):
            raise SettingsError(
                f"{options.config.name}: {key} belongs to one patient, while these settings are for any; put it into a "
                "file of that patient (--patient-settings)."
            )
        if options.patient_settings:
            ours = with_patient(settings.oncotwin, options.patient_settings)
            settings = settings.model_copy(update={"oncotwin": ours})
    except SettingsError as error:
        log.error("%s", error, extra={"failure": {"exit_code": 2}})
        return 2

    # Heavy: torch, MONAI and Holoscan. After the cheap checks, so that a typing error is told at once.
    from app.application import OncoTwinApplication, RunFolders
    from app.summary import summary_of
    from operators.failures import as_failure

    folders = RunFolders(options.input, options.output, options.models)
    try:
        OncoTwinApplication(folders, settings, nifti=options.nifti).run()
    except Exception as error:
        failure = as_failure(error)
        if failure is None:
            raise
        details = {"exit_code": int(failure.exit_code), "reason": failure.reason}
        log.error("%s", failure.sentence, extra={"failure": details})
        return int(failure.exit_code)
    print(summary_of(options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
