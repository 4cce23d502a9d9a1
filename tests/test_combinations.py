"""Every combination of components trains all parameters or is refused by name."""

import itertools

import pytest

from helpers import loss_of, tiny, tiny_model
from vae_lightning.config.compose import choices
from vae_lightning.config.options import check_keys

# choices that must not come together -> the option that the refusal begins with
REFUSED = {
    ("objective=tc", "posterior=flow"): "objective=tc",
    ("objective=tc", "posterior=hierarchical"): "objective=tc",
    ("objective=dip", "posterior=flow"): "objective=dip",
    ("objective=dip", "posterior=hierarchical"): "objective=dip",
    ("prior=vamp", "posterior=flow"): "prior=vamp",
    ("prior=vamp", "posterior=hierarchical"): "prior=vamp",
    ("prior=vamp", "model.conditional=true"): "prior=vamp",
    ("objective=free_bits", "posterior=full_normal"): "objective=free_bits",
    ("objective=free_bits", "posterior=flow"): "objective=free_bits",
    ("objective=free_bits", "posterior=hierarchical"): "objective=free_bits",
    ("objective=free_bits", "prior=hierarchical"): "objective=free_bits",
    ("objective=free_bits", "prior=mixture"): "objective=free_bits",
    ("objective=free_bits", "prior=vamp"): "objective=free_bits",
    ("objective=free_bits", "prior=flow"): "objective=free_bits",
}
PAIRS = list(itertools.product(choices("posterior"), choices("prior")))
GRADIENTS = ["objective.gradient=standard", "objective.gradient=stl", "objective.gradient=dreg"]


def objectives() -> list[object]:
    """Every objective, iwae with each of its gradients; those other than elbo are slow together."""
    each = [(f"objective={name}",) for name in choices("objective") if name != "iwae"]
    each += [("objective=iwae", gradient) for gradient in GRADIENTS]
    return [
        pytest.param(
            choice, marks=() if choice == ("objective=elbo",) else pytest.mark.slow, id=choice[-1]
        )
        for choice in each
    ]


def check(*choices: str) -> None:
    """Trains one step, or finds the refusal that REFUSED has."""
    allowed = [option for pair, option in REFUSED.items() if set(pair) <= set(choices)]
    cfg = tiny(*choices)
    check_keys(cfg)
    if allowed:
        with pytest.raises(ValueError, match="requires") as error:
            tiny_model(cfg)
        assert str(error.value).startswith(tuple(f"{option}: " for option in allowed)), choices
        return
    model, x, condition = tiny_model(cfg)
    loss = loss_of(model.train(), x, condition, step=1)
    loss.backward()
    assert loss.isfinite(), choices
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, (choices, name)
        assert parameter.grad.isfinite().all(), (choices, name)
        assert parameter.grad.abs().sum() > 0, (choices, name)


@pytest.mark.parametrize("objective", objectives())
@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_combination_trains_every_parameter_or_is_refused(
    posterior: str, prior: str, objective: tuple[str, ...]
) -> None:
    # the objectives see a likelihood only through recon
    every = objective == ("objective=elbo",)
    for likelihood in choices("likelihood") if every else ("squared_error", "gaussian"):
        check(f"likelihood={likelihood}", f"posterior={posterior}", f"prior={prior}", *objective)


@pytest.mark.parametrize(("posterior", "prior"), PAIRS)
def test_every_combination_of_a_conditional_model(posterior: str, prior: str) -> None:
    for likelihood in choices("likelihood"):
        check(
            "model.conditional=true",
            f"likelihood={likelihood}",
            f"posterior={posterior}",
            f"prior={prior}",
        )


@pytest.mark.parametrize("conditional", ["model.conditional=false", "model.conditional=true"])
@pytest.mark.parametrize("model", choices("model"))
def test_every_model_with_every_number_of_outputs(model: str, conditional: str) -> None:
    for posterior, pixels in itertools.product(choices("posterior"), ("learned", "per_pixel")):
        likelihood = ("likelihood=gaussian", f"likelihood.std={pixels}")
        check(f"model={model}", conditional, f"posterior={posterior}", *likelihood)


@pytest.mark.parametrize(
    ("objective", "annealing"), list(itertools.product(choices("objective"), choices("annealing")))
)
def test_every_objective_anneals_or_says_that_it_has_nothing_to_anneal(
    objective: str, annealing: str
) -> None:
    cfg = tiny(f"objective={objective}", f"annealing={annealing}")
    if objective == "geco" and annealing != "constant":
        with pytest.raises(ValueError, match=r"^annealing: must be constant"):
            check_keys(cfg)
        return
    check(f"objective={objective}", f"annealing={annealing}")
