"""EfficientNets under the names of EfficientNet-PyTorch (efficientnet_pytorch, efficientnet_lite_pytorch) as timm's.

Both build the same layers in the same order: timm numbers blocks within stages, EfficientNet-PyTorch all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_IN_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
_IN_FIRST = {**_IN_BLOCK, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""In blocks that do not expand their channels, as those of the first stage."""
_NAME = re.compile(r"(?:(?P<before>.+?)\.)??(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_[a-z]+_?[a-z0-9]*)\.(?P<what>\w+)")


def timm_names(theirs: Collection[str], own: Collection[str]) -> Mapping[str, str]:
    """{name in the file: timm's name}; empty unless the file's names are EfficientNet-PyTorch's, and own are timm's.

    What stands before the names stays.
    """
    if "conv_stem.weight" not in own or not any(name.endswith("_conv_stem.weight") for name in theirs):
        return {}
    blocks = list(dict.fromkeys(found[0] for name in own if (found := re.match(r"blocks\.\d+\.\d+", name))))
    renamed = {}
    for name in theirs:
        if (match := _NAME.fullmatch(name)) is None:
            continue
        place, names = "", _AROUND
        if match["block"] is not None:
            if int(match["block"]) >= len(blocks):
                continue
            place = blocks[int(match["block"])]
            names = _IN_BLOCK if f"{place}.conv_pwl.weight" in own else _IN_FIRST
        if match["layer"] in names:
            parts = (match["before"], place, names[match["layer"]], match["what"])
            renamed[name] = ".".join(filter(None, parts))
    return renamed
