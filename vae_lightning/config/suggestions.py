"""Which key or choice is meant by a word that does not exist. Imports nothing heavy."""

import difflib
from collections.abc import Iterable, Sequence

from vae_lightning.config.dotted import last_part

# names from other programs, squeezed -> the keys that may be meant; the first that exists counts
SYNONYMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("epoch", "epochs", "numepochs", "nepochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("steps", "iterations", "numsteps"), ("trainer.max_steps",)),
    **dict.fromkeys(("lr", "learningrate"), ("optimizer.lr",)),
    **dict.fromkeys(("optim", "opt"), ("optimizer",)),
    **dict.fromkeys(("batch", "batches", "bs"), ("data.batch_size",)),
    **dict.fromkeys(("datadir", "dataroot", "datapath"), ("data.root",)),
    **dict.fromkeys(("dataset", "datasets"), ("data", "against")),
    **dict.fromkeys(
        ("latent", "latents", "latentsize", "zdim", "zsize", "nz", "codesize"),
        ("model.latent_dim",),
    ),
    **dict.fromkeys(("hidden", "hiddendim", "hiddensize", "layers"), ("model.hidden_dims",)),
    **dict.fromkeys(("klweight", "kldweight"), ("objective.beta",)),
    **dict.fromkeys(("clip", "gradclip", "gradientclip"), ("trainer.gradient_clip_val",)),
    **dict.fromkeys(("device",), ("accelerator",)),
    **dict.fromkeys(("numthreads", "cores"), ("trainer.threads",)),
    **dict.fromkeys(("randomseed", "manualseed"), ("seed",)),
    **dict.fromkeys(("model", "folder", "dir", "path", "rundir"), ("run", "hydra.run.dir")),
    **dict.fromkeys(("ckpt", "ckptpath", "checkpoint"), ("run", "resume")),
    **dict.fromkeys(("numsamples", "nsamples", "num", "n"), ("samples", "count")),
    **dict.fromkeys(("out", "outdir", "outputdir", "file"), ("output", "hydra.run.dir")),
}
# names, squeezed -> what is meant where a single key would not say it
ADVICE: dict[str, str] = {
    **dict.fromkeys(
        ("gpu", "gpus", "numgpus", "ngpus"),
        "accelerator=gpu uses one GPU, and accelerator=ddp trainer.devices=N uses N of them",
    ),
    **dict.fromkeys(
        ("workers", "numworkers", "nworkers"),
        "no processes load images; trainer.threads sets the CPU threads",
    ),
}


def squeezed(name: str) -> str:
    """A name without what people write in different ways: case, dashes and underscores."""
    return name.lower().replace("-", "").replace("_", "")


def advice(key: str) -> str | None:
    """What to do instead of setting a key that has no counterpart."""
    return ADVICE.get(squeezed(last_part(key)))


def same_key(key: str, valid: Sequence[str]) -> str | None:
    """The valid key that another name stands for, or the first one whose last part is the same."""
    last = squeezed(last_part(key))
    named = [each for each in SYNONYMS.get(last, ()) if each in valid]
    same = [each for each in valid if squeezed(last_part(each)) == last and each != key]
    return next(iter(named + same), None)


def close_key(key: str, valid: Sequence[str]) -> str | None:
    """The valid key that is spelled most like this one, as a whole or in its last part."""
    others = [each for each in valid if each != key and not each.startswith("hydra.")]
    by_last_part: dict[str, str] = {}
    for each in others:
        by_last_part.setdefault(last_part(each), each)
    whole = difflib.get_close_matches(key, others, n=1)
    last = difflib.get_close_matches(last_part(key), by_last_part, n=1)
    found = [*whole, *(by_last_part[each] for each in last)]
    return next(iter(found if "." in key else reversed(found)), None)


def close_choice(choice: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelled most like this one; case, dashes and underscores do not count."""
    names = {squeezed(name): name for name in choices}
    close = difflib.get_close_matches(squeezed(choice), names, n=1)
    return names[close[0]] if close else None
