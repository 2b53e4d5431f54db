"""dlspark as files and as requirements: with them a logged model loads where dlspark is not installed."""

from __future__ import annotations

from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

_LOADING_NEEDS = (
    "fsspec",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "safetensors",
    "torch",
    "torchvision",
)


def copy_package(folder: Path) -> Path:
    """Write the sources of dlspark into `folder`, also when it is imported from a zip or a wheel.

    Returns:
        The package's folder there.
    """
    target = folder / "dlspark"
    _copy(resources.files("dlspark"), target)
    return target


def loading_requirements() -> list[str]:
    """Return `name==version`, as installed here, of the packages that loading a logged classifier imports."""
    return [f"{name}=={metadata.version(name)}" for name in _LOADING_NEEDS]


def _copy(source: Traversable, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                _copy(entry, target / entry.name)
        elif entry.name.endswith((".py", ".typed")):
            (target / entry.name).write_bytes(entry.read_bytes())
