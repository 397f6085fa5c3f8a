"""rnet's own models by name; zoo.py also knows those of torchvision and timm."""

from rnet.models.config import ModelConfig
from rnet.registry import Registry

MODELS = Registry(
    "model",
    ModelConfig,
    {
        "resnet8": (ModelConfig, "rnet.models.resnet:small_resnet"),
        "resnet14": (ModelConfig, "rnet.models.resnet:small_resnet"),
        "resnet20": (ModelConfig, "rnet.models.resnet:small_resnet"),
    },
    open_ended=True,
)
