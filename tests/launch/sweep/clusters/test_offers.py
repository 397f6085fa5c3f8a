"""What scontrol says of sites of several kinds, and requests that no node of theirs could ever satisfy."""

from __future__ import annotations

from typing import Any

import pytest

from launch.sweep.clusters.offers import Offers, check_need, parse_gpus, parse_memory, parse_minutes, parse_nodes
from launch.sweep.clusters.offers import parse_partitions as partitions
from launch.sweep.clusters.options import need_of, own_options
from launch.sweep.plan.resources import Shape
from rnet.errors import UserError

NODES = """\
NodeName=c1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 AvailableFeatures=skylake,ib Gres=(null) OS=Linux 5.14 #1 SMP
NodeName=c1 CPUEfctv=62 CPUTot=64 AvailableFeatures=skylake,ib RealMemory=192000 State=IDLE Partitions=cpu,all
NodeName=g CPUTot=32 AvailableFeatures=a100 Gres=gpu:a100:4(S:0) RealMemory=510000 MemSpecLimit=10000 Partitions=all,gpu
NodeName=g2 CPUTot=16 AvailableFeatures=v100 Gres=gpu:v100:2,shard:8 RealMemory=96000 State=DOWN Partitions=gpu,all
NodeName=s CPUTot=32 RealMemory=96000 State=IDLE Partitions=shared,cloud
"""
PARTITIONS = """\
PartitionName=cpu AllowAccounts=ALL Default=YES MaxTime=2-00:00:00 MaxMemPerCPU=4000 MaxNodes=UNLIMITED
PartitionName=gpu Default=NO MaxTime=UNLIMITED State=UP MaxNodes=1 MaxMemPerNode=UNLIMITED AllowAccounts=lab,ops
PartitionName=all Default=NO MaxTime=30 MaxMemPerNode=64000 State=UP TotalCPUs=112 TotalNodes=3
PartitionName=cloud MaxTime=60 MaxCPUsPerNode=UNLIMITED TotalNodes=9
PartitionName=shared MaxCPUsPerNode=24 TotalNodes=1
"""
SITE = Offers(nodes=parse_nodes(NODES), partitions=partitions(PARTITIONS))


def check(shape: dict[str, Any], partition: str | None, own: dict[str, Any], **profile: Any) -> None:
    constraint = profile.pop("constraint", None)
    settings = {"memory_option": "mem", "gpu_type": None} | profile
    check_need(need_of("train", Shape(**shape), own_options(own), **settings), SITE, partition, constraint)


@pytest.mark.parametrize(
    ("shape", "partition", "own", "profile"),
    [
        ({"cpus": 62, "memory_gb": 187, "minutes": 2880}, None, {}, {}),
        ({"gpus": 1, "processes": 4, "cpus": 8, "memory_gb": 400}, "gpu", {}, {"gpu_type": "a100"}),
        ({"gpus": 1}, "cpu,gpu", {}, {}),
        ({"memory_gb": 9999}, None, {"mem": None}, {}),
        ({"memory_gb": 9999}, None, {"mem-per-cpu": "2G"}, {}),
        ({"memory_gb": 9999}, None, {}, {"memory_option": "none"}),
        ({"cpus": 99}, None, {"cpus-per-task": None, "mem-per-cpu": "2G"}, {}),
        ({"cpus": 999, "minutes": 9999}, "elsewhere", {}, {}),
        ({"minutes": 9999}, "all", {"time": "30"}, {}),
        ({"gpus": 1}, "gpu", {}, {"constraint": "a100|v100"}),
        ({}, "cpu", {"exclusive": True, "mem": "0"}, {}),
        ({"cpus": 24}, "shared", {}, {}),
        ({"cpus": 96, "gpus": 1, "nodes": 4}, "cloud", {}, {"constraint": "h100"}),  # its other nodes are not shown
    ],
)
def test_what_some_node_could_run_is_passed(
    shape: dict[str, Any], partition: str | None, own: dict[str, Any], profile: dict[str, Any]
) -> None:
    check(shape, partition, own, **profile)


