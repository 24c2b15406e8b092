"""OHIF, the viewer that MONAI Label brings along, in a real browser without a window."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from imaging.geometry import Geometry, Volume

# WebGL by the processor; as root, Chromium's own sandbox cannot be had.
_ARGUMENTS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
_PATIENCE_MS = 120_000
_SERIES_SHOWN = """() => {
    const shown = services.viewportGridService.getState().viewports.get('mpr-axial').displaySetInstanceUIDs;
    return services.displaySetService.getDisplaySetByUID(shown[0]).SeriesInstanceUID;
}"""
_THUMBNAIL = """uid =>
    'thumbnail-' + services.displaySetService.getDisplaySetsForSeries(uid)[0].displaySetInstanceUID"""
_IMAGES_THERE = """uid => {
    const volume = cornerstone.cache.getVolumes().find(one => one.volumeId.includes(
        services.displaySetService.getDisplaySetsForSeries(uid)[0].displaySetInstanceUID));
    return volume && volume.loadStatus.loaded;
}"""
_SEGMENTATION = """() => {
    const [found] = cornerstoneTools.segmentation.state.getSegmentations();
    const volume = cornerstone.cache.getVolume(found.representationData.Labelmap.volumeId);
    return {
        names: Object.fromEntries(Object.values(found.segments).map(one => [one.segmentIndex, one.label])),
        values: new Uint8Array(volume.voxelManager.getCompleteScalarDataArray()).toBase64(),
        dimensions: Array.from(volume.dimensions),
        origin: Array.from(volume.origin),
        spacing: Array.from(volume.spacing),
        direction: Array.from(volume.direction),
    };
}"""
_JUMP = """place => cornerstone.getRenderingEngines().forEach(engine => engine.getViewports().forEach(
    viewport => { viewport.jumpToWorld(place); viewport.render(); }))"""

_COLOURED = """() => {
    let count = 0;
    for (const canvas of document.querySelectorAll('canvas.cornerstone-canvas')) {
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        for (let at = 0; at < pixels.length; at += 4) {
            const colours = pixels.slice(at, at + 3);
            count += Math.max(...colours) - Math.min(...colours) > 60;
        }
    }
    return count;
}"""


class Ohif:
    """A person at OHIF's panel of MONAI Label; see :func:`opened`.

    Parameters
    ----------
    page : playwright.sync_api.Page
        Of the browser.
    url : str
        Of the server.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self._url = page, url
        self._knows_its_purpose = False

    def open(self, study_uid: str) -> None:
        """Open a study in the mode MONAI Label."""
        page = self.page
        page.goto(f"{self._url}/ohif/monai-label?StudyInstanceUIDs={study_uid}")
        if not self._knows_its_purpose:
            page.get_by_text("Confirm and Hide").click()
            self._knows_its_purpose = True
        page.locator("canvas.cornerstone-canvas").nth(2).wait_for()
        self._wait_for_images()

    def connect(self) -> None:
        """Give the panel the server's address; it makes its label map for the series on screen."""
        self.page.fill("#monailabelServerURL", f"{self._url}/")
        self.page.locator(".monaiLabelPanel .actionButton").first.click()
        self.page.get_by_text("Auto-Segmentation").wait_for()

    def show(self, series_uid: str) -> None:
        """Show a series of the study, by a double click on its picture."""
        thumbnail: str = self.page.evaluate(_THUMBNAIL, series_uid)
        self.page.locator(f"[id='{thumbnail}']").dblclick()
        self.page.wait_for_function(f"uid => ({_SERIES_SHOWN})() === uid", arg=series_uid)
        self._wait_for_images()

    @property
    def series_shown(self) -> str:
        """UID of the series in the viewports."""
        return str(self.page.evaluate(_SERIES_SHOWN))

    def run(self, model: str) -> int:
        """Run a model from the panel; the status of the server's answer."""
        page = self.page
        panel = page.locator(".monaiLabelPanel .tab", has_text="Auto-Segmentation")
        panel.locator("select").select_option(model)
        with page.expect_response(lambda response: "/infer/" in response.url) as answer:
            panel.get_by_role("button", name="Run").click()
        status = answer.value.status
        page.wait_for_timeout(1500)
        return status

    def segmentation(self) -> tuple[Volume, dict[str, int]]:
        """What lies over the images: OHIF's own label map where OHIF believes it to be, and value by name."""
        found: dict[str, Any] = self.page.evaluate(_SEGMENTATION)
        i, j, k = found["dimensions"]
        values = np.frombuffer(base64.b64decode(found["values"]), np.uint8).reshape(k, j, i)
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(found["direction"], (3, 3)).T * found["spacing"]
        affine[:3, 3] = found["origin"]
        names = {label: int(value) for value, label in found["names"].items()}
        return Volume(np.ascontiguousarray(values.transpose(2, 1, 0)), Geometry((i, j, k), affine)), names

    def jump_to(self, place: Sequence[float]) -> None:
        """Bring a place of the patient (mm) into every viewport."""
        self.page.evaluate(_JUMP, list(place))
        self.page.wait_for_timeout(500)

    def coloured(self) -> int:
        """Pixels of the images on screen that are not grey: what shows of an overlay."""
        return int(self.page.evaluate(_COLOURED))

    def _wait_for_images(self) -> None:
        self.page.wait_for_function(_IMAGES_THERE, arg=self.series_shown)


@contextmanager
def opened(url: str, width: int = 1400, height: int = 900) -> Iterator[Ohif]:
    """A browser without a window, in the network of the calling thread."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise FileNotFoundError("Chromium is missing: install chromium (apt)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_PATIENCE_MS)
            yield Ohif(page, url)
        finally:
            browser.close()
