"""What is kept in memory for nothing, and how that is told to the libraries that keep it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kdtoolkit.memory import KERNEL_CACHES, KERNELS, give_back, keep_few_kernels
from kdtoolkit.processor import multiplies_bf16


def test_what_the_environment_says_of_kernels_stays_as_it_is(monkeypatch):
    first, second = KERNEL_CACHES
    monkeypatch.setenv(first, "7")
    monkeypatch.delenv(second, raising=False)
    keep_few_kernels()
    try:
        assert (os.environ[first], os.environ[second]) == ("7", str(KERNELS))
    finally:
        os.environ.pop(second)


GROWTH = """
import sys, torch
from kdtoolkit.memory import give_back, keep_few_kernels
if sys.argv[1] == "few":
    keep_few_kernels()
torch.set_num_threads(1)
def anonymous():
    give_back()
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
layers = [torch.nn.Linear(256, 256).bfloat16(), torch.nn.Linear(256, 512).bfloat16()]
with torch.no_grad():
    def call(rows):
        for layer in layers:
            layer(torch.ones(rows, 256, dtype=torch.bfloat16))
    for rows in range(1, 80):
        call(rows)
    before = anonymous()
    for rows in range(80, 480):
        call(rows)
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.skipif(not multiplies_bf16(), reason="no kernels are compiled where bfloat16 is not multiplied")
def test_batches_of_many_sizes_do_not_leave_a_kernel_each():
    clean = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}

    def grown(how: str) -> int:
        command = [sys.executable, "-c", GROWTH, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout)

    few, all_ = grown("few"), grown("all")
    assert few < all_ / 3, (few, all_)


def test_giving_back_is_harmless_where_there_is_nothing():
    give_back()
    give_back()
