"""Every named net for ``torch.hub.load``, with the project's own CIFAR-10 weights where it has some.

torch.hub.load("CHECKOUT", "resnet20", source="local", pretrained=True)
"""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import resexp
from resexp.catalog import NAMED

dependencies = ["torch", "hydra", "omegaconf", "safetensors", "filelock", "psutil", "rich", "yaml", "numpy"]
WEIGHTS = Path(__file__).parent / "outputs" / "reference" / "weights"


def load(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
    """A named net. Raises ValueError if it is to be ``pretrained`` and the project has no weights of it.

    :param pretrained: with weights of 8,000 steps on CIFAR-10, an eighth of the paper's; images are values 0 to 1 less
        the training images' mean at each pixel.
    :param settings: of ``resexp.build``: classes, image_shape, seed, weights, and those of ``model.``.
    """
    if pretrained:
        files = sorted(WEIGHTS.glob(f"{name}-*.safetensors"))
        if not files:
            known = sorted({path.name.partition("-")[0] for path in WEIGHTS.glob("*.safetensors")})
            raise resexp.UserError(f"{name}: no weights of it in {WEIGHTS}; choose from {', '.join(known)}")
        settings = {"weights": files[0], **settings}
    return resexp.build(name, **settings)


def _entry(name: str) -> Any:
    entry = partial(load, name)
    entry.__doc__ = f"{name}; see ``load``."  # type: ignore[method-assign]
    return entry


globals().update({net.name: _entry(net.name) for net in NAMED})
