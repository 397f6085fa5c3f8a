"""Small residual networks for 32-pixel images, cheap enough for a laptop's CPU (He et al. 2016, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rnet.errors import UserError
from rnet.models.config import ModelConfig

BLOCKS_PER_STAGE = {"resnet8": 1, "resnet14": 2, "resnet20": 3}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        out_BCHW = self.bn2(self.conv2(out_BCHW))
        return F.relu(out_BCHW + self.shortcut(x_BCHW))


class SmallResNet(nn.Module):
    """Three stages of `width`, 2 * `width` and 4 * `width` channels; 6 * blocks_per_stage + 2 weighted layers.

    Takes normalised pixels (B, in_channels, H, W) of any size, returns logits (B, num_classes).
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16, blocks_per_stage: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(width, width, stride=1, blocks=blocks_per_stage)
        self.layer2 = _stage(width, 2 * width, stride=2, blocks=blocks_per_stage)
        self.layer3 = _stage(2 * width, 4 * width, stride=2, blocks=blocks_per_stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.relu(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = self.layer3(self.layer2(self.layer1(x_BCHW)))
        return self.fc(self.flatten(self.avgpool(x_BCHW)))


def small_resnet(*, num_classes: int, in_channels: int, config: ModelConfig) -> SmallResNet:
    """resnet8, resnet14 or resnet20, as config.name says, of config.width."""
    if config.width < 1:
        raise UserError(f"model.width={config.width} must be at least 1")
    return SmallResNet(num_classes, in_channels, config.width, BLOCKS_PER_STAGE[config.name])


def _stage(in_channels: int, out_channels: int, *, stride: int, blocks: int) -> nn.Sequential:
    """The first block changes width and resolution, the others keep them."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
