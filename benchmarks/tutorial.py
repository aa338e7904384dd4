"""The tutorial's network, for fastconv and PyTorch, and for JAX."""

from functools import partial

from layers import arrays


def tutorial_net(lib):
    """The tutorial's Net, written with `lib` (fastconv or torch), from seed 0."""
    nn, functional = lib.nn, lib.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 6, 3)
            self.conv2 = nn.Conv2d(6, 16, 3)
            self.fc1 = nn.Linear(16 * 6 * 6, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

        def forward(self, x):
            x = functional.max_pool2d(functional.relu(self.conv1(x)), (2, 2))
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            x = x.view(-1, 576)
            x = functional.relu(self.fc1(x))
            x = functional.relu(self.fc2(x))
            return self.fc3(x)

    lib.manual_seed(0)
    return Net()


FORWARD = 274_656  # multiply-adds of a sample
TRAINING = 3 * FORWARD - 48_600  # the gradient of the images, conv1's dx, is not computed
RATE = 1e-3  # of SGD


def images_and_targets(batch):
    return arrays((batch, 1, 32, 32), (batch, 10))


# ---- JAX, in either order of the axes ---------------------------------------------------------------

JAX_ORDERS = {"JAX": ("NCHW", "OIHW"), "JAX NHWC": ("NHWC", "HWIO")}


def jax_numbers(name, weights, x):
    """The weights (a state_dict, as arrays) and images, in the order of the contender `name`."""
    import jax.numpy as jnp

    weights = dict(weights)
    if name == "JAX NHWC":
        for conv in ("conv1.weight", "conv2.weight"):
            weights[conv] = weights[conv].transpose(2, 3, 1, 0)
        features = weights["fc1.weight"].reshape(120, 16, 6, 6)  # of an image: (16, 6, 6)
        weights["fc1.weight"] = features.transpose(0, 2, 3, 1).reshape(120, 576)
        x = x.transpose(0, 2, 3, 1)
    return {key: jnp.asarray(w) for key, w in weights.items()}, jnp.asarray(x)


def jax_net(name, weights, x):
    import jax
    from jax import lax
    from jax.numpy import inf

    images, filters = JAX_ORDERS[name]
    channel = [-1 if axis == "C" else 1 for axis in images]
    window = [2 if axis in "HW" else 1 for axis in images]
    for conv in ("conv1", "conv2"):
        x = lax.conv_general_dilated(
            x,
            weights[f"{conv}.weight"],
            (1, 1),
            "VALID",
            dimension_numbers=(images, filters, images),
        )
        x = jax.nn.relu(x + weights[f"{conv}.bias"].reshape(channel))
        x = lax.reduce_window(x, -inf, lax.max, window, window, "VALID")
    x = x.reshape(x.shape[0], -1)
    for fc in ("fc1", "fc2", "fc3"):
        x = x @ weights[f"{fc}.weight"].T + weights[f"{fc}.bias"]
        x = x if fc == "fc3" else jax.nn.relu(x)
    return x


def jax_forward(name, weights, x):
    import jax

    weights, x = jax_numbers(name, weights, x)
    net = jax.jit(partial(jax_net, name))
    return lambda: net(weights, x).block_until_ready()


def jax_train_step(name, weights, x, target):
    """Old weights are donated: the new ones may take their memory."""
    import jax

    state, x = jax_numbers(name, weights, x)
    target = jax.numpy.asarray(target)

    def loss(weights, x, target):
        return jax.numpy.mean((jax_net(name, weights, x) - target) ** 2)

    @partial(jax.jit, donate_argnums=0)
    def step(weights, x, target):
        value, gradients = jax.value_and_grad(loss)(weights, x, target)
        return value, jax.tree.map(lambda w, dw: w - RATE * dw, weights, gradients)

    def call():
        nonlocal state
        value, state = step(state, x, target)
        jax.block_until_ready((value, state))
        return value

    return call
