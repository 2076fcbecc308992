"""The Hub's client reads its environment when it is imported: so `conftest.py` imports this before anything else.

torch too reads its number of threads when it is imported.

In all tests the Hub is `tests/hub_server.py` on a local port that refuses connections until a test asks for
the fixture `hub`, and the cache is a folder of this run. Each process of `pytest -n` has its own of both.
"""

import atexit
import contextlib
import os
import random
import shutil
import socket
import sys
import tempfile


def free_port() -> int:
    """A port for later use. The system gives ports of this range to nobody, as it would to another test process."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


HUB_PORT = free_port()
HOME = tempfile.mkdtemp(prefix="hubmodels-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

for name in [name for name in os.environ if name.startswith("HF_") or name == "PYTHONDONTWRITEBYTECODE"]:
    del os.environ[name]
sys.dont_write_bytecode = False  # a hundred processes import the same modules, and each would compile them
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": HOME,
    "HF_HUB_DISABLE_XET": "1",  # tested in a process of its own
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",  # tensors are tiny, and another test runs on each core
}
