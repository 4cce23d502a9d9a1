"""Run folders: created once, written in one step, read back."""

import json
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vae_lightning.checks.errors import ConfigError, Interrupted
from vae_lightning.runs.stored import read_stored
from vae_lightning.storage import files
from vae_lightning.storage import run_folder as runs


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    def make(_: int) -> Path:
        with runs.new_folder(tmp_path / "12-00-00", exclusive=True) as folder:
            return folder

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert sorted(path.name for path in made) == [
        "12-00-00",
        *(f"12-00-00-{number}" for number in range(2, 9)),
    ]


def test_a_chosen_folder_is_taken_literally_and_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with runs.new_folder(tmp_path / "empty", exclusive=False) as folder:
        assert folder == tmp_path / "empty"
    with runs.new_folder(tmp_path / "a" / "b", exclusive=False) as folder:
        assert folder.is_dir()
    runs.write_status(tmp_path / "a" / "b", "finished")
    with pytest.raises(ValueError, match=r"hydra.run.dir=.*must be a new or empty folder"):
        runs.new_folder(tmp_path / "a" / "b", exclusive=False).__enter__()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_refused_configuration_leaves_no_folder(tmp_path: Path, exclusive: bool) -> None:
    (tmp_path / "mine").mkdir()
    with (
        pytest.raises(ConfigError),
        runs.new_folder(tmp_path / "mine" / "a" / "b", exclusive),
    ):
        raise ConfigError("wrong")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_an_atomic_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def fail() -> None:
        with files.atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_has_the_columns_of_all_rows(tmp_path: Path) -> None:
    files.write_csv(tmp_path / "t.csv", [{"a": 1}, {"a": 2, "b": "x,y"}])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b", "1,", '2,"x,y"']
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (Interrupted(signal.SIGTERM), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (OSError("full"), "failed"),
    ],
)
def test_status_says_how_a_run_ended(
    tmp_path: Path, error: BaseException | None, state: str
) -> None:
    def body() -> None:
        with runs.recorded(tmp_path):
            assert json.loads((tmp_path / "status.json").read_text()) == {"state": "running"}
            if error:
                raise error

    if error:
        raised = Interrupted if isinstance(error, KeyboardInterrupt) else type(error)
        with pytest.raises(raised):
            body()
    else:
        body()
    expected = {"state": state} | ({"reason": "OSError: full"} if state == "failed" else {})
    assert json.loads((tmp_path / "status.json").read_text()) == expected
    assert not logging.getLogger("vae_lightning").handlers
    assert ("Traceback" in (tmp_path / "train.log").read_text()) == (state == "failed")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume=.*must be a run folder"):
        read_stored(tmp_path, "resume")


@pytest.mark.parametrize("links", [True, False])
def test_a_shared_file_outlives_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def link(*_: Path) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr("os.link", link)
    last, best = tmp_path / "last", tmp_path / "best"
    for text in ("first", "second"):
        files.write_text(last, text)
        files.link(last, best)
        files.write_text(last, "later")
        assert best.read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"last", "best"}
