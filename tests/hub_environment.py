"""The Hub's client reads its environment when it is imported: so `conftest.py` imports this before anything else.

In all tests the Hub is `tests/hub_server.py` on a local port that refuses connections until a test asks for
the fixture `hub`, and the cache is a folder of this run.
"""

import atexit
import os
import shutil
import socket
import tempfile

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    HUB_PORT = free.getsockname()[1]
HOME = tempfile.mkdtemp(prefix="hubmodels-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

for name in [name for name in os.environ if name.startswith("HF_")]:
    del os.environ[name]
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": HOME,
    "HF_HUB_DISABLE_XET": "1",  # tested in a process of its own
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
