"""The demo's networks: a pretrained ResNet-20, retrained, and one to search in."""

from typing import Any

from worklab.network import Network
from worklab.networks.resnet import ResNet20


class DigitsNetwork(ResNet20):
    """ResNet-20 whose early stages learn slowly and whose last layer is fresh."""

    # Edges and strokes are already there; shapes of digits are not.
    lr_mults = (0.1, 0.1, 0.3, 1.0)


class PlainDigitsNetwork(Network):
    """Three convolutions from scratch, whose first width is `hyper`, 8 if not given.

    For `train_with_hyper.py`, as it trains in seconds.
    """

    def _construct(self, images: Any) -> Any:
        width = int(self.hyper or 8)
        x = images
        for number, filters in enumerate((width, 2 * width, 2 * width), start=1):
            with self.scope(f"block{number}"):
                x = self.conv_block(x, filters, 3, strides=2)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits")
