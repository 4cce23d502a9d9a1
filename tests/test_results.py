"""The page of results is written from the kept runs, and the linear models are near the optimum."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

PLACE = Path(__file__).parents[1] / "docs" / "results"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", PLACE / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_kept_runs_say(make: ModuleType) -> None:
    assert (PLACE / "README.md").read_text() == make.page()


def test_the_loss_of_each_linear_model_is_near_the_exact_one(make: ModuleType) -> None:
    kept = [job for job in make.LINEAR if make.result(job)]
    assert len(kept) >= 8
    for job in kept:
        found = json.loads((PLACE / "runs" / job.name / "metrics.json").read_text())
        assert 0 <= found["closed_form/train_loss"] - found["ppca/train_loss"] < 0.022, job
        assert abs(found["closed_form/active_units"] - found["ppca/active_units"]) <= 1, job
