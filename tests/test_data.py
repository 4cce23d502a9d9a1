"""Splits, batches, binarization, and files that are missing, damaged or downloaded."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST

from benchmarks.fork_server import Done, ForkServer
from helpers import Command
from vae_lightning.checks.errors import ConfigError
from vae_lightning.data import fingerprint
from vae_lightning.data.batches import Batches
from vae_lightning.data.images import ImageData
from vae_lightning.data.sources import idx
from vae_lightning.data.sources.digits import Digits
from vae_lightning.data.sources.idx import ensure_files
from vae_lightning.data.sources.read import Division, read
from vae_lightning.data.sources.torchvision import TorchvisionImages
from vae_lightning.data.splits import binarize, stratified_order
from vae_lightning.networks import UNCONDITIONAL, Condition


def image_data(
    root: Path,
    dataset: Callable[..., object] = MNIST,
    val_size: float | None = 100,
    **changes: object,
) -> ImageData:
    found = read(
        TorchvisionImages(dataset, root), "mnist", (1, 28, 28), Division(val_size, None, True)
    )
    options = {"batch_size": 64, "binarization": "none", "seed": 0} | changes
    return ImageData("mnist", found.parts, fingerprints=found.fingerprints, **options)


def batches(
    count: int, batch_size: int, rank: int, processes: int, done: int = 0, **others: object
) -> Batches:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    return Batches(
        images,
        batch_size,
        rank,
        processes,
        lambda epoch: torch.arange(count).flip(0) if epoch else torch.arange(count),
        lambda x, *_: x,
        lambda: (1, done),
        **others,
    )


def test_splits_are_disjoint_fixed_and_stratified(tiny_root: Path) -> None:
    first, second = image_data(tiny_root), image_data(tiny_root, seed=5)
    assert torch.equal(first.images["val"], second.images["val"])
    assert (len(first.images["train"]), len(first.images["val"]), len(first.images["test"])) == (
        500,
        100,
        130,
    )
    together = torch.cat([first.images["train"], first.images["val"]]).flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(
        map(tuple, MNIST(tiny_root).data.flatten(1).tolist())
    )
    assert first.labels["val"].bincount().tolist() == [10] * 10
    assert torch.equal(
        image_data(tiny_root, val_size=0).images["train"][:, 0], MNIST(tiny_root).data
    )


def test_mnist_has_its_official_sizes(mnist_root: Path) -> None:
    data = image_data(mnist_root, val_size=5000)
    assert {split: data.images_in(split) for split in data.images} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert torch.equal(data.images["test"][:, 0], MNIST(mnist_root, train=False).data)
    total = sum(int(data.images[split].long().sum()) for split in ("train", "val"))
    assert total / 255 / 784 / 60_000 == pytest.approx(0.130660, abs=5e-7)


def test_stratified_order_is_a_permutation_whose_prefixes_have_every_label() -> None:
    labels = torch.tensor([0] * 70 + [1] * 30)
    order = stratified_order(labels)
    assert sorted(order.tolist()) == list(range(100))
    for size in (10, 20, 50):
        assert abs(int((labels[order[:size]] == 1).sum()) - 0.3 * size) <= 1


def test_digits_are_the_1797_scans() -> None:
    parts = Digits("", train=True), Digits("", train=False)
    assert [len(part) for part in parts] == [1618, 179]
    assert parts[0].data.dtype == torch.uint8
    assert parts[0].data.shape[1:] == (28, 28)
    assert int(parts[0].data.max()) == 255
    assert min(parts[1].targets.bincount().tolist()) >= 17
    seen = {tuple(image.flatten().tolist()) for image in parts[0].data}
    assert not any(tuple(image.flatten().tolist()) in seen for image in parts[1].data)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_image_comes_once_whatever_the_processes(processes: int, batch_size: int) -> None:
    seen = [
        batch.index
        for rank in range(processes)
        for batch in batches(101, batch_size, rank, processes)
    ]
    assert sorted(torch.cat(seen).tolist()) == list(range(101))


def test_batches_hold_the_images_and_their_share_and_go_on_within_an_epoch() -> None:
    whole = list(batches(10, 4, 0, 2))
    assert [batch.index.tolist() for batch in whole] == [[9, 7], [5, 3], [1]]
    assert [batch.share for batch in whole] == [2, 2, 1]
    assert torch.equal(whole[0].x.flatten(), torch.tensor([9, 7]) / 255)
    assert [batch.index.tolist() for batch in batches(10, 4, 0, 2, done=1)] == [[5, 3], [1]]
    assert [batch.index.tolist() for batch in batches(10, 4, 0, 2, done=3)] == [[9, 7], [5, 3], [1]]


def test_a_conditional_models_batches_carry_the_labels_of_their_images(tiny_root: Path) -> None:
    labels = torch.arange(10) * 11
    chunks = [batches(10, 4, rank, 2, condition=Condition(labels)) for rank in range(2)]
    for batch in (batch for chunk in chunks for batch in chunk):
        assert torch.equal(batch.condition.label, 11 * batch.index)
    data = image_data(tiny_root, conditional=True)
    assert all(
        torch.equal(data.condition(split).label, data.labels[split])
        for split in ("train", "val", "test")
    )
    assert image_data(tiny_root).condition("train") is UNCONDITIONAL
    # the row of the bar, 3 + 2.4 label
    brightest = data.images["train"].float().mean(-1)[:, 0].argmax(-1)
    assert ((brightest - 3 - 2.4 * data.labels["train"]).abs() < 1).all()


def test_binarization(tiny_root: Path) -> None:
    gray, threshold, fixed, dynamic = (
        image_data(tiny_root, binarization=kind).images
        for kind in ("none", "threshold", "fixed", "dynamic")
    )
    assert torch.equal(threshold["train"], (gray["train"] / 255 > 0.5).to(torch.uint8) * 255)
    assert set(fixed["train"].unique().tolist()) == {0, 255}
    assert torch.equal(fixed["test"], dynamic["test"])
    assert torch.equal(gray["train"], dynamic["train"])
    # evaluation compares binarized training images with binarized test images
    both = (image_data(tiny_root, binarization=kind) for kind in ("fixed", "dynamic"))
    one, other = (data.evaluation_images("train") for data in both)
    assert torch.equal(one, other)
    probabilities = gray["test"].double() / 255
    draws = torch.stack([binarize(gray["test"], number).double() / 255 for number in range(50)])
    error = (draws.mean() - probabilities.mean()).abs()
    assert error < 5 * (probabilities * (1 - probabilities)).mean().sqrt() / draws.numel() ** 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_size": 600}, r"data.val_size=600: must be 0 to 599 for mnist"),
        ({"val_size": 0.9999}, r"data.val_size=0.9999: must be 0 to 599 for mnist"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    tiny_root: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        image_data(tiny_root, **changes)


def test_damaged_files_are_refused(tmp_path: Path, tiny_root: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (tiny_root / "MNIST" / "raw").iterdir():
        content = file.read_bytes()
        (raw / file.name).write_bytes(
            content[: len(content) // 2] if "train-images" in file.name else content
        )
    with pytest.raises(ValueError, match=r"data.root=.*damaged"):
        image_data(tmp_path)


@pytest.fixture(scope="module")
def published(mnist_root: Path) -> dict[str, Tensor]:
    """The images and labels of MNIST by the names of their files."""
    train, test = (MNIST(mnist_root, train=is_train) for is_train in (True, False))
    return {
        fingerprint.TRAIN_IMAGES: train.data,
        fingerprint.TRAIN_LABELS: train.targets,
        fingerprint.TEST_IMAGES: test.data,
        fingerprint.TEST_LABELS: test.targets,
    }


def fingerprints(content: dict[str, Tensor]) -> dict[str, fingerprint.Part]:
    return {file: fingerprint.of(values) for file, values in content.items()}


def flipped(values: Tensor, position: int) -> Tensor:
    changed = values.clone()
    changed.view(-1)[position] ^= 1
    return changed


def test_published_files_are_recognized(published: dict[str, Tensor], mnist_root: Path) -> None:
    parts = fingerprints(published)
    fingerprint.check_parts("mnist", "data", parts, None)
    assert fingerprint.is_published("mnist", parts)
    fashion = {
        file: fingerprint.of(values)
        for is_train, images, labels in (
            (True, fingerprint.TRAIN_IMAGES, fingerprint.TRAIN_LABELS),
            (False, fingerprint.TEST_IMAGES, fingerprint.TEST_LABELS),
        )
        for file, values in (
            (images, FashionMNIST(mnist_root, train=is_train).data),
            (labels, FashionMNIST(mnist_root, train=is_train).targets),
        )
    }
    assert fingerprint.is_published("fashion_mnist", fashion)
    with pytest.raises(ConfigError, match=f"{fingerprint.TRAIN_IMAGES} is damaged"):
        fingerprint.check_parts("mnist", "data", fashion, None)


@pytest.mark.attack("damaged or exchanged image files")
@pytest.mark.parametrize("file", fingerprint.PUBLISHED["mnist"])
@pytest.mark.parametrize("position", [0, 4321, -1])
def test_one_flipped_bit_is_found_and_its_file_is_named(
    published: dict[str, Tensor], file: str, position: int
) -> None:
    damaged = published | {file: flipped(published[file], position)}
    with pytest.raises(ConfigError, match=rf"data.root=data: {file} is damaged"):
        fingerprint.check_parts("mnist", "data", fingerprints(damaged), None)


@pytest.mark.attack("damaged or exchanged image files", 5)
def test_wrong_labels_inverted_images_and_swapped_files_are_found(
    published: dict[str, Tensor],
) -> None:
    images, labels = published[fingerprint.TEST_IMAGES], published[fingerprint.TEST_LABELS]
    for file, values in (
        (fingerprint.TEST_LABELS, torch.full_like(labels, 3)),
        (fingerprint.TEST_IMAGES, 255 - images),
        (fingerprint.TEST_IMAGES, images.flip(0)),
        (fingerprint.TRAIN_IMAGES, images),
        (fingerprint.TRAIN_LABELS, labels),
    ):
        with pytest.raises(ConfigError, match=f"{file} is damaged"):
            fingerprint.check_parts("mnist", "d", fingerprints(published | {file: values}), None)


def test_a_selection_of_images_is_not_called_published(published: dict[str, Tensor]) -> None:
    parts = fingerprints({file: values[:500] for file, values in published.items()})
    fingerprint.check_parts("mnist", "data", parts, None)
    assert not fingerprint.is_published("mnist", parts)


def test_a_run_accepts_only_the_images_it_has_recorded(tiny_root: Path) -> None:
    data = image_data(tiny_root)
    fingerprint.check_parts("mnist", "data", data.parts, data.sha256)
    with pytest.raises(ConfigError, match="must hold the images that the run was trained on"):
        fingerprint.check_parts("mnist", "data", data.parts, "0" * 64)


def test_a_moved_run_finds_its_images_by_their_fingerprint(
    train: Command, server: ForkServer, tiny_root: Path, mnist_root: Path, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(tiny_root, before)
    sizes = ("data.val_size=0", "model.hidden_dims=[4]", "trainer.max_epochs=1")
    done = train(*sizes, "hydra.run.dir=run", cwd=tmp_path, data=before)
    assert done.returncode == 0, done.stderr
    assert "not the published files" in done.stdout
    before.rename(after)

    def run(command: str, *words: str, data: Path | None = None) -> Done:
        variables = {"VAE_LIGHTNING_DATA": None if data is None else str(data)}
        return server.run(command, *words, cwd=tmp_path, variables=variables)

    pictures = ("run=run", "kind=reconstructions")
    for words, data in (((), after), ((f"data.root={after}",), None)):
        done = run("pictures", *pictures, *words, data=data)
        assert done.returncode == 0, done.stderr
    done = run("train", "resume=run", "trainer.max_epochs=2", f"data.root={after}")
    assert done.returncode == 0, done.stderr
    done = run("pictures", *pictures, f"data.root={mnist_root}")
    assert done.returncode == 2
    assert "must hold the images that the run was trained on" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A local HTTP server over a folder: its address, the folder, and the paths asked for."""
    folder, asked = tmp_path / "mirror", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder, asked
        server.shutdown()


