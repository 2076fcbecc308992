"""Measurements that take too long for a test; start them in the root of the clone with `python -m benchmarks.NAME`."""

import sys
from pathlib import Path

# The slow, explicit forms that some benchmarks compare with, and a server for the demo, belong to the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
