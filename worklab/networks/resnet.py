"""Residual networks for small (CIFAR) and large (ImageNet) images.

Source: He et al. 2016, arXiv:1512.03385; section 4.2 for CIFAR, table 1 for ImageNet.
"""

from typing import Any

from worklab.network import Network


class CifarResNet(Network):
    """ResNet for images of about 32x32: three stages of basic blocks.

    Scopes: `stem`, `stage1/block1` ... `stage3/blockN`, `logits`. All layers restore
    under their own names but `logits`, which is fresh.

    Attributes:
        blocks: Residual blocks in each stage; depth = 6 * blocks + 2.
        lr_mults: Multipliers of stem and stages.

    Source: arXiv:1512.03385, section 4.2; here the shortcut is a 1x1 convolution
        where the shape changes (option B; the paper's CIFAR networks use option A).
    """

    blocks: int
    lr_mults: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    # Mean and deviation of the CIFAR-10 training images, RGB.
    mean = (125.3, 123.0, 113.9)
    std = (63.0, 62.1, 66.7)

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self.conv_block(images, 16, 3)
        for stage, filters in enumerate((16, 32, 64), start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                for block in range(1, self.blocks + 1):
                    with self.scope(f"block{block}"):
                        strides = 2 if stage > 1 and block == 1 else 1
                        x = self.residual_block(x, filters, strides=strides)
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


class ResNet20(CifarResNet):
    """CIFAR ResNet of 20 layers, 0.27 million parameters."""

    blocks = 3


class ResNet32(CifarResNet):
    """CIFAR ResNet of 32 layers, 0.47 million parameters."""

    blocks = 5


class ResNet44(CifarResNet):
    """CIFAR ResNet of 44 layers, 0.66 million parameters."""

    blocks = 7


class ResNet56(CifarResNet):
    """CIFAR ResNet of 56 layers, 0.86 million parameters."""

    blocks = 9


class ImageNetResNet(Network):
    """ResNet for images of about 224x224: four stages.

    Scopes: `stem`, `stage1/block1` ... `stage4/blockN`, `logits`. All layers restore
    under their own names but `logits`, which is fresh. The stride of a bottleneck is
    on its 3x3 convolution ("v1.5", as in torchvision).

    Attributes:
        blocks: Residual blocks in each stage.
        bottleneck: Whether blocks are bottlenecks.
        lr_mults: Multipliers of stem and stages.

    Source: arXiv:1512.03385, table 1.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    lr_mults: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)

    # Mean and deviation of ImageNet's training images, RGB, as torchvision has them.
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def _construct(self, images: Any) -> Any:
        with self.scope("stem", lr_mult=self.lr_mults[0]):
            x = self.conv_block(images, 64, 7, strides=2)
            x = self.pool_layer(x, 3, strides=2, padding="symmetric")
        for stage, blocks in enumerate(self.blocks, start=1):
            with self.scope(f"stage{stage}", lr_mult=self.lr_mults[stage]):
                for block in range(1, blocks + 1):
                    with self.scope(f"block{block}"):
                        x = self.residual_block(
                            x,
                            64 * 2 ** (stage - 1),
                            strides=2 if stage > 1 and block == 1 else 1,
                            bottleneck=self.bottleneck,
                        )
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits", restore=False)


class ResNet18(ImageNetResNet):
    """ImageNet ResNet of 18 layers, 11.7 million parameters."""

    blocks = (2, 2, 2, 2)
    bottleneck = False


class ResNet34(ImageNetResNet):
    """ImageNet ResNet of 34 layers, 21.8 million parameters."""

    blocks = (3, 4, 6, 3)
    bottleneck = False


class ResNet50(ImageNetResNet):
    """ImageNet ResNet of 50 layers, 25.6 million parameters."""

    blocks = (3, 4, 6, 3)
    bottleneck = True


class ResNet101(ImageNetResNet):
    """ImageNet ResNet of 101 layers, 44.5 million parameters."""

    blocks = (3, 4, 23, 3)
    bottleneck = True


class ResNet152(ImageNetResNet):
    """ImageNet ResNet of 152 layers, 60.2 million parameters."""

    blocks = (3, 8, 36, 3)
    bottleneck = True