def archives(folder: Path) -> list[tuple[str, str]]:
    """Two gzip files in the folder, as torchvision's classes list theirs."""
    resources = []
    for name in ("images.gz", "labels.gz"):
        (folder / name).write_bytes(gzip.compress(name.encode() * 1000, mtime=0))
        resources.append((name, hashlib.md5((folder / name).read_bytes()).hexdigest()))
    return resources


def test_a_download_skips_bad_mirrors_and_fetches_once(
    mirror: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    address, folder, asked = mirror
    kind = type(
        "Kind",
        (),
        {"mirrors": [address + "missing/", address + "wrong/"], "resources": archives(folder)},
    )
    (folder / "wrong").mkdir()
    for name, _ in kind.resources:
        (folder / "wrong" / name).write_bytes(b"not the file")
    with ThreadPoolExecutor(4) as pool:  # four at a time, as in parallel jobs
        list(pool.map(lambda _: ensure_files(kind, tmp_path / "data", [address]), range(4)))
    raw = tmp_path / "data" / "Kind" / "raw"
    assert (raw / "images").read_bytes() == b"images.gz" * 1000
    assert sorted(path.name for path in raw.iterdir()) == [".lock", "images", "labels"]
    assert sorted(path for path in asked if path.count("/") == 1) == ["/images.gz", "/labels.gz"]
    asked.clear()
    ensure_files(kind, tmp_path / "data")
    assert asked == []


def test_a_download_that_no_mirror_provides_leaves_no_file(
    mirror: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    address, folder, _ = mirror
    kind = type(
        "Kind", (), {"mirrors": [address], "resources": [(archives(folder)[0][0], "0" * 32)]}
    )
    with pytest.raises(OSError, match="wrong checksum"):
        ensure_files(kind, tmp_path / "data")
    assert not (tmp_path / "data").exists()


class BadHandler(http.server.BaseHTTPRequestHandler):
    """Answers /KIND/FILE in a way in which a mirror may fail."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        self.send_response(200)
        if kind == "truncated":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for _ in range(1 if kind == "truncated" else 1000):
                self.wfile.write(bytes(100))
                time.sleep(0.05 if kind == "slow" else 0)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.attack("bad mirror")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("endless", "has more than 20,000 bytes"),
        ("slow", "takes more than 0.5 seconds"),
        ("truncated", "wrong checksum"),
    ],
)
def test_a_bad_mirror_is_given_up_and_the_next_one_is_used(
    mirror: tuple[str, Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    reason: str,
) -> None:
    monkeypatch.setattr(idx, "MAX_BYTES", 20_000)
    monkeypatch.setattr(idx, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(idx, "CHUNK_BYTES", 200)
    good, folder, _ = mirror
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BadHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        bad = f"http://127.0.0.1:{server.server_port}/{kind}/"
        dataset = type("Kind", (), {"mirrors": [bad, "no address"], "resources": archives(folder)})
        with pytest.raises(OSError, match=reason):
            ensure_files(dataset, tmp_path / "none")
        ensure_files(dataset, tmp_path / "data", [good])
        server.shutdown()
    assert (tmp_path / "data" / "Kind" / "raw" / "images").read_bytes() == b"images.gz" * 1000
