"""A run's training batches: the order of the images, their augmentation, and what is prepared ahead, in one object."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from resexp import UserError
from resexp.data.normalize import Normalization, colour_components
from resexp.data.source import Augmentation, Drawn, Source
from resexp.parallel import World


class Order:
    """An endless order of image indices: one permutation per epoch, cut into batches of one size.

    A batch that reaches past the end of an epoch takes the rest from the next permutation, so that every step has
    ``batch_size`` images and every epoch has every image exactly once.
    """

    def __init__(self, size: int, batch_size: int, generator: torch.Generator) -> None:
        self.size = size
        self.batch_size = batch_size
        self.generator = generator
        self.pending = torch.empty(0, dtype=torch.int64, device=generator.device)

    def next_batch(self) -> Tensor:
        """Indices int64 (batch_size,), on the generator's device."""
        while len(self.pending) < self.batch_size:
            epoch = torch.randperm(self.size, generator=self.generator, device=self.generator.device)
            self.pending = torch.cat([self.pending, epoch])
        batch, self.pending = self.pending[: self.batch_size], self.pending[self.batch_size :]
        return batch

    def state_dict(self) -> dict[str, Tensor]:
        """``pending`` is a view of the whole permutation here: clone it before it is saved."""
        return {"generator": self.generator.get_state(), "pending": self.pending}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.pending = state["pending"].to(self.generator.device)


class Batches:
    """The endless batches of a run. Iterate for what is drawn and prepared; ``make`` turns it into the net's input.

    :param source: the training images.
    :param order: which images come next.
    :param generator: draws the augmentation; it and the order's live on ``source.draws_on``.
    :param world: each process makes its own part of every batch.
    :raises resexp.UserError: if images have too few pixels to be reflected.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        generator: torch.Generator,
        *,
        augmentation: Augmentation,
        normalization: Normalization,
        world: World | None = None,
    ) -> None:
        side, pad = min(source.image_shape[1:]), augmentation.pad
        if augmentation.pad_mode == "reflect" and pad >= side:
            raise UserError(
                f"protocol.pad={pad}: images of {side} pixels a side have only {side - 1} to mirror at an edge; "
                f"take {side - 1} or less, or protocol.pad_mode=zeros"
            )
        self.source, self.order, self.generator = source, order, generator
        self.augmentation, self.normalization = augmentation, normalization
        self.world = world or World()
        self.components = colour_components(source.sample()).to(source.draws_on) if augmentation.colour else None
        self.ahead: deque[tuple[Tensor | None, dict[str, Any]]] = deque()  # of batches drawn and not yet used
        self.position: dict[str, Any] | None = None  # the state after the last batch used; None: the present one
        self.prepared = source.prepare(self._draw_forever(), augmentation)

    def __iter__(self) -> Iterator[Drawn]:
        return self

    def __next__(self) -> Drawn:
        """The arguments of ``make``: the shift of colours, and what the source needs of the next batch."""
        prepared = next(self.prepared)
        colours, self.position = self.ahead.popleft()
        return None if colours is None else colours.to(self.source.device, non_blocking=True), *prepared

    def make(self, colours: Tensor | None, *prepared: Tensor | None) -> tuple[Tensor, Tensor]:
        """The net's input float32 (N, C, H, W), and labels int64 (N,)."""
        images, labels = self.source.batch(self.augmentation, *prepared)
        inputs = self.normalization(images)
        if colours is not None:  # shifts of values 0 to 1, which a deviation has divided
            shift, std = colours[:, :, None, None], self.normalization.std
            inputs.add_(shift if std is None else shift / std)
        return inputs, labels

    def _draw_forever(self) -> Iterator[Drawn]:
        share = self.world.share
        while True:
            indices = self.order.next_batch()
            drawn = self.source.draw(len(indices), self.augmentation, self.generator)
            colours = share(self._draw_colours(len(indices)))
            self.ahead.append((colours, self._position()))
            yield share(indices), *map(share, drawn)

    def _draw_colours(self, count: int) -> Tensor | None:
        """The shift of each image's colours, float32 (N, 3) (Krizhevsky et al. 2012, Sec. 4.1)."""
        if self.components is None:
            return None
        normal = torch.randn(count, 3, generator=self.generator, device=self.generator.device)
        return self.augmentation.colour * normal @ self.components

    def _position(self) -> dict[str, Any]:
        return {"order": self.order.state_dict(), "augmentation": self.generator.get_state()}

    def state_dict(self) -> dict[str, Any]:
        """Where the next unused batch begins, however far ahead others are prepared."""
        position = self.position or self._position()
        order = position["order"]
        return {**position, "order": {**order, "pending": order["pending"].clone()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before the first batch is drawn."""
        self.order.load_state_dict(state["order"])
        self.generator.set_state(state["augmentation"].cpu())

    def close(self) -> None:
        """End the workers. Left to garbage collection, which may come in a thread of theirs, that takes seconds."""
        self.prepared.close()
