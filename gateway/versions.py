"""What a study is now, told to the table of jobs: its instances, whose they are, and what keeps it from being run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.folders import WorkFolder, remove, study_uid_of
from gateway.headers import patient_of
from gateway.jobs import IMAGES_REFUSED, PATIENTS_DIFFER, Job, JobTable, Obstacle
from gateway.refusals import sentence_for

_MIXED = Obstacle(
    PATIENTS_DIFFER,
    "The images of this study name different patients (PatientID, IssuerOfPatientID, PatientBirthDate or PatientSex): "
    "send the whole study again, and it runs when they agree.",
)


def enqueue(
    jobs: JobTable,
    folders: WorkFolder,
    inbox: Path,
    source: str,
    instances: Iterable[str],
    refused: Mapping[str, str],
) -> Job | None:
    """Queue a study as it is now, or park it when it is not whole or not of one patient.

    Parameters
    ----------
    jobs, folders
        The table and the work folder.
    inbox : pathlib.Path
        Folder of the study.
    source : str
        Where it came from, for people.
    instances : iterable of str
        Keys of the instances that belong to it and are there.
    refused : mapping of str to str
        Keys of the instances that belong to it and were refused, with the reason.

    Returns
    -------
    Job or None
        None when it is nothing new.
    """
    there = jobs.without_results(instances)
    if not there:
        return None
    missing = {key: refused[key] for key in jobs.without_results(refused) - there}
    patient, is_one = patient_of(inbox / f"{key}.dcm" for key in there)
    obstacle = None if is_one else _MIXED
    if missing:
        obstacle = Obstacle(IMAGES_REFUSED, sentence_for(missing))
    # What is missing is part of the version: no attempt can run without it, and the job goes on when it has come.
    job = jobs.add(study_uid_of(inbox), there | missing.keys(), source, patient=patient, obstacle=obstacle)
    if job is not None:
        remove(folders.job(job.id))  # of an earlier life of a job that is queued again
    return job
