"""JAX, with a whole epoch (noise, gradients, Adam) as one compiled ``lax.scan``.

The images are on the device.
"""

from functools import partial

from benchmarks.contenders import common

try:
    import jax
    import jax.numpy as jnp
    from jax import Array, lax
except ModuleNotFoundError as error:
    common.refuse(__doc__, error)

Parameters = list[tuple[Array, Array]]


def initial(key: Array, sizes: list[tuple[int, int]]) -> Parameters:
    """Draws weights and biases uniformly from +-1/sqrt(inputs), as torch.nn.Linear does."""
    layers = []
    for inputs, outputs in sizes:
        key, first, second = jax.random.split(key, 3)
        bound = inputs**-0.5
        weight = jax.random.uniform(first, (inputs, outputs), minval=-bound, maxval=bound)
        layers.append((weight, jax.random.uniform(second, (outputs,), minval=-bound, maxval=bound)))
    return layers


def loss(parameters: Parameters, x: Array, noise: Array) -> Array:
    """Returns recon + KL in nats per image for images x (B, 784) and noise (B, L)."""
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = parameters
    mean, raw = jnp.split(jax.nn.relu(x @ w1 + b1) @ w2 + b2, 2, axis=1)
    std = jax.nn.softplus(raw)
    decoded = jax.nn.sigmoid(jax.nn.relu((mean + std * noise) @ w3 + b3) @ w4 + b4)
    kl = -0.5 * (1 + 2 * jnp.log(std) - mean**2 - std**2).sum()
    return (((x - decoded) ** 2).sum() + kl) / len(x)


def step(
    state: tuple, batch: tuple[Array, Array], data: Array, latent_dim: int
) -> tuple[tuple, Array]:
    """Takes one step of Adam (lr 1e-3, betas 0.9 and 0.999, eps 1e-8).

    ``batch`` contains the indices of the images and the key of the noise.
    """
    parameters, first, second, count = state
    index, key = batch
    x = data[index]
    value, grads = jax.value_and_grad(loss)(
        parameters, x, jax.random.normal(key, (len(index), latent_dim))
    )
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    rate, scale = 1e-3 / (1 - 0.9**count), 1 / (1 - 0.999**count)
    parameters = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v * scale) + 1e-8), parameters, first, second
    )
    return (parameters, first, second, count), value * len(index)


@partial(jax.jit, static_argnames=("size", "latent_dim"), donate_argnums=0)
def epoch_of(
    state: tuple, data: Array, key: Array, size: int, latent_dim: int
) -> tuple[tuple, Array]:
    """Takes all steps of an epoch and returns the state and the mean loss.

    The last batch is smaller if ``size`` does not divide the number of images.
    """
    shuffle, noise, last = jax.random.split(key, 3)
    order = jax.random.permutation(shuffle, len(data))
    whole = len(data) // size
    batches = order[: whole * size].reshape(whole, size)
    one = partial(step, data=data, latent_dim=latent_dim)
    state, values = lax.scan(one, state, (batches, jax.random.split(noise, whole)))
    total = values.sum()
    if whole * size < len(data):
        state, value = one(state, (order[whole * size :], last))
        total = total + value
    return state, total / len(data)


def main() -> None:
    """Trains and prints a line after each epoch."""
    args = common.arguments(__doc__)
    common.require_mlp(args)
    data = jnp.asarray(common.pixels(args.root).flatten(1).numpy(), jnp.float32) / 255
    sizes = [
        (784, args.width),
        (args.width, 2 * args.latent_dim),
        (args.latent_dim, args.width),
        (args.width, 784),
    ]
    key = jax.random.key(0)
    parameters = initial(key, sizes)
    state = (parameters, *(jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)), 0)
    for epoch in range(1, args.epochs + 1):
        key, own = jax.random.split(key)
        state, value = epoch_of(state, data, own, args.batch_size, args.latent_dim)
        common.report(epoch, args.epochs, float(value))


if __name__ == "__main__":
    main()
