"""Freed memory stays with the process: a page is zeroed once and not at every step."""

import subprocess
import sys

import pytest

PAGES = """
import resource, sys
if sys.argv[1] == "kept":
    from fasttrain.machine.allocator import keep_pages
    assert keep_pages()
import torch
def round_():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 << 20)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):  # until the heap has a place for it between its small pieces
    round_()
print(round_())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's malloc can be set")
def test_a_tensor_as_large_as_the_last_takes_no_new_pages():
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", PAGES, how]))
        for how in ("kept", "as usual")
    }
    assert faults["kept"] < 200
    assert faults["as usual"] > 5000  # the control: 5 times 16,384 pages, or fewer huge ones
