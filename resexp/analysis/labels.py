"""What a net is called in figures and on the command line."""

from typing import Any

from resexp import catalog


def label_of(model: dict[str, Any]) -> str:
    """The net's name, with the settings that are not its paper's: ``resnet56 survival=0.5``.

    Without its width, and without where option A puts its zeros, which is only an order of the channels.
    """
    knobs = catalog.resolve(model)
    usual = catalog.resolve({"family": knobs["family"], "depth": knobs["depth"]})
    words = [
        f"{key}={value}"
        for key, value in knobs.items()
        if key not in ("width", "zero_padding") and usual.get(key, value) != value
    ]
    return " ".join([catalog.net_name(knobs), *words])