@pytest.mark.parametrize(
    ("shape", "partition", "own", "profile", "words"),
    [
        ({"cpus": 63}, None, {}, {}, "resources.cpus=63 is more than any node of partition=cpu has, 62 CPUs"),
        ({"cpus": 8, "processes": 8}, None, {}, {}, "resources.cpus=8 for each of 8 processes is more .* 62 CPUs"),
        ({"memory_gb": 200}, None, {}, {}, "resources.memory_gb=200 is more .* 192000 MiB"),
        ({"memory_gb": 489}, "gpu", {}, {}, "resources.memory_gb=489 is more .* 500000 MiB"),
        ({}, None, {"mem": "1T"}, {}, "sbatch.mem=1T is more"),
        ({"gpus": 1}, None, {}, {}, "resources.gpus=1 is more .*partition=cpu has, 0 GPUs"),
        ({"gpus": 1, "processes": 8}, "gpu", {}, {}, "resources.gpus=1 for each of 8 processes is more .* 4 GPUs"),
        (
            {"gpus": 1},
            "gpu",
            {},
            {"gpu_type": "h100"},
            r"resources.gpus=1 .* 0 GPUs of type h100 \(there: a100, v100\)",
        ),
        ({}, "gpu", {"gres": "gpu:a100:8"}, {}, "sbatch.gres=gpu:a100:8 is more .* 4 GPUs of type a100"),
        ({}, "gpu", {"gpus-per-node": "v100:4"}, {}, "sbatch.gpus-per-node=v100:4 is more .* 2 GPUs of type v100"),
        ({}, None, {"cpus_per_task": "63"}, {}, "sbatch.cpus-per-task=63 is more than any node of partition=cpu has"),
        ({"cpus": 2}, "gpu", {"mem-per-cpu": "250G"}, {}, "sbatch.mem-per-cpu=250G for each of 2 CPUs is more"),
        ({"minutes": 2881}, None, {}, {}, "resources.minutes=2881 is above the limit of partition=cpu, 2880 minutes"),
        ({}, "all", {"time": "1:00:00"}, {}, "sbatch.time=1:00:00 is above the limit of partition=all, 30 minutes"),
        (
            {"memory_gb": 63, "minutes": 9},
            "all",
            {},
            {},
            "resources.memory_gb=63 is above the limit of partition=all, 64000 MiB",
        ),
        ({"cpus": 25}, "shared", {}, {}, "resources.cpus=25 is above the limit of partition=shared, 24 CPUs of a node"),
        ({"minutes": 61, "cpus": 96}, "cloud", {}, {}, "resources.minutes=61 is above the limit of partition=cloud"),
        ({"nodes": 2}, None, {}, {}, "resources.nodes=2 is more than partition=cpu has of such nodes, 1"),
        ({"nodes": 2}, "gpu", {}, {}, "resources.nodes=2 is more than partition=gpu has of such nodes, 1"),
        ({"gpus": 1, "memory_gb": 200}, "gpu", {}, {"gpu_type": "v100"}, "no node .*memory_gb=200, resources.gpus=1"),
        ({}, "gpu", {}, {"constraint": "h100"}, "constraint=h100 is a feature of no node .*; there are a100, v100"),
        ({"gpus": 1}, "cpu,all", {"time": "40"}, {}, "resources.gpus=1 is more than any node of partition=cpu"),
    ],
)
def test_what_no_node_could_run_is_named_with_stage_key_and_value(
    shape: dict[str, Any], partition: str | None, own: dict[str, Any], profile: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=f"^train: {words}"):
        check(shape, partition, own, **profile)


@pytest.mark.parametrize("text", ["", "MaxArraySize = 1001\n", "slurm_load_node error", "NodeName=c1", "=\n= =x a=="])
def test_a_site_that_does_not_tell_is_not_checked(text: str) -> None:
    offers = Offers(nodes=parse_nodes(text), partitions=partitions(text))
    check_need(need_of("train", Shape(cpus=999), {}, "mem", None), offers, None, "x")


def test_gpus_memory_and_times_are_read_as_slurm_writes_them() -> None:
    gres = {
        "": {}, "(null)": {}, "gpu:2": {"": 2}, "gpu": {"": 1}, "gpu:a100": {"a100": 1}, "shard:8,mps:400": {},
        "gpu:" + "9" * 5000: {"9" * 5000: 1},
        "gpu:a100:4(S:0,1),gpu:1g.10gb:7,craynetwork:4": {"a100": 4, "1g.10gb": 7},
    }  # fmt: skip
    assert {text: parse_gpus(text) for text in gres} == gres
    sizes = {"4000": 4000, "4G": 4096, "2T": 2 * 1024**2, "500M": 500, "2048K": 2, "0": None, "x": None, "4GB": 4096}
    assert {text: parse_memory(text) for text in sizes} == sizes
    times = {"UNLIMITED": None, "30": 30, "2-00:00:00": 2880, "01:30:00": 90, "NONE": None, "1-12": 36 * 60}
    assert {text: parse_minutes(text) for text in times} == times
