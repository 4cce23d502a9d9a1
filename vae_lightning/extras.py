"""Packages that only some commands need. Imports nothing heavy."""

from importlib.util import find_spec

# export format -> packages that it needs and that are no dependencies of this one
FORMATS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch_export": (),
    "safetensors": ("safetensors",),
}


def need(what: str, packages: tuple[str, ...]) -> None:
    """Raises ValueError with the pip command for those that are not there."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        # by their own names: this package's would be looked up in an index where it may be somebody else's
        raise ValueError(f"{what}: needs packages that are not there: pip install {' '.join(missing)}")
