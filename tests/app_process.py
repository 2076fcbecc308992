"""The app in a process of its own."""

import time
import urllib.request


def wait_for(url, process, log):
    """The address, when the app answers there; fails with what it wrote where it ended or stays silent."""
    for _ in range(1500):
        assert process.poll() is None, log.read_text()[-5000:]
        try:
            urllib.request.urlopen(url, timeout=5)
            return url
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the app does not answer: {log.read_text()[-5000:]}")
