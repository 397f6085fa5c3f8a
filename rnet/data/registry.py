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
from rnet.data.datasets.config import (
    BCN20000Config,
    CINIC10Config,
    HAM10000Config,
    HuggingFaceConfig,
    ImageNetConfig,
    TSRDConfig,
    VGGFace2Config,
    WebDatasetConfig,
)
from rnet.registry import Registry

_LISTED = "rnet.data.listed:load_listed"

DATASETS = Registry(
    "dataset",
    DatasetConfig,
    {
        "bcn20000": (BCN20000Config, _LISTED),
        "celeba": (CelebAConfig, "rnet.data.datasets.celeba:load_celeba"),
        "cifar10": (CIFAR10Config, "rnet.data.datasets.cifar10:load_cifar10"),
        "cinic10": (CINIC10Config, _LISTED),
        "digits": (DigitsConfig, "rnet.data.datasets.digits:load_digits"),
        "fashion_mnist": (FashionMNISTConfig, "rnet.data.datasets.fashion_mnist:load_fashion_mnist"),
        "gtsrb": (GTSRBConfig, "rnet.data.datasets.gtsrb:load_gtsrb"),
        "ham10000": (HAM10000Config, _LISTED),
        "huggingface": (HuggingFaceConfig, "rnet.data.datasets.huggingface:load_huggingface"),
        "image_folder": (ImageFolderConfig, _LISTED),
        "imagenet": (ImageNetConfig, _LISTED),
        "lfw": (LFWConfig, "rnet.data.datasets.lfw:load_lfw"),
        "tsrd": (TSRDConfig, _LISTED),
        "vggface2": (VGGFace2Config, _LISTED),
        "webdataset": (WebDatasetConfig, "rnet.data.datasets.webdataset:load_webdataset"),
    },
)
