"""The estimator of scikit-learn: its checks, closed forms, and what a fit leaves behind."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import check_estimator

from vae_lightning import VAE, VAEEstimator
from vae_lightning.checks.errors import ConfigError

TINY = ("model.hidden_dims=[8]",)
LINEAR = ("model=linear", "likelihood.mean_activation=identity")  # of the default likelihood


def rows(count: int = 200, features: int = 6) -> np.ndarray:
    """Rows near a plane, in units that are far from [0, 1]."""
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(count, 2)) @ generator.normal(size=(2, features))
    return 50 + 10 * (plane + 0.05 * generator.normal(size=(count, features)))


@pytest.fixture(scope="module")
def linear() -> VAEEstimator:
    arguments = {"learning_rate": 0.05, "batch_size": 20, "num_samples": 2000}
    found = VAEEstimator(max_epochs=40, overrides=LINEAR, random_state=0, **arguments)
    return found.fit(rows())


def test_it_passes_the_checks_of_scikit_learn() -> None:
    estimator = VAEEstimator(max_epochs=1, overrides=TINY, num_samples=5, random_state=0)
    found = check_estimator(estimator, on_skip=None)
    assert len(found) > 40
    others = {each["check_name"] for each in found if each["status"] != "passed"}
    assert others <= {"check_array_api_input"}  # which scikit-learn itself skips without a variable


def test_log_p_of_a_linear_model_has_its_closed_form_in_the_units_of_the_rows(
    linear: VAEEstimator,
) -> None:
    x = rows()[:20]
    offset, *ends = linear.inverse_transform([[0, 0], [1, 0], [0, 1]])
    factors = np.stack(ends) - offset  # (2, D)
    (moment,) = (value for name, value in linear.module_.named_buffers() if "moment" in name)
    noise = linear.data_range_ * float(moment) ** 0.5
    covariance = factors.T @ factors + np.eye(6) * noise**2
    expected = multivariate_normal(offset, covariance).logpdf(x)
    assert linear.score_samples(x) == pytest.approx(expected, abs=0.05)
    assert linear.score(x) == pytest.approx(linear.score_samples(x).mean())


def test_codes_are_those_of_the_encoder_and_decode_to_the_rows(linear: VAEEstimator) -> None:
    x = rows()
    scaled = torch.from_numpy((x - x.min()) / (x.max() - x.min())).view(-1, 1, 1, 6)
    with torch.no_grad():
        expected = linear.module_.encoder(scaled).mean.numpy()
    z = linear.transform(x)
    np.testing.assert_array_equal(z, expected)
    errors = linear.inverse_transform(z) - x
    assert errors.var() < 0.5 * x.var()
    assert list(linear.get_feature_names_out()) == ["vaeestimator0", "vaeestimator1"]


def test_rows_that_are_unlike_the_training_rows_score_lower(linear: VAEEstimator) -> None:
    far = rows()[:20] + 200 * np.eye(6)[0]
    assert linear.score_samples(far).max() < linear.score_samples(rows()).min()


def test_samples_are_like_the_rows_and_depend_on_the_random_state(linear: VAEEstimator) -> None:
    one, same, other = (linear.sample(500, random_state=seed) for seed in (1, 1, 2))
    assert one.shape == (500, 6)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one.mean(0), rows().mean(0), atol=5)


def test_a_clone_with_the_same_random_state_is_equal_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    estimator = VAEEstimator(max_epochs=2, overrides=TINY, random_state=3)
    torch.manual_seed(0)
    codes = estimator.fit_transform(rows())
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(codes, clone(estimator).fit(rows()).transform(rows()))
    other = clone(estimator).set_params(random_state=4).fit_transform(rows())
    assert not np.array_equal(codes, other)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_a_keyboard_interrupt_and_its_handler_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(VAE, "on_train_epoch_end", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        VAEEstimator(overrides=TINY).fit(rows())
    assert signal.getsignal(signal.SIGINT) is before


IMAGES = load_digits().data[:100]


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=conv", "model.widths=[2]"),
        ("likelihood=squared_error", "posterior=full_normal", *TINY),
        ("likelihood=discretized_logistic", "prior=mixture", *TINY),
        ("likelihood=bernoulli", "likelihood.gray=true", "objective=iwae", *TINY),
        ("likelihood=bernoulli", "data.binarization=dynamic", "scheduler=cosine", *TINY),
        ("likelihood.std=learned", *TINY),
        ("posterior=flow", "trainer.accumulate_grad_batches=2", *TINY),
    ],
    ids=" ".join,
)
def test_other_models_train_too(overrides: tuple[str, ...]) -> None:
    estimator = VAEEstimator(
        max_epochs=1, overrides=overrides, image_shape=(1, 8, 8), num_samples=3, random_state=0
    ).fit(IMAGES)
    assert estimator.transform(IMAGES).shape == (100, 2)
    assert estimator.inverse_transform(estimator.transform(IMAGES)).shape == (100, 64)
    if "data.binarization=dynamic" in overrides:
        with pytest.raises(ConfigError, match="X: must hold 0 and 16 only"):
            estimator.score_samples(IMAGES)
        scored = 16.0 * (IMAGES > 8)
    else:
        scored = IMAGES
    assert np.isfinite(estimator.score_samples(scored)).all()


def test_rows_of_two_values_have_probabilities() -> None:
    x = 3 + 4.0 * (IMAGES > 8)
    estimator = VAEEstimator(max_epochs=2, overrides=TINY, num_samples=20, random_state=0).fit(x)
    assert estimator.score_samples(x).max() < 0
    assert estimator.sample(5).min() >= 3
    with pytest.raises(ConfigError, match="X: must hold 3 and 7 only"):
        estimator.score_samples(IMAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "model.latent_dim=0: must be an integer >= 1"),
        ({"max_epochs": None}, "trainer.max_epochs=None: must be an integer >= 1"),
        ({"num_samples": 0}, "num_samples=0: must be an integer >= 1"),
        ({"image_shape": (1, 2, 2)}, "image_shape=.*must have 6 values"),
        ({"image_shape": (1, 6)}, "data.image_shape=.*must be"),
        ({"overrides": "model=conv"}, "must be a list of texts"),
        ({"overrides": ("model=cnv",)}, "did you mean model=conv"),
        ({"overrides": ("trainer.max_epochs=3",)}, "must not be given to VAEEstimator"),
        ({"overrides": ("logger=wandb",)}, "must not be given to VAEEstimator"),
        ({"overrides": ("seed=1",)}, "must not be given to VAEEstimator"),
        ({"overrides": ("data=mnist",)}, "must not be given to VAEEstimator"),
        ({"overrides": ("model.conditional=true",)}, "rows have no labels"),
        ({"overrides": ("likelihood=bernoulli",)}, "likelihood"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VAEEstimator(**arguments).fit(rows())
