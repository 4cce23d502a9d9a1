"""The options that belong to no class of this package, and those of sweeps.

Imports nothing heavy. ``options`` checks their values.
"""

from vae_lightning.checks.ranges import (
    SEEDS,
    AnyOf,
    Boolean,
    Choice,
    Integer,
    List,
    Number,
    OneOrMore,
    Option,
    Text,
)
from vae_lightning.checks.texts import Word
from vae_lightning.config.class_table import OPTIMIZERS, SCHEDULERS
from vae_lightning.config.compose import TRAINING_GROUPS
from vae_lightning.config.trainer_options import OWN_OPTIONS, TRAINER_OPTIONS

SECTIONS = (
    *TRAINING_GROUPS,
    "data",
    "accelerator",
    "trainer",
    "callbacks",
    "logger",
    "experiment",
    "seed",
    "resume",
    "init_from",
    "from_config",
    "trust",
)
NULL = Choice((None,))
SHARE = Number(above=0, below=1)
# options that belong to no class of this package
GENERAL_OPTIONS: dict[str, Option] = {
    "model.conditional": Option("whether encoder and decoder condition on the label", Boolean()),
    "optimizer.name": Option("class of torch.optim", Choice(OPTIMIZERS)),
    "optimizer.lr": Option("learning rate", Number(above=0)),
    "optimizer.betas": Option("decay of the moments of Adam", List(2, Number(least=0, below=1))),
    "optimizer.eps": Option("added to the denominator of Adam", Number(least=0)),
    "optimizer.weight_decay": Option("weight decay", Number(least=0)),
    "scheduler.name": Option("class of torch.optim.lr_scheduler", Choice(SCHEDULERS)),
    "scheduler.interval": Option(
        "what the scheduler counts after the warm-up", Choice(("step", "epoch"))
    ),
    "scheduler.warmup_steps": Option("optimizer steps of linear warm-up", Integer(0)),
    "scheduler.step_size": Option("epochs or steps with the same learning rate", Integer(1)),
    "scheduler.gamma": Option("factor of the learning rate", Number(above=0)),
    "scheduler.factor": Option("factor of the learning rate", Number(above=0, most=1)),
    "scheduler.patience": Option("validations without improvement that are accepted", Integer(0)),
    "scheduler.pct_start": Option(
        "fraction of the steps in which the learning rate rises", Number(least=0, most=1)
    ),
    "scheduler.div_factor": Option("optimizer.lr / first learning rate", Number(above=0)),
    "scheduler.final_div_factor": Option("first learning rate / last one", Number(above=0)),
    "scheduler.cycle_momentum": Option(
        "whether the momentum falls while the learning rate rises", Boolean()
    ),
    "data.name": Option(
        "name of the data set in results; null: that of the class, the folder or the file",
        AnyOf((Text("a name"), NULL)),
    ),
    "data.image_shape": Option(
        "channels, height, width; null: those of the images", AnyOf((List(3, Integer(1)), NULL))
    ),
    "data.classes": Option(
        "number of labels; null: as many as there are", AnyOf((Integer(1), NULL))
    ),
    "data.root": Option("folder or file of the images", Text("a path")),
    "data.val_size": Option(
        "images held out for validation, independent of the seed; 0: none; null: a tenth, unless"
        " the data set has validation images",
        AnyOf((Integer(0), SHARE, NULL)),
    ),
    "data.test_size": Option(
        "images held out for the test; null: a tenth, unless the data set has test images",
        AnyOf((Integer(1), SHARE, NULL)),
    ),
    "data.in_memory": Option(
        "true: all images are in memory; false: in a file that is mapped into memory; null: in"
        " memory up to 1 GiB",
        AnyOf((Boolean(), NULL)),
    ),
    "data.fallback": Option(
        "data set that is used if no files can be found or downloaded", Choice(("digits", None))
    ),
    "data.sha256": Option(
        "fingerprint that the images must have; a run records that of its images",
        AnyOf((Text("a SHA-256"), NULL)),
    ),
    **{f"trainer.{key}": option for key, option in (TRAINER_OPTIONS | OWN_OPTIONS).items()},
    "accelerator.accelerator": Option(
        "kind of device", Choice(("auto", "cpu", "gpu", "cuda", "mps"))
    ),
    "accelerator.num_nodes": Option("machines of accelerator=multi_node", Integer(1)),
    "seed": Option(
        "seed of all random numbers; null draws one and records it",
        AnyOf((SEEDS, NULL)),
    ),
    "init_from": Option(
        "run folder, or .safetensors file, from whose weights the run starts",
        AnyOf((Text("a path"), NULL)),
    ),
    "from_config": Option(
        "run folder whose configuration the run uses; options that are typed replace those in it",
        AnyOf((Text("a path"), NULL)),
    ),
    "trust": Option("whether a stored configuration may name classes of other packages", Boolean()),
}
SEARCHES = ("random", "tpe", "gp", "qmc")  # the choices of the group search other than grid
# options of how the jobs of a sweep are chosen; launcher_options has those of how they are run
SWEEP_OPTIONS: dict[str, Option] = {
    "search.kind": Option("how the points are chosen", Choice(("grid", *SEARCHES))),
    "sweep.on_error": Option(
        "after a failed job, continue with the others or stop them", Choice(("continue", "stop"))
    ),
}
# terms that every run logs after each epoch; the test images must not decide about an option
METRICS = tuple(
    f"{split}/{term}" for split in ("val", "train") for term in ("neg_elbo", "recon", "kl", "loss")
)
# options of a search; a grid has none of them
SEARCH_OPTIONS: dict[str, Option] = {
    "search.trials": Option("points that are drawn in all", Integer(1)),
    "search.metric": Option(
        "the term that is minimized; a list of several asks for a Pareto front",
        OneOrMore(Choice(METRICS)),
    ),
    "search.pruner": Option(
        "ends jobs that are worse than others after the same number of epochs",
        Choice(("none", "median", "hyperband")),
    ),
    "search.seed": Option("seed of the draws", SEEDS),
    "search.storage": Option(
        "URL of a database for the study; null: study.log in the sweep folder",
        AnyOf((Text("a URL"), Choice((None,)))),
    ),
    "search.study": Option(
        "name by which several drivers share the study in the database; null: it belongs to this"
        " sweep",
        AnyOf((Word("a word such as digits"), Choice((None,)))),
    ),
}
SWEEP_SECTIONS = ("launcher", "search", "sweep")
