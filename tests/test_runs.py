"""Run folders: created once, written in one step, read back."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vae_lightning import runs


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: runs.create(tmp_path / "12-00-00", exclusive=True), range(8)))
    assert sorted(path.name for path in made) == ["12-00-00", *(f"12-00-00-{number}" for number in range(2, 9))]


def test_a_chosen_folder_is_taken_literally_and_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert runs.create(tmp_path / "empty", exclusive=False) == tmp_path / "empty"
    assert runs.create(tmp_path / "a" / "b", exclusive=False).is_dir()
    runs.set_status(tmp_path / "a" / "b", "finished")
    with pytest.raises(ValueError, match=r"hydra.run.dir=.*must be a new or an empty folder"):
        runs.create(tmp_path / "a" / "b", exclusive=False)


def test_a_table_has_the_columns_of_all_rows(tmp_path: Path) -> None:
    runs.write_csv(tmp_path / "t.csv", [{"a": 1}, {"a": 2, "b": "x,y"}])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b", "1,", '2,"x,y"']
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (runs.Interrupted(), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (OSError("full"), "failed"),
    ],
)
def test_status_says_how_a_run_ended(tmp_path: Path, error: BaseException | None, state: str) -> None:
    def body() -> None:
        with runs.recorded(tmp_path):
            assert json.loads((tmp_path / "status.json").read_text()) == {"state": "running"}
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            body()
    else:
        body()
    expected = {"state": state} | ({"reason": "OSError: full"} if state == "failed" else {})
    assert json.loads((tmp_path / "status.json").read_text()) == expected
    assert not logging.getLogger("vae_lightning").handlers
    assert ("Traceback" in (tmp_path / "train.log").read_text()) == (state == "failed")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume=.*must be a run folder"):
        runs.read_config(tmp_path, "resume")


@pytest.mark.parametrize("links", [True, False])
def test_a_shared_file_outlives_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def link(*_: Path) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr("os.link", link)
    last, best = tmp_path / "last", tmp_path / "best"
    for text in ("first", "second"):
        runs.replace(last, text)
        runs.share(last, best)
        runs.replace(last, "later")
        assert best.read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"last", "best"}
