"""Takes out of an image's file system what the application never calls: ``python -m container.slim /``.

Run once, as the last step of the stage that installs; the final stage copies what is left. The list of installed Debian
packages and every licence text stay, for scanners and lawyers.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# mercure reads a manifest with cat; a container engine with an NVIDIA hook refreshes the linker's cache.
KEPT_PROGRAMS = ("python", "cat", "ldconfig")
_PROGRAM_FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "opt/venv/bin")
_FOLDERS = (
    "boot", "home", "media", "mnt", "root", "srv", "usr/games", "usr/include", "usr/lib/apt", "usr/lib/dpkg",
    "usr/lib/gcc", "usr/lib/git-core", "usr/lib/systemd", "usr/share/bash-completion",
    "usr/share/debconf", "usr/share/locale", "usr/share/man", "usr/share/perl", "usr/share/perl5",
    "usr/share/python-wheels", "usr/src", "var/cache", "var/lib/apt", "var/log",
)  # fmt: skip
_PATTERNS = (
    "usr/lib/*/perl*",
    "usr/lib/*/libperl*",
    "usr/lib/*/security",
    "usr/lib/python3*/ensurepip",
    "usr/local/lib/python3*/ensurepip",
)
_PACKAGE_PATTERNS = (
    "pip", "pip-*.dist-info", "setuptools", "setuptools-*.dist-info", "pkg_resources", "_distutils_hack",
    "distutils-precedence.pth",
    "torch/include", "torch/share", "torch/test", "torch/utils/benchmark",
    "scipy/**/tests", "numpy/**/tests", "pandas/tests", "sympy/**/tests", "nibabel/**/tests", "numba/tests",
    "matplotlib/tests", "matplotlib/mpl-data/sample_data", "mpl_toolkits/**/tests", "networkx/**/tests",
    "highdicom/**/tests", "nilearn/**/tests", "holoscan/include", "monai/**/tests",
    "**/*.a", "**/*.pyx", "**/*.pxd",
)  # fmt: skip


def unwanted(root: Path) -> Iterator[Path]:
    """Paths to take out, as far as they exist."""
    for folder in _PROGRAM_FOLDERS:
        # A merged /usr shows the same folder twice; the link itself stays.
        if (root / folder).is_dir() and not (root / folder).is_symlink():
            yield from (p for p in (root / folder).iterdir() if not p.name.startswith(KEPT_PROGRAMS))
    yield from (root / name for name in _FOLDERS)
    for pattern in _PATTERNS:
        yield from root.glob(pattern)
    for packages in root.glob("opt/venv/lib/python3*/site-packages"):
        for pattern in _PACKAGE_PATTERNS:
            yield from packages.glob(pattern)


def slim(root: Path) -> int:
    """Remove what is unwanted; returns how many paths that were."""
    found = [path for path in unwanted(root) if path.exists() or path.is_symlink()]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


if __name__ == "__main__":
    print(f"removed {slim(Path(sys.argv[1]))} files and folders")
