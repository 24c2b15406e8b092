"""MONAI Label 0.8.5 as this application uses it: safe defaults, and stand-ins for packages it imports but never calls.

Every other module takes MONAI Label's classes from here, so that the defaults are set before it reads them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# Before the stand-ins, lest MONAI take them for the real packages.
import monai.data  # noqa: F401

# pydicom_seg does not import under pydicom 3 and is no longer maintained; itk takes 1.5 GB. MONAI Label imports both
# for its own DICOM SEG and image writers, which `imaging` replaces. A later version that does not ask for them, or an
# environment that has them, never meets a stand-in.
_NEVER_CALLED = ("pydicom_seg", "itk")

_DEFAULTS = {
    # Scoring methods would otherwise start by themselves at every sample and take both cores.
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    # mlflow is not installed; it would be asked otherwise.
    "MONAI_LABEL_TRACKING_ENABLED": "false",
    "MONAI_LABEL_TASKS_BATCH_INFER": "false",
    "MONAI_LABEL_SESSIONS": "false",
    "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "MR"}',
}


@contextmanager
def _stand_ins() -> Iterator[None]:
    placed = [
        name for name in _NEVER_CALLED if name not in sys.modules and importlib.util.find_spec(name) is None
    ]
    for name in placed:
        sys.modules[name] = _stand_in(name)
    try:
        yield
    finally:
        for name in placed:
            del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    def missing(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise ImportError(f"{name} is not installed: this application writes and reads DICOM by itself")

    module = ModuleType(name, "Stand-in for a package that is imported but never called.")
    module.__getattr__ = missing  # type: ignore[method-assign]
    return module


for _key, _value in _DEFAULTS.items():
    os.environ.setdefault(_key, _value)

with _stand_ins():
    from monailabel.app import app as upstream_asgi
    from monailabel.config import settings as upstream_settings
    from monailabel.endpoints import datastore as upstream_datastore
    from monailabel.endpoints import infer as upstream_infer
    from monailabel.endpoints.user import auth as upstream_auth
    from monailabel.interfaces.app import MONAILabelApp
    from monailabel.interfaces.datastore import Datastore
    from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
    from monailabel.interfaces.tasks.scoring import ScoringMethod
    from monailabel.interfaces.tasks.strategy import Strategy
    from monailabel.interfaces.tasks.train import TrainTask
    from monailabel.utils.async_tasks.task import AsyncTask

__all__ = [
    "AsyncTask",
    "Datastore",
    "InferTask",
    "InferType",
    "MONAILabelApp",
    "ScoringMethod",
    "Strategy",
    "TrainTask",
    "upstream_asgi",
    "upstream_auth",
    "upstream_datastore",
    "upstream_infer",
    "upstream_settings",
]
