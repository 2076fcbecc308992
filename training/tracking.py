"""A job's log: one JSON line per epoch, and an accelerate tracker where one is asked for by name."""

import json
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

LOG_FILE = "training_log.jsonl"


class JobLog:
    """Writes records of plain numbers, each with its `epoch`; a resumed job drops what it will do again.

    Args:
        tracker: name of an accelerate tracker, or None. Each job is a run of its own.

    Raises:
        ValueError: no such tracker, or its package is not installed.
    """

    def __init__(self, job_name: str, folder: Path, tracker: str | None, first_epoch: int) -> None:
        path = folder / LOG_FILE
        kept = path.read_text().splitlines()[:first_epoch] if path.is_file() else []
        self._file = path.open("w")
        self._file.writelines(line + "\n" for line in kept)
        self._tracker = make_tracker(tracker, job_name, folder.parent.parent / "tracking") if tracker else None

    def write(self, record: dict[str, float]) -> None:
        """Appends one epoch's record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._tracker is not None:
            self._tracker.log({k: v for k, v in record.items() if k != "epoch"}, step=record["epoch"])

    def close(self) -> None:
        """Ends the file and the tracker's run."""
        self._file.close()
        if self._tracker is not None:
            self._tracker.finish()


def make_tracker(name: str, run_name: str, folder: Path) -> GeneralTracker:
    """The accelerate tracker of that name, logging on this process."""
    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"unknown tracker {name!r}: choose one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    tracker_class = LOGGER_TYPE_TO_CLASS[name]
    tracker_class.main_process_only = False  # jobs run on every process
    try:
        if tracker_class.requires_logging_directory:
            tracker = tracker_class(run_name, logging_dir=folder)
        else:
            tracker = tracker_class(run_name)
        tracker.start()
    except ImportError as error:
        raise ValueError(f"the tracker {name} needs its package: pip install {name}") from error
    return tracker
