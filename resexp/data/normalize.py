"""From bytes to what a net sees: values 0 to 1, less a mean, over a standard deviation where the protocol has one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resexp import UserError
from resexp.data.source import Source

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and deviation of ImageNet's channels


@dataclass(frozen=True)
class Normalization:
    """What is subtracted from values 0 to 1 and what divides them, float32 (C, H, W) each; None: nothing does.

    The papers' protocols only subtract a mean: batch norm after the first convolution would undo a scale.
    """

    mean: Tensor | None = None
    std: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) of values 0 to 255 -> float32 (N, C, H, W), channels last in memory."""
        dtype = torch.float32 if self.mean is None else self.mean.dtype
        x = images.to(dtype, memory_format=torch.channels_last).div_(255)
        if self.mean is not None:
            x.sub_(self.mean)
        return x if self.std is None else x.div_(self.std)

    def of_any_size(self) -> "Normalization":
        """The same for images of any size: the mean over the pixels takes the place of the mean at each."""

        def over_pixels(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.mean(dim=(-2, -1), keepdim=True)

        return Normalization(over_pixels(self.mean), over_pixels(self.std))


def normalization_of(source: Source, how: str, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Normalization:
    """``protocol.normalize`` for these training images: ``pixel-mean``, ``channel``, ``imagenet`` or ``none``.

    :param mean: of each channel, of values 0 to 1; takes the place of ``how``, with ``std``.
    :raises UserError: for numbers of other channels than the images have.
    """
    if mean:
        return _of_channels(source, "mean", mean, std or [1.0] * len(mean))
    match how:
        case "pixel-mean":
            return Normalization(pixel_mean(source.sample()).to(source.device))
        case "channel":
            return Normalization(*channel_statistics(source.sample()).to(source.device))
        case "imagenet":
            return _of_channels(source, "normalize=imagenet", *IMAGENET)
    return Normalization()


def _of_channels(source: Source, key: str, mean: Sequence[float], std: Sequence[float]) -> Normalization:
    channels, *sides = source.image_shape
    if len(mean) != channels:
        raise UserError(f"protocol.{key}: has {len(mean)} channels, and these images have {channels}")
    values = torch.tensor([list(mean), list(std)], device=source.device)[..., None, None]
    return Normalization(*values.expand(2, channels, *sides).contiguous())


def pixel_mean(images: Tensor) -> Tensor:
    """The mean image, of values 0 to 1. uint8 (N, C, H, W) -> float32 (C, H, W)."""
    images = with_doubles(images)
    # In chunks: torch converts all it sums to the type of the sum first, eight times the data set.
    total = torch.stack([part.sum(dim=0, dtype=torch.int64) for part in images.split(1000)]).sum(dim=0)
    return (total.double() / (255 * len(images))).float()


def channel_statistics(images: Tensor) -> Tensor:
    """Mean and standard deviation of each channel, of values 0 to 1. uint8 (N, C, H, W) -> float32 (2, C, H, W)."""
    images = with_doubles(images)
    values = images.transpose(0, 1).flatten(1)  # (C, N H W)
    count = values.shape[1]
    total = torch.stack([part.double().sum(dim=1) for part in values.split(1_000_000, dim=1)]).sum(dim=0)
    squares = torch.stack([part.double().square().sum(dim=1) for part in values.split(1_000_000, dim=1)]).sum(dim=0)
    mean = total / count
    statistics = torch.stack((mean, (squares / count - mean**2).sqrt().clamp_(min=1))) / 255
    return statistics.float()[..., None, None].expand(2, *images.shape[1:]).contiguous()


def with_doubles(images: Tensor) -> Tensor:
    """The images where float64 is: an Apple GPU has none."""
    return images.cpu() if images.device.type == "mps" else images


def colour_components(images: Tensor) -> Tensor:
    """Rows: the principal components of the pixels' colours, each as long as the standard deviation along it: (3, 3).

    Krizhevsky et al. 2012, Sec. 4.1, say eigenvalues; their code (cuda-convnet) takes standard deviations, as do we.
    fb.resnet.torch and others take eigenvalues of pixels from 0 to 1, which shift colours half to a fourteenth as far.
    """
    colours = with_doubles(images).transpose(0, 1).flatten(1)[:, ::7].double() / 255  # every seventh pixel is plenty
    values, vectors = torch.linalg.eigh(torch.cov(colours))
    return (vectors * values.clamp(min=0).sqrt()).T.float()
