"""The data sets by name."""

from rnet.data.config import (
    CelebAConfig,
    CIFAR10Config,
    DatasetConfig,
    DigitsConfig,
    FashionMNISTConfig,
    GTSRBConfig,
    ImageFolderConfig,
    LFWConfig,
)
from rnet.registry import Registry

DATASETS = Registry(
    "dataset",
    DatasetConfig,
    {
        "celeba": (CelebAConfig, "rnet.data.datasets.celeba:load_celeba"),
        "cifar10": (CIFAR10Config, "rnet.data.datasets.cifar10:load_cifar10"),
        "digits": (DigitsConfig, "rnet.data.datasets.digits:load_digits"),
        "fashion_mnist": (FashionMNISTConfig, "rnet.data.datasets.fashion_mnist:load_fashion_mnist"),
        "gtsrb": (GTSRBConfig, "rnet.data.datasets.gtsrb:load_gtsrb"),
        "image_folder": (ImageFolderConfig, "rnet.data.datasets.image_folder:load_image_folder"),
        "lfw": (LFWConfig, "rnet.data.datasets.lfw:load_lfw"),
    },
)
