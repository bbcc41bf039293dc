"""Sets the order of test files, the threads of TensorFlow, and garbage collection."""

import gc
import os

import pytest

# The graphs of tests are many small operations. Passing one from thread to thread takes
# longer than running it, and threads that wait take time from the other test process.
THREADS = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
for variable in THREADS:
    os.environ.setdefault(variable, "1")

# As `train.py` has it: a tenth of the time that graphs take to make.
gc.set_threshold(50_000)

# Those that take longest, longest first: what begins last should be short, or one of
# two processes waits for the other. xdist would begin with those of most tests.
LONGEST = (
    "architectures", "training", "notebooks", "serving", "realism", "strategies",
    "codec", "golden", "literature", "shipped", "rans", "format", "fuzz", "evaluation",
    "litert", "data", "losses", "speed", "layers", "manners", "accelerate", "demo",
    "entropy", "history", "cli",
)  # fmt: skip
RANK = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: RANK.get(item.path.stem, len(RANK)))
