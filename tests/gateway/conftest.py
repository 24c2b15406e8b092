"""Gateways and archives that end with their test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.world import GatewayProcess, Orthanc

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"))
    archive.start()
    yield archive
    archive.kill()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> GatewayProcess:
            gateway = GatewayProcess(tmp_path / "gateway", settings)
            gateway.start()
            stack.callback(gateway.kill)
            return gateway

        yield start
