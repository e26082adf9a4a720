"""What a net is called in figures and on the command line."""

from typing import Any

from resexp import catalog


def label_of(model: dict[str, Any]) -> str:
    """The net's name, with the settings but for its width that are not its paper's: ``resnet56 survival=0.5``."""
    knobs = catalog.resolve(model)
    usual = catalog.resolve({"family": knobs["family"], "depth": knobs["depth"]})
    words = [f"{key}={value}" for key, value in knobs.items() if key != "width" and usual.get(key, value) != value]
    return " ".join([catalog.net_name(knobs), *words])
