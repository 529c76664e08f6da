"""Usable cores: affinity, and the quota of the own cgroup and of those above it, v1 and v2, in containers too."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rrrnet import processor
from rrrnet.processor import Threads, cpu_groups, quota_cores, threads

Proc = Callable[..., Path]
V1 = "29 23 0:26 {root} {top} rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "30 23 0:27 {root} {top} rw,nosuid shared:4 master:2 - cgroup2 cgroup2 rw,nsdelegate"
OTHERS = (
    "23 1 0:21 / /proc rw - proc proc rw",
    "31 23 0:28 / {top} rw - cgroup cgroup rw,memory",
    "32 23 0:29 / {top} rw - cgroup cgroup rw,name=systemd",
    "33 23 0:30 / {top} rw - cgroup cgroup rw,cpuset",
)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """A function that writes what the kernel tells of a process, and limits: folder below the mount -> file -> text."""

    def write(own: str, mount: str, limits: Mapping[str, Mapping[str, str]], root: str = "/") -> Path:
        top, told = tmp_path / "sys", tmp_path / "proc"
        for folder, files in limits.items():
            (top / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (top / folder / name).write_text(f"{text}\n")
        told.mkdir()
        (told / "cgroup").write_text(f"9:memory:/elsewhere\n8:cpuset:/\n{own}\n1:name=systemd:/elsewhere\n")
        lines = (line.format(root=root, top=top) for line in (*OTHERS[:2], mount, *OTHERS[2:]))
        (told / "mountinfo").write_text("\n".join(lines) + "\n")
        return told

    return write


def v1(quota: object, period: object = 100_000) -> dict[str, str]:
    return {"cpu.cfs_quota_us": str(quota), "cpu.cfs_period_us": str(period)}


def v2(text: str) -> dict[str, str]:
    return {"cpu.max": text}


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("100001 100000", 2),
        ("100000 100000", 1),
        ("1000 100000", 1),
        ("50000 25000", 2),
        ("max 100000", None),
        ("max", None),
        ("0 100000", None),
        ("100000 0", None),
        ("-1 100000", None),
        ("1.5 1", None),
        ("# 100000 100000", None),
        ("100000", None),
        ("", None),
    ],
)
def test_cpu_max_of_v2_is_rounded_up_and_limits_nothing_where_it_is_no_limit(
    proc: Proc, text: str, cores: int | None
) -> None:
    assert quota_cores(proc("0::/pods/mine", V2, {"pods/mine": v2(text)})) == cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (v1(150_000), 2),
        (v1(400_000), 4),
        (v1(1_000), 1),
        (v1(25_000, 10_000), 3),
        (v1(-1), None),
        (v1("none"), None),
        (v1(100_000, "# period"), None),
        ({"cpu.cfs_quota_us": "100000"}, None),
        ({"cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_quota_and_period_of_v1_are_rounded_up_and_minus_one_limits_nothing(
    proc: Proc, files: dict[str, str], cores: int | None
) -> None:
    assert quota_cores(proc("4:cpu,cpuacct:/pods/mine", V1, {"pods/mine": files})) == cores


@pytest.mark.parametrize(
    ("own", "mount", "limit"),
    [
        ("0::/pods/pod/mine", V2, lambda cores: v2(f"{cores}00000 100000")),
        ("4:cpu:/pods/pod/mine", V1, lambda cores: v1(f"{cores}00000")),
    ],
)
def test_the_smallest_limit_on_the_way_up_counts_and_no_other_groups(
    proc: Proc, own: str, mount: str, limit: Callable[[int], dict[str, str]]
) -> None:
    limits = {"": limit(32), "pods": limit(8), "pods/pod": limit(3), "pods/pod/mine": limit(4)}
    told = proc(own, mount, {**limits, "pods/pod/mine/below": limit(1), "pods/other": limit(1), "elsewhere": limit(1)})
    assert quota_cores(told) == 3


@pytest.mark.parametrize(("own", "mount"), [("0::{group}", V2), ("4:cpu,cpuacct:{group}", V1)])
@pytest.mark.parametrize(
    ("group", "root"),
    [
        ("/", "/"),  # a namespace of cgroups of its own
        ("/docker/a1b2", "/docker/a1b2"),  # the mount shows the own group alone
        ("/docker/a1b2", "/"),  # it does, and does not say so
        ("/docker/a1b2", "/docker/a1"),  # another group's name begins like it
        ("/docker/a1b2", "/.."),  # mounted outside of the namespace
        ("/../a1b2", "/"),
    ],
)
def test_in_a_container_whose_mount_has_the_own_group_as_root_its_limit_is_found(
    proc: Proc, own: str, mount: str, group: str, root: str
) -> None:
    told = proc(own.format(group=group), mount, {"": v2("250000 100000") | v1(250_000)}, root)
    assert quota_cores(told) == 3


def test_a_mount_of_a_part_of_the_tree_leads_to_the_group_in_it(proc: Proc, tmp_path: Path) -> None:
    told = proc("0::/kube pods/pod/mine", V2, {"pod/mine": v2("200000 100000")}, root=r"/kube\040pods")
    assert quota_cores(told) == 2
    assert list(cpu_groups(told)) == [tmp_path / "sys" / name for name in ("pod/mine", "pod", "")]


def test_of_both_versions_at_once_the_smaller_limit_counts(proc: Proc, tmp_path: Path) -> None:
    told = proc("4:cpu:/mine\n0::/unified", f"{V1}\n{V2}", {"mine": v1(400_000), "unified": v2("max 100000")})
    assert quota_cores(told) == 4
    (tmp_path / "sys" / "unified" / "cpu.max").write_text("90000 100000\n")
    assert quota_cores(told) == 1


@pytest.mark.parametrize("damage", ["", "\n\n", "nonsense", "0::", "30 23 - cgroup2", " - ", "\x00\xff"])
def test_what_cannot_be_understood_or_is_missing_limits_nothing(tmp_path: Path, damage: str) -> None:
    assert quota_cores(tmp_path / "none") is None
    for name in ("cgroup", "mountinfo"):
        (tmp_path / name).write_text(damage, encoding="latin-1")
        assert quota_cores(tmp_path) is None


def test_usable_cores_are_the_fewer_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    found = {}
    for quota in (None, 1, 2, 8, 64):
        monkeypatch.setattr(processor, "quota_cores", lambda quota=quota: quota)
        found[quota] = (processor.cores(), threads())
    assert processor.affinity() == 8
    assert found == {
        None: (8, Threads(8, exact=False)),
        1: (1, Threads(1, exact=True)),
        2: (2, Threads(2, exact=True)),
        8: (8, Threads(8, exact=False)),
        64: (8, Threads(8, exact=False)),
    }


def test_what_is_asked_for_is_exact_and_networks_side_by_side_get_a_share_each() -> None:
    assert threads(3) == Threads(3, exact=True)
    assert [Threads(8, exact=False).shared(networks) for networks in (1, 3, 8, 9)] == [
        Threads(count, exact=True) for count in (8, 2, 1, 1)
    ]
