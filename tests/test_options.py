"""Every key of every option has an effect: another value changes the losses of the first steps."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from omegaconf import OmegaConf

from helpers import loss_of, option, tiny, tiny_model
from vae_lightning.config.compose import choices
from vae_lightning.config.instantiate import instantiate
from vae_lightning.rng import generator

GROUPS = ("model", "likelihood", "posterior", "prior", "objective", "annealing")
# (group, option or * for all, key) -> (other values, the overrides under which they matter)
OTHER: dict[tuple[str, str, str], tuple[tuple[object, ...], tuple[str, ...]]] = {
    ("model", "*", "latent_dim"): ((3,), ()),
    ("model", "*", "conditional"): ((True,), ()),
    ("model", "*", "hidden_dims"): (([9],), ()),
    ("model", "*", "activation"): (("tanh", "relu"), ()),
    ("model", "*", "widths"): (([2, 4],), ()),
    ("model", "resnet", "blocks"): ((2,), ()),
    ("likelihood", "*", "mean_activation"): (("identity",), ()),
    ("likelihood", "discretized_logistic", "mean_activation"): (("sigmoid",), ()),
    ("likelihood", "gaussian", "std"): (("optimal", "per_pixel", 0.5), ()),
    ("likelihood", "laplace", "scale"): (("optimal", "per_pixel", 0.5), ()),
    ("likelihood", "discretized_logistic", "scale"): ((0.5, "per_pixel"), ()),
    ("likelihood", "bernoulli", "data_bias"): ((True,), ()),
    ("likelihood", "continuous_bernoulli", "clip"): ((0.1,), ()),
    ("posterior", "diagonal_normal", "shared_std"): ((True,), ()),
    ("posterior", "diagonal_normal", "log_variance"): (([-0.1, 0.1],), ()),
    ("posterior", "flow", "transforms"): ((3,), ()),
    ("posterior", "flow", "hidden_dims"): (([9],), ()),
    ("posterior", "flow", "context"): ((4,), ()),
    ("posterior", "hierarchical", "upper_dims"): (([1, 1],), ("model.latent_dim=3",)),
    ("posterior", "hierarchical", "hidden_dims"): (([9],), ()),
    ("posterior", "hierarchical", "context"): ((4,), ()),
    ("prior", "hierarchical", "upper_dims"): (([1, 1],), ("model.latent_dim=3",)),
    ("prior", "hierarchical", "hidden_dims"): (([9],), ()),
    ("prior", "mixture", "components"): ((4,), ()),
    ("prior", "vamp", "pseudo_inputs"): ((5,), ()),
    ("prior", "flow", "transforms"): ((2,), ()),
    ("prior", "flow", "hidden_dims"): (([9],), ()),
    ("objective", "*", "num_samples"): ((3,), ()),
    ("objective", "*", "beta"): ((2.5,), ()),
    ("objective", "capacity", "capacity"): ((3.0,), ()),
    ("objective", "capacity", "gamma"): ((3.0,), ()),
    ("objective", "free_bits", "free_bits"): ((1.5,), ()),
    ("objective", "geco", "target"): ((5.0,), ()),
    ("objective", "geco", "rate"): ((0.1,), ()),
    ("objective", "geco", "smoothing"): ((0.5,), ()),
    ("objective", "iwae", "gradient"): (("dreg", "stl"), ()),
    ("objective", "mmd", "weight"): ((3.0,), ()),
    ("objective", "dip", "kind"): (("I",), ()),
    ("objective", "dip", "off_diagonal"): ((3.0,), ()),
    ("objective", "dip", "diagonal"): ((3.0,), ()),
    ("objective", "factor", "gamma"): ((3.0,), ()),
    ("objective", "factor", "hidden_dims"): (([9],), ()),
    ("annealing", "*", "steps"): ((5,), ()),
    ("annealing", "cyclical", "cycles"): ((1,), ("annealing.steps=2",)),
}
# keys whose other value requires other data and changes no number; see test_likelihoods.py
ELSEWHERE = {
    (
        "likelihood",
        "bernoulli",
        "gray",
    ): "test_pixels_outside_the_support_are_refused_with_the_option_that_fits"
}


def values(node: dict[str, object], prefix: str = "") -> Iterator[str]:
    """The dotted keys of the values that are not taken from another part of the configuration."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{key}.")
        elif not key.startswith("_") and not (isinstance(value, str) and "${" in value):
            yield prefix + key


KEYS = [
    (group, name, key)
    for group in GROUPS
    for name in choices(group)
    for key in values(OmegaConf.to_container(option(group, name), resolve=False))
]


def trained(*overrides: str) -> list[float]:
    """The losses of steps 1 to 4; the initial weights depend only on their names and shapes."""
    model, x, condition = tiny_model(tiny(*overrides))
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.05)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("prior.logits"):  # pseudo-inputs are images
                parameter.copy_(
                    0.5 * torch.randn(parameter.shape, generator=generator("cpu", 0, name))
                )
    losses = []
    for step in range(1, 5):
        loss = loss_of(model, x, condition, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("group", "name", "key"), [key for key in KEYS if key not in ELSEWHERE])
def test_every_key_has_an_effect(group: str, name: str, key: str) -> None:
    others, where = OTHER[(group, name, key) if (group, name, key) in OTHER else (group, "*", key)]
    base = (f"{group}={name}", *where)
    found = [trained(*base), *(trained(*base, f"{group}.{key}={value}") for value in others)]
    assert trained(*base) == found[0]
    assert all(abs(loss) < 1e6 for losses in found for loss in losses)
    for one, other in itertools.combinations(found, 2):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-4


def test_every_entry_of_the_table_is_about_a_key_that_exists() -> None:
    for group, name, key in [*OTHER, *ELSEWHERE]:
        assert any(
            (group, key) == (found[0], found[2]) and name in ("*", found[1]) for found in KEYS
        ), (
            group,
            name,
            key,
        )


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_is_another_model(group: str) -> None:
    """No two files of a group are the same thing under two names."""
    extra = ("likelihood.gray=true",) if group == "likelihood" else ()
    seen: dict[str, list[float]] = {}
    for name in choices(group):
        own = extra if name == "bernoulli" else ()
        seen[name] = trained(f"{group}={name}", *own)
    for (one, first), (other, second) in itertools.combinations(seen.items(), 2):
        assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 1e-4, (one, other)


def test_the_annealing_of_the_configuration_is_the_objectives() -> None:
    cfg = tiny("annealing=linear", "annealing.steps=8", "objective.beta=3")
    objective = instantiate(
        OmegaConf.to_container(cfg, resolve=True)["objective"], "objective", trust=False
    )
    assert objective.beta_at(4) == 1.5
