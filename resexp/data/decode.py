"""One image file as RGB: grey, CMYK, 16-bit and rotated ones become what a person sees; broken ones are named."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from resexp import UserError, system

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # Pillow would clip their pixels to 255
RANGES = (1, 255, 4095, 65535)  # what white may be in them; a whole image of 0 and 1 has white at 1 only in mode F


def read_image(path: Path | str) -> Image.Image:
    """A Pillow image of mode RGB, upright, on white where it is transparent.

    :raises UserError: that names a file which is truncated or no image.
    """
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.mode in DEEP_MODES:
                upright = Image.fromarray(_to_bytes(np.asarray(upright)))
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return upright.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of damaged files raise anything
        if system.refuses_to_read(error):
            raise UserError(f"{path}: cannot be read ({error})") from None
        raise UserError(f"{path}: not a readable image ({error}); replace it or remove it") from None


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8 of an image of more than 8 bits per pixel: its white is the least of ``RANGES`` that holds its largest."""
    whites = RANGES if pixels.dtype.kind == "f" else RANGES[1:]
    largest = float(pixels.max(initial=0))
    white = next((white for white in whites if largest <= white), largest)
    if white == 65535:
        return (pixels.clip(min=0).astype(np.uint32) >> 8).astype(np.uint8)
    return (pixels.astype(np.float64).clip(min=0) * (255 / white)).round().astype(np.uint8)


def shorter_side_to(side: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) of an image resized so that its shorter side is ``side``, as torchvision rounds the other one."""
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side
