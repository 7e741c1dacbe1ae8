"""Freed memory stays with the process: a page is zeroed once and not at every step."""

import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from fasttrain.machine.allocator import keep_pages
def round_():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 << 20)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
as_usual = round_()
assert keep_pages()
for _ in range(4):  # until the heap has a place for it between its small pieces
    round_()
print(round_(), as_usual)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's malloc can be set")
def test_a_tensor_as_large_as_the_last_takes_no_new_pages():
    said = subprocess.check_output([sys.executable, "-c", PAGES], text=True)
    kept, as_usual = map(int, said.split())
    assert kept < 200
    assert as_usual > 5000  # the control: 5 times 16,384 pages, or fewer huge ones
