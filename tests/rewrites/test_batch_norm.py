"""Global batch norm: two processes with shards against torch's own batch norm in one process with the whole batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from rnet.cutting.split import SplitModel
from rnet.errors import UserError
from rnet.models.resnet import SmallResNet
from rnet.rewrites.activation_checkpointing import checkpoint_activations
from rnet.rewrites.batch_norm import GlobalBatchNorm, quick_statistics, use_global_batch_norm, use_local_batch_norm
from tests.parallel.two_ranks import Case, failures

STEPS = 3
SHARDS = {"even": (4, 4), "uneven": (5, 3), "empty on one rank": (8, 0)}
LAYOUTS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], torch.memory_format]] = {
    "1d": (nn.BatchNorm1d, (), torch.contiguous_format),
    "sequences": (nn.BatchNorm1d, (7,), torch.contiguous_format),
    "2d": (nn.BatchNorm2d, (5, 6), torch.contiguous_format),
    "2d channels_last": (nn.BatchNorm2d, (5, 6), torch.channels_last),
    "3d": (nn.BatchNorm3d, (3, 4, 5), torch.contiguous_format),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cumulative": {"momentum": None},
    "without weights": {"affine": False},
    "without bias": {"bias": False},
    "without running statistics": {"track_running_stats": False},
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
C = 6


def agrees_with_one_process(
    rank: int, layout: str, shards: str, setting: str, dtype: torch.dtype, device: str = "cpu"
) -> None:
    """Output, gradients and running statistics of several steps, in which the weights move."""
    build, spatial, memory_format = LAYOUTS[layout]
    arguments = dict(SETTINGS[setting])
    has_bias = arguments.pop("bias", True)  # torch 2.11 has no such argument
    whole = build(C, dtype=dtype, device=device, **arguments)
    if not has_bias:
        whole.register_parameter("bias", None)
    for parameter in whole.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    model = nn.Sequential(copy.deepcopy(whole))
    use_global_batch_norm(model)
    same = partial(torch.testing.assert_close, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    start = sum(SHARDS[shards][:rank])
    mine = slice(start, start + SHARDS[shards][rank])
    for _ in range(STEPS):
        x, dy = (torch.randn(8, C, *spatial, dtype=dtype) for _ in range(2))
        x = (3 * x + torch.arange(8).view(-1, *[1] * (x.dim() - 1))).to(device, memory_format=memory_format)
        dy = dy.to(device)
        x_whole, x_mine = x.clone().requires_grad_(), x[mine].clone(memory_format=memory_format).requires_grad_()
        y_whole, y_mine = whole(x_whole), model(x_mine)
        same(y_mine, y_whole[mine])
        assert y_mine.dtype == dtype
        assert y_mine.is_contiguous(memory_format=memory_format)
        y_whole.backward(dy)
        y_mine.backward(dy[mine])
        same(x_mine.grad, x_whole.grad[mine])
        for expected, parameter in zip(whole.parameters(), model.parameters(), strict=True):
            gradient = parameter.grad.clone()
            dist.all_reduce(gradient)
            same(gradient, expected.grad, atol=10 * TOLERANCE[dtype])  # sums of up to 480 values
            with torch.no_grad():
                for moved in (parameter, expected):
                    moved -= 0.01 * expected.grad
                    moved.grad = None
        for expected, buffer in zip(whole.buffers(), model.buffers(), strict=True):
            same(buffer, expected)
            of_all = [torch.empty_like(buffer) for _ in range(2)]
            dist.all_gather(of_all, buffer)
            assert torch.equal(*of_all)


def large_means_do_not_cancel(rank: int) -> None:
    """Values around 1000 on one rank and 1001 on the other: E[x^2] - E[x]^2 has hardly a digit left in float32."""
    norm = nn.Sequential(nn.BatchNorm2d(C, momentum=1.0))
    use_global_batch_norm(norm)
    values = torch.randn(2, 4, C, 5, 5) * 0.01 + torch.tensor([1000.0, 1001.0]).view(2, 1, 1, 1, 1)
    norm(values[rank])
    exact = values.flatten(0, 1).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm[0].running_var.double(), exact.var(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm[0].running_mean.double(), exact.mean(1), rtol=1e-7, atol=0)


def bfloat16_keeps_float32_statistics(rank: int) -> None:
    model = nn.Sequential(nn.Linear(C, C), nn.BatchNorm1d(C, momentum=1.0))
    reference = copy.deepcopy(model)
    use_global_batch_norm(model)
    x, dy = torch.randn(64, C) + 5, torch.randn(64, C, dtype=torch.bfloat16)
    mine = slice(32 * rank, 32 * rank + 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected, inner = model(x[mine]), reference(x)[mine], reference[0](x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert model[1].running_var.dtype == torch.float32
    torch.testing.assert_close(model[1].running_mean.double(), inner.double().mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), inner.double().var(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
    y.backward(dy[mine])
    assert model[0].weight.grad.dtype == torch.float32


def one_collective_each_way(rank: int) -> None:
    model = nn.Sequential(nn.BatchNorm2d(C), nn.BatchNorm2d(C))
    use_global_batch_norm(model)
    names = [name for name in dir(dist) if name.startswith(("all_", "reduce", "broadcast", "gather", "send"))]
    called: list[str] = []

    def counted(name: str) -> Any:
        original = getattr(dist, name)
        return mock.patch.object(dist, name, side_effect=lambda *a, **k: called.append(name) or original(*a, **k))

    patches = [counted(name) for name in names if callable(getattr(dist, name))]
    for patch in patches:
        patch.start()
    try:
        model(torch.randn(4, C, 3, 3)).square().sum().backward()
        assert sorted(called) == ["all_gather"] * 2 + ["all_reduce"]  # the first norm's input wants no gradient
        called.clear()
        model.eval()(torch.randn(4, C, 3, 3, requires_grad=True)).sum().backward()
        assert called == []
    finally:
        for patch in patches:
            patch.stop()


def eval_mode_is_ordinary_batch_norm(rank: int) -> None:
    norm = nn.BatchNorm2d(C)
    for tensor in (norm.running_mean, norm.running_var, *norm.parameters()):
        nn.init.uniform_(tensor, 0.5, 1.5)
    model = nn.Sequential(norm).eval()
    x = torch.randn(3, C, 4, 4)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    use_global_batch_norm(model)
    assert isinstance(norm, GlobalBatchNorm)
    assert torch.equal(model(x), expected)
    assert norm.num_batches_tracked == 0


def only_the_class_changes(rank: int) -> None:
    model = SmallResNet(5, width=4)
    model.layer2.eval()
    seen: list[str] = []
    model.bn1.register_forward_hook(lambda *_: seen.append("norm"))
    model.conv1.register_forward_hook(lambda *_: seen.append("conv"))
    before = dict(model.state_dict(keep_vars=True))
    classes = {name: type(module) for name, module in model.named_modules()}
    modes = {name: module.training for name, module in model.named_modules()}
    use_global_batch_norm(model)
    use_global_batch_norm(model)  # a second call finds nothing to do
    assert {name for name, m in model.named_modules() if type(m) is not classes[name]} == {
        name for name, kind in classes.items() if kind is nn.BatchNorm2d
    }
    twin = copy.deepcopy(model)
    assert type(twin.bn1) is GlobalBatchNorm
    for changed in (model, twin):
        after = dict(changed.state_dict(keep_vars=True))
        assert list(after) == list(before)
        assert all((after[name] is before[name]) == (changed is model) for name in before)
        assert {name: module.training for name, module in changed.named_modules()} == modes
        with pytest.raises(ValueError, match="expected 4D input"):
            changed.bn1(torch.randn(2, 4))
        changed(torch.randn(2, 3, 8, 8))
        use_local_batch_norm(changed)
        assert {name: type(module) for name, module in changed.named_modules()} == classes
        assert not any("process_group" in vars(module) or "local_class" in vars(module) for module in changed.modules())
    assert seen == ["conv", "norm"] * 2
    assert int(model.bn1.num_batches_tracked) == 1


def network_trains_as_in_one_process(rank: int) -> None:
    """An optimizer and a cut that were made before the replacement; three steps in float64."""
    whole = SmallResNet(5, width=4).double()
    model = copy.deepcopy(whole)
    split, early_split = (lambda: SplitModel(model, "layer1")), SplitModel(model, "layer2")
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (whole, model)]
    use_global_batch_norm(model)
    mine = slice(4 * rank, 4 * rank + 4)
    for step in range(STEPS):
        x, labels = torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.randint(5, (8,))
        expected = whole(x)
        F.cross_entropy(expected, labels).backward()
        logits, z = (early_split if step % 2 else split())(x[mine], return_features=True)
        torch.testing.assert_close(logits, expected[mine], rtol=1e-10, atol=1e-10)
        assert z.shape[0] == 4
        F.cross_entropy(logits, labels[mine]).backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=1e-10)


def recomputed_blocks_count_statistics_once(rank: int, device: str = "cpu") -> None:
    """Global batch norm in blocks under activation checkpointing: the same bits as without."""
    start = SmallResNet(5, width=4, blocks_per_stage=2).to(device)
    x = torch.randn(8, 3, 8, 8).to(device)
    found = []
    for recompute in (False, True):
        model = copy.deepcopy(start)
        use_global_batch_norm(model)
        if recompute:
            assert len(checkpoint_activations(model)) == 6
        split = SplitModel(model, "layer1")
        for _ in range(2):
            logits, z = split(x[4 * rank : 4 * rank + 4], return_features=True)
            (logits.square().sum() + z.square().mean()).backward()
        found.append([p.grad for p in model.parameters()] + list(model.buffers()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert int(model.layer3[1].bn2.num_batches_tracked) == 2


def other_classes_of_batch_norm(rank: int) -> None:
    """timm's norm with activation and torch's SyncBatchNorm are taken over; one with its own forward() is refused."""
    from timm.layers import BatchNormAct2d

    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return input

    class Renamed(nn.BatchNorm2d):
        pass

    x = torch.randn(8, C, 3, 3)
    for norm in (BatchNormAct2d(C, act_layer=nn.ReLU), nn.SyncBatchNorm(C), Renamed(C)):
        model = nn.Sequential(norm)
        expected = F.batch_norm(x, None, None, training=True)[4 * rank : 4 * rank + 4]
        use_global_batch_norm(model)
        y = model(x[4 * rank : 4 * rank + 4])
        torch.testing.assert_close(y, expected.relu() if hasattr(norm, "act") else expected, rtol=1e-5, atol=1e-5)
        use_local_batch_norm(model)
        assert type(norm) in (BatchNormAct2d, nn.SyncBatchNorm, Renamed)
    mixed = nn.Sequential(nn.BatchNorm2d(C), nn.Sequential(Own(C)))
    with pytest.raises(UserError, match=r"'1\.0' is a Own"):
        use_global_batch_norm(mixed)
    assert type(mixed[0]) is nn.BatchNorm2d


def one_value_per_channel_is_refused(rank: int) -> None:
    model = nn.Sequential(nn.BatchNorm1d(C))
    use_global_batch_norm(model)
    with pytest.raises(UserError, match="more than one value per channel in the global batch, got 1"):
        model(torch.randn(1 - rank, C))
    assert model[0].num_batches_tracked == 0
    assert model(torch.randn(1, C)).isfinite().all()  # two ranks, one value each


NUMERICS: dict[str, Case] = {
    f"{layout}, {shards}, {setting}, {dtype}": partial(
        agrees_with_one_process, layout=layout, shards=shards, setting=setting, dtype=dtype
    )
    for layout, shards, setting, dtype in (
        *itertools.product(LAYOUTS, SHARDS, ["plain"], TOLERANCE),
        *itertools.product(["2d"], ["uneven"], [name for name in SETTINGS if name != "plain"], TOLERANCE),
    )
}
CASES: dict[str, Case] = NUMERICS | {
    case.__name__.replace("_", " "): case
    for case in (
        large_means_do_not_cancel,
        bfloat16_keeps_float32_statistics,
        one_collective_each_way,
        eval_mode_is_ordinary_batch_norm,
        only_the_class_changes,
        network_trains_as_in_one_process,
        recomputed_blocks_count_statistics_once,
        other_classes_of_batch_norm,
        one_value_per_channel_is_refused,
    )
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What failed in two processes, by case."""
    return failures(CASES, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_on_two_processes(case: str, failed: dict[str, str]) -> None:
    assert case not in failed, failed[case]


def test_one_process_keeps_its_batch_norm() -> None:
    model = nn.Sequential(nn.BatchNorm2d(C))
    use_global_batch_norm(model)
    assert type(model[0]) is nn.BatchNorm2d
    use_local_batch_norm(model)
    assert type(model[0]) is nn.BatchNorm2d


# --- CUDA: SyncBatchNorm, with both processes on one device ----------------------------------------------------------


def cuda_norms_become_sync_batch_norm(rank: int) -> None:
    from timm.layers import BatchNormAct2d, SyncBatchNormAct

    model = nn.Sequential(nn.BatchNorm2d(C), BatchNormAct2d(C)).cuda()
    use_global_batch_norm(model)
    assert [type(module) for module in model] == [nn.SyncBatchNorm, SyncBatchNormAct]
    assert (copy.deepcopy(model)(torch.randn(4, C, 3, 3).cuda()) >= 0).all()
    use_local_batch_norm(model)
    assert [type(module) for module in model] == [nn.BatchNorm2d, BatchNormAct2d]


CUDA_CASES: dict[str, Case] = {
    f"{layout}, {shards}, {setting}": partial(
        agrees_with_one_process, layout=layout, shards=shards, setting=setting, dtype=torch.float64, device="cuda"
    )
    for layout, shards, setting in itertools.product(LAYOUTS, ("even", "uneven"), ("plain", "cumulative"))
} | {
    "classes": cuda_norms_become_sync_batch_norm,
    "recomputed blocks": partial(recomputed_blocks_count_statistics_once, device="cuda"),
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sync_batch_norm_on_cuda(tmp_path: Path) -> None:
    assert failures(CUDA_CASES, tmp_path) == {}


def slow_network() -> nn.Sequential:
    """MNASNet's momentum, torch's own, none, and statistics that are not kept."""
    return nn.Sequential(
        nn.BatchNorm1d(C, momentum=0.0003), nn.BatchNorm1d(C), nn.BatchNorm1d(C, momentum=None),
        nn.BatchNorm1d(C, momentum=0.0003, track_running_stats=False),
    )  # fmt: skip


@pytest.mark.parametrize(("num_steps", "expected"), [(1, 0.1), (200, 0.1), (2_000, 0.01), (100_000, 0.0003)])
def test_running_statistics_keep_up_with_a_training(num_steps: int, expected: float) -> None:
    model = slow_network()
    with quick_statistics(model, num_steps) as changed:
        assert [norm.momentum for norm in model] == [pytest.approx(expected), 0.1, None, 0.0003]
        assert bool(changed) == (expected > 0.0003)
        for _ in range(num_steps if num_steps < 1_000 else 0):
            model(torch.randn(64, C) * 3 + 5)
    if num_steps == 200:
        assert changed == (
            "running statistics of batch norms (1 of 3) go back over 10 steps, not 3,333, as the run has only 200"
        )
        torch.testing.assert_close(model[0].running_mean, torch.full((C,), 5.0), rtol=0.1, atol=0)
        torch.testing.assert_close(model[0].running_var, torch.full((C,), 9.0), rtol=0.3, atol=0)
    assert [norm.momentum for norm in model] == [0.0003, 0.1, None, 0.0003]
