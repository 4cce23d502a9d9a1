"""What each number in the files of a run means: ``--help`` and docs/reference/metrics.md show it.

A test compares the names with those that a run and its evaluation write.
"""

from typing import NamedTuple

NATS = "nats per image"
LOWER, HIGHER = "lower", "higher"


class Metric(NamedTuple):
    """The meaning of a number."""

    text: str
    unit: str = ""
    better: str = ""  # lower or higher, where one of them is better


# SPLIT is train, val or test
TERMS = {
    "SPLIT/recon": Metric("-log p(x|z) without log_normalizer", NATS, LOWER),
    "SPLIT/kl": Metric("KL(q(z|x) || p(z)), not weighted by beta; >= 0 in closed form", NATS),
    "SPLIT/kl_1, SPLIT/kl_2, ...": Metric("the part of each layer of model=hierarchical", NATS),
    "SPLIT/neg_elbo": Metric("recon + kl: the negative ELBO, for every beta", NATS, LOWER),
    "SPLIT/loss": Metric("what is optimized; recon + beta kl by default", NATS, LOWER),
    "val/neg_iwae, test/neg_iwae": Metric(
        "-1 times the importance-weighted bound at beta = 1, of objective=iwae", NATS, LOWER
    ),
    "train/recon_step, train/kl_step, train/loss_step": Metric(
        "the same terms of the steps that trainer.log_every_n_steps selects; TensorBoard only", NATS
    ),
    "train/beta": Metric(
        "weight of kl at the end of the epoch; for objective=tc: of the total correlation"
    ),
    "train/gamma": Metric(
        "in place of train/beta: weight of the distance for objective=capacity, of the total"
        " correlation for objective=factor"
    ),
    "train/capacity": Metric("for objective=capacity: the capacity at the end of the epoch", NATS),
    "train/lambda": Metric("in place of train/beta for objective=geco: weight of recon"),
    "train/skipped_steps": Metric("steps that trainer.skip_gradient_above has skipped so far"),
    "latents/active_units": Metric("latent dimensions with Var(E[z|x]) > 0.01 on test images"),
    "optimizer/lr": Metric("learning rate; loggers only"),
}
# the columns of metrics.csv that are no terms
COLUMNS = {
    "epoch": Metric("number of epochs; a fraction for a validation within an epoch"),
    "step": Metric("number of optimizer steps"),
    "seconds": Metric("time of the epoch with its validation and pictures", "s", LOWER),
    "images_per_second": Metric("training images per second, without validation", "1/s", HIGHER),
}
FINAL = {
    "data": Metric("name of the data set"),
    "likelihood": Metric("the likelihood in words"),
    "log_normalizer": Metric("the constant that recon omits", NATS),
    "kl_estimate": Metric(
        "how kl is computed: in closed form, or from samples, and then from how many; of several"
        " stochastic layers, each has a closed form given samples of the layers above"
    ),
    "checkpoint": Metric("the weights: best or last"),
    "selected_by": Metric("the value whose minimum chose best.ckpt"),
    "epoch": Metric("epoch of these weights"),
    "test_images": Metric("number of test images"),
    "parameters": Metric("number of weights"),
    "training_seconds": Metric("time of all epochs", "s"),
    "seconds_per_epoch": Metric("median without the first epoch", "s", LOWER),
    "images_per_second": Metric("median without the first epoch", "1/s", HIGHER),
    "versions": Metric("of Python and the packages"),
    "revision": Metric("the git revision of the package; null outside a checkout"),
    "device": Metric("the device of the training"),
    "threads": Metric("CPU threads"),
    "stopped": Metric("when and why a callback ended the training; null: it did not"),
    "averaged_by": Metric("ema or swa if these weights are an average; null: they are not"),
    "skipped_steps": Metric("steps that trainer.skip_gradient_above has skipped"),
    "test/bits_per_dim": Metric(
        "neg_elbo per pixel, of a likelihood of discrete levels", "bits", LOWER
    ),
}
EVALUATION = {
    "nll": Metric(
        "-log p(x), including all constants, by importance sampling from q(z|x); in expectation an"
        " upper bound, which is tighter with more samples; nll <= neg_elbo + log_normalizer, up to"
        " sampling error",
        NATS,
        LOWER,
    ),
    "nll_se": Metric("standard error of nll over the test images", NATS),
    "gray_cross_entropy": Metric(
        "in place of nll for likelihood.gray=true, because a Bernoulli distribution gives no"
        " probability to gray pixels: -log of the mean over z ~ p(z) of exp(-cross-entropy)",
        NATS,
        LOWER,
    ),
    "gray_cross_entropy_se": Metric("its standard error over the test images", NATS),
    "ais_nll": Metric(
        "with method=ais: -log p(x) of ais.images test images, chosen at random but always the same"
        " ones, by annealed importance sampling; in expectation an upper bound, like nll",
        NATS,
        LOWER,
    ),
    "ais_nll_se": Metric("standard error of ais_nll", NATS),
    "ais_images": Metric("number of these images"),
    "simulated_log_p_lower": Metric(
        "with method=ais: lower bound on log p(x) of images that are drawn from the model", NATS
    ),
    "simulated_log_p_upper": Metric(
        "upper bound for the same images; a small difference shows that ais.steps and ais.chains"
        " suffice",
        NATS,
    ),
    "mig": Metric("mutual information gap, for data with known factors", "0 to 1", HIGHER),
    "modularity": Metric(
        "whether a dimension that informs about factors informs about one; 0 if none does",
        "0 to 1",
        HIGHER,
    ),
    "sap": Metric(
        "separated attribute predictability; depends on the numbering of a factor's values, unless"
        " the data name it in unordered_factors",
        "0 to 1",
        HIGHER,
    ),
    "dci_disentanglement": Metric("whether a dimension predicts one factor", "0 to 1", HIGHER),
    "dci_completeness": Metric("whether one dimension predicts a factor", "0 to 1", HIGHER),
    "dci_informativeness": Metric(
        "accuracy of predicting the factors; an independent code has about the mean of"
        " 1 / (number of values)",
        "0 to 1",
        HIGHER,
    ),
    "factor_vae_score": Metric(
        "accuracy of telling which factor a group of images shares; an independent code has about"
        " 1 / (number of factors)",
        "0 to 1",
        HIGHER,
    ),
    "log_normalizer": Metric("the constant that recon of the likelihood omits", NATS),
    "neg_elbo": Metric("recon + kl, as at the end of training", NATS, LOWER),
    "recon": Metric("-log p(x|z) without log_normalizer", NATS, LOWER),
    "kl": Metric("KL(q(z|x) || p(z))", NATS),
    "active_units": Metric("number of latent dimensions with Var(E[z|x]) > 0.01"),
    "mutual_information": Metric("I(n; z), what z knows about the image; at most log_n", "nats"),
    "marginal_kl": Metric(
        "KL(q(z) || p(z)); mutual_information + marginal_kl = mean KL", "nats", LOWER
    ),
    "total_correlation": Metric(
        "KL(q(z) || prod_l q(z_l)), where q(z) is the mixture of the posteriors of all test images;"
        " too large if mutual_information is near log_n",
        "nats",
    ),
    "gaussian_total_correlation": Metric(
        "-1/2 log det of the correlation matrix of q(z); it detects only linear dependence, but"
        " hardly depends on the number of images",
        "nats",
    ),
    "log_n": Metric("log of the number of test images", "nats"),
    "linear_probe_accuracy": Metric(
        "accuracy of predicting labels from posterior means by logistic regression",
        "0 to 1",
        HIGHER,
    ),
    "nearest_neighbors_accuracy": Metric("the same by 5 nearest neighbors", "0 to 1", HIGHER),
    "mse": Metric("squared error per pixel of reconstructions from posterior means", "", LOWER),
    "psnr": Metric("the same as peak signal-to-noise ratio", "dB", HIGHER),
    "ssim": Metric(
        "structural similarity of the same, for images of at least 11 x 11 pixels",
        "-1 to 1",
        HIGHER,
    ),
    "frechet_distance": Metric(
        "distance of samples from test images, in the features of a small classifier that is"
        " trained on the training labels and cached in ~/.cache/vae_lightning. A sample is the mean"
        " of p(x|z) for a draw z from the prior, without the noise of the pixels; with binarized"
        " data, its pixels are then drawn with these probabilities. With pixels=draw it is a draw"
        " from p(x|z)",
        "",
        LOWER,
    ),
    "precision": Metric("share of samples that are near test images", "0 to 1", HIGHER),
    "recall": Metric("share of test images that are near samples", "0 to 1", HIGHER),
    "gmm_frechet_distance, gmm_precision, gmm_recall": Metric(
        "with prior=gmm: the same for samples from a Gaussian mixture that is fitted to the"
        " codes of the training images"
    ),
    "auroc_nll": Metric(
        "with against=DATA: how well -log p(x) tells test images of DATA from those of the run",
        "0 to 1; 0.5 is chance",
        HIGHER,
    ),
    "auroc_complexity": Metric(
        "the same by -log p(x) minus the length of the image as PNG",
        "0 to 1; 0.5 is chance",
        HIGHER,
    ),
    "classifier_accuracy": Metric("test accuracy of the classifier of samples", "0 to 1", HIGHER),
}
SCORES = {
    "nll": Metric(
        "-log p(x) with all constants, by importance sampling from q(z|x), as in evaluate; left out"
        " for likelihood.gray=true, because p(x|z) is not normalized",
        "nats",
        LOWER,
    ),
    "neg_elbo": Metric(
        "recon + kl; nll <= neg_elbo + log_normalizer, up to sampling error", "nats", LOWER
    ),
    "recon": Metric(
        "the mean of -log p(x|z) over the same samples, without the constant log_normalizer",
        "nats",
        LOWER,
    ),
    "kl": Metric("KL(q(z|x) || p(z))", "nats"),
}
