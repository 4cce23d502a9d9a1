"""Optional packages, which only some commands require. This module imports no heavy packages."""

from importlib.util import find_spec

from vae_lightning.checks.errors import ConfigError

# export format -> packages that it requires beyond the dependencies of this package
EXPORT_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "safetensors": ("safetensors",),
}


def require_packages(option: str, packages: tuple[str, ...]) -> None:
    """Raises ConfigError, with the pip command to run, if a package is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        # no extra of this package: pip would look up its name, which others may own, in an index
        command = f"pip install {' '.join(missing)}"
        raise ConfigError(f"{option}: requires packages that are not installed: {command}")


def require_extra(option: str, extra: str, package: str) -> None:
    """Raises ConfigError, with the pip command to run, if the package of an extra is missing."""
    if find_spec(package) is None:
        command = f"pip install 'vae_lightning[{extra}]'"
        raise ConfigError(f"{option}: requires an extra that is not installed: {command}")
