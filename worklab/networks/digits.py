"""The demo's network: a pretrained ResNet-20, retrained for handwritten digits."""

from worklab.networks.resnet import ResNet20


class DigitsNetwork(ResNet20):
    """ResNet-20 whose early stages learn slowly and whose last layer is fresh."""

    # Edges and strokes are already there; shapes of digits are not.
    lr_mults = (0.1, 0.1, 0.3, 1.0)
