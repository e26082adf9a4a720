"""What a step trains on: drawn for the whole batch by the run's own generators, shared by its processes, made ready."""

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from resexp import UserError
from resexp.config import ProtocolConfig
from resexp.data import Images, Stream
from resexp.data.augment import augment, channel_statistics, draw, normalize, pixel_mean
from resexp.data.crops import CENTRE_SCALE, draw_crops, in_proportion
from resexp.data.loader import Loader
from resexp.parallel import World

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, for weights trained with them
Drawn = tuple[Tensor | None, ...]


class Batches:
    """The endless stream of a run's batches.

    :param part: the training images.
    :param loader: their order.
    :param generator: draws the augmentation. It and the loader's lie where the images do.
    :param p: says what is drawn.
    """

    def __init__(
        self, part: Any, loader: Loader, generator: torch.Generator, p: ProtocolConfig, world: World | None = None
    ) -> None:
        self.part, self.loader, self.generator, self.p = part, loader, generator, p
        self.world = world or World()
        self.scales = scales_of(p, part.image_shape[1])
        self.components = colour_components(part.sample()).to(generator.device) if p.colour else None
        self.decoded: Generator[Drawn, None, None] | None = self._decoded() if isinstance(part, Stream) else None
        self.mark: tuple[dict[str, Any], Tensor] | None = None  # where workers are ahead: the state at this step

    def next(self) -> Drawn:
        """The arguments of ``make_batch`` behind the part, this process's share."""
        return self.draw() if self.decoded is None else next(self.decoded)

    def close(self) -> None:
        """End the workers. Left to garbage collection, which may come in a thread of theirs, that takes seconds."""
        if self.decoded:
            self.decoded.close()

    def draw(self) -> Drawn:
        """Image indices (N,), then for ``Images`` crop offsets (2, N) and mirroring (N,), else places and colours."""
        indices = self.loader.next_batch()
        if isinstance(self.part, Images):
            offsets, mirrored = draw(len(indices), pad=self.p.pad, flip=self.p.flip, generator=self.generator)
            both = None if offsets is None else self.world.share(offsets.T)
            return self.world.share(indices), None if both is None else both.T, self.world.share(mirrored)
        places, colours = draw_crops(len(indices), flip=self.p.flip, colour=self.p.colour, generator=self.generator)
        if not self.p.scales:
            places[:, 1:3] = 0.5  # the centre
        if colours is not None and self.components is not None:
            colours = colours @ self.components
        return self.world.share(indices), self.world.share(places), self.world.share(colours)

    def _decoded(self) -> Generator[Drawn, None, None]:
        waiting: deque[tuple[Any, ...]] = deque()
        device = self.part.device

        def tasks() -> Iterator[list[tuple[int, list[float]]]]:
            while True:
                indices, places, colours = self.draw()
                waiting.append((indices, colours, self.loader.mark(), self.generator.get_state()))
                assert indices is not None and places is not None
                yield list(zip(indices.tolist(), places.tolist(), strict=True))

        for crops in self.part.batches(tasks(), self.scales):
            indices, colours, order, augmentation = waiting.popleft()
            self.mark = order, augmentation
            moved = None if colours is None else colours.to(device, non_blocking=True)
            yield crops.to(device, non_blocking=True), self.part.labels[indices.to(device)], moved


def make_batch(part: Any, mean: Tensor | None, *drawn: Tensor | None, p: ProtocolConfig) -> tuple[Tensor, Tensor]:
    """A drawn batch, ready for the net: float32 (N, C, H, W) and labels int64 (N,)."""
    if isinstance(part, Images):
        indices, offsets, mirrored = drawn
        assert indices is not None
        return normalize(augment(part.images[indices], offsets, mirrored, pad=p.pad), mean), part.labels[indices]
    if isinstance(part, Stream):
        images, labels, colours = drawn
    else:
        indices, places, colours = drawn
        images, labels = part.crops(indices, places, scales_of(p, part.crop)), part.labels[indices]
    assert images is not None and labels is not None
    inputs = normalize(images, mean)
    return (inputs if colours is None else inputs.add_(colours[:, :, None, None])), labels


def scales_of(p: ProtocolConfig, crop: int) -> tuple[int, int]:
    """Shortest and longest shorter side of the image before a crop of ``crop`` pixels."""
    low, high = p.scales or (CENTRE_SCALE, CENTRE_SCALE)
    return in_proportion(low, crop), in_proportion(high, crop)


def colour_components(images: Tensor) -> Tensor:
    """Rows: the principal components of the pixels' colours, each as long as the standard deviation along it: (3, 3).

    Krizhevsky et al. 2012, Sec. 4.1, speak of eigenvalues; of variances, a tenth would be far beyond white.
    """
    colours = images.transpose(0, 1).flatten(1)[:, ::7].double() / 255  # every seventh pixel is plenty
    values, vectors = torch.linalg.eigh(torch.cov(colours))
    return (vectors * values.clamp(min=0).sqrt()).T.float()


def mean_image(part: Any, how: str) -> Tensor | None:
    """What the protocol subtracts from every image: float32 (C, H, W), or None.

    Where it also divides by a standard deviation, this is the second of two: (2, C, H, W).
    """
    match how:
        case "pixel-mean":
            return pixel_mean(part.sample()).to(part.device)
        case "channel":
            return channel_statistics(part.sample()).to(part.device)
        case "imagenet":
            channels, *sides = part.image_shape
            if channels != 3:
                raise UserError(f"protocol.normalize=imagenet: three channels, and these images have {channels}")
            statistics = torch.tensor(IMAGENET_STATISTICS, device=part.device)[..., None, None]
            return statistics.expand(2, 3, *sides).contiguous()
    return None
