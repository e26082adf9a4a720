"""One image file as RGB: grey, CMYK, 16-bit and rotated ones become what a person sees; broken ones are named."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from resexp import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
DEEP_MODES = (
    "I;16",
    "I;16B",
    "I;16L",
    "I;16N",
    "I",
)  # Pillow's names for 16 bits per pixel, which it would clip to 255


def read_image(path: Path | str) -> Image.Image:
    """A Pillow image of mode RGB, upright. Raises UserError that names a file which is truncated or no image."""
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode in DEEP_MODES:
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error}); replace it or remove it") from None


def shorter_side_to(side: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) of an image resized so that its shorter side is ``side``, as torchvision rounds the other one."""
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side
