"""The first weights of a network, by name.

The spread of the first weights decides whether the signal keeps its size through the layers; `auto` takes the
one that suits the activation: He for the rectifiers, which halve the signal, Xavier for the symmetric sigmoid
and tanh, and for maxout the He of its own second moment. The logits begin near 0, whatever the size of the
features that they are made of (pooling takes the largest): a network that knows nothing yet then says so, and
its first loss is the one of theory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.models.layers import LEAKY_SLOPE
from dlspark.models.options import require_choice

_SCHEMES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "he_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "he_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
}
_SPREAD_OF_LOGITS = 0.1
"""Of what would keep the size of the features, which is 1 to 5 after rectifiers and pooling."""
INITIALISATIONS = ("auto", "torch", "normal", *_SCHEMES)


def initialise(
    network: nn.Sequential,
    *,
    activation: str,
    initialisation: str = "auto",
    initialisation_std: float = 0.01,
    maxout_pieces: int = 2,
) -> nn.Sequential:
    """Draw the first weights of a feed-forward network from torch's global generator; return it.

    All but "torch" zero the biases.

    Args:
        network: its last layer gives the logits; each other convolution and fully connected layer is followed
            by `activation`.
        activation: sigmoid, tanh, relu, leaky_relu or maxout; for "auto".
        initialisation: "auto" (what suits the activation, and for the logits N(0, 0.01/fan_in)), "torch"
            (torch's own: uniform in +-1/sqrt(fan_in), biases too), "normal" (N(0, std^2)), "xavier_normal"
            and "xavier_uniform" (variance 2/(fan_in + fan_out), Glorot and Bengio 2010), "he_normal" and
            "he_uniform" (variance 2/fan_in, He et al. 2015, arXiv:1502.01852).
        initialisation_std: standard deviation of "normal"; > 0. Small ones (0.01) are the custom of the nets
            before 2010, and of Hinton et al. 2012.
        maxout_pieces: k of maxout; for "auto".

    Raises:
        ModelError: the name is another one, or the standard deviation is not above 0.
    """
    require_choice("initialisation", initialisation, INITIALISATIONS)
    if initialisation_std <= 0:
        raise ModelError(
            "initialisation_std is out of range",
            got=initialisation_std,
            allowed="> 0",
            where="model.initialisation_std",
        )
    if initialisation == "torch":
        return network
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if initialisation == "normal":
            nn.init.normal_(layer.weight, std=initialisation_std)
        elif initialisation != "auto":
            _SCHEMES[initialisation](layer.weight)
        elif layer is layers[-1]:
            initialise_logits(layer.weight)
        else:
            _suit(layer.weight, activation, maxout_pieces)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def initialise_logits(weight: torch.Tensor) -> None:
    """Draw the weights [K, ...] of the layer that gives the logits from N(0, 0.01/fan_in), in place."""
    nn.init.normal_(weight, std=_SPREAD_OF_LOGITS / math.sqrt(weight[0].numel()))


def maxout_second_moment(pieces: int) -> float:
    """Return E[max(z_1..z_k)^2] of k independent unit normals: 1 for k = 2, 1.28 for 3, 1.80 for 5.

    By the trapezoid rule over the density k * phi(x) * Phi(x)^(k - 1) of the maximum.
    """
    x = torch.linspace(-10.0, 10.0, 4001, dtype=torch.float64, device="cpu")
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(x.square() * pieces * density * torch.special.ndtr(x) ** (pieces - 1), x))


def _suit(weight: torch.Tensor, activation: str, maxout_pieces: int) -> None:
    if activation == "relu":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    elif activation == "leaky_relu":
        nn.init.kaiming_normal_(weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
    elif activation == "maxout":
        nn.init.kaiming_normal_(weight, nonlinearity="linear")
        with torch.no_grad():
            weight.div_(math.sqrt(maxout_second_moment(maxout_pieces)))
    else:
        nn.init.xavier_uniform_(weight)
