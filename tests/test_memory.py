import subprocess
import sys

import pytest

from tfcodec import memory

FAULTS = """
import resource
from tfcodec import memory
{before}
def fill():
    b"x" * 2**26
for _ in range(4):
    fill()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_used_again_without_new_pages():
    plain, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(before=line)],
                stdout=subprocess.PIPE, check=True,
            ).stdout
        )
        for line in ("", "memory.keep_freed() or print(0) or exit()")
    )  # fmt: skip
    assert plain > 100  # pages of 4 KiB or huge ones
    assert kept < plain / 10


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_who_has_set_up_malloc_is_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert not memory.keep_freed.__wrapped__()
