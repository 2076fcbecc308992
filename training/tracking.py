"""A job's log: one JSON line per epoch, and an accelerate tracker where one is asked for by name."""

import json
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from training.jobs import Job

LOG_FILE = "training_log.jsonl"


class JobLog:
    """Writes records of plain numbers, each with its `epoch`; a resumed job drops what it will do again.

    Args:
        first_epoch: records up to this epoch are kept.
        writes: False on processes that share the job with the one that writes.

    Raises:
        ValueError: no such tracker, or its package is not installed.
    """

    def __init__(self, job: Job, first_epoch: int, writes: bool = True) -> None:
        path, name = job.workplace / LOG_FILE, job.config.tracker
        kept = path.read_text().splitlines()[:first_epoch] if path.is_file() else []
        self._file = path.open("w") if writes else None
        self._tracker = make_tracker(name, job.name, Path(job.config.output)) if name and writes else None
        if self._file:
            self._file.writelines(line + "\n" for line in kept)

    def write(self, record: dict[str, float]) -> None:
        """Appends one epoch's record."""
        if self._file:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._tracker:
            self._tracker.log({k: v for k, v in record.items() if k != "epoch"}, step=record["epoch"])

    def close(self) -> None:
        """Ends the file and the tracker's run."""
        if self._file:
            self._file.close()
        if self._tracker:
            self._tracker.finish()


def make_tracker(name: str, run_name: str, folder: Path) -> GeneralTracker:
    """The accelerate tracker of that name, logging on this process."""
    tracker_class = find_tracker(name)
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


def find_tracker(name: str) -> type[GeneralTracker]:
    """The class of the accelerate tracker of that name; ValueError where there is none."""
    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"unknown tracker {name!r}: choose one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    return LOGGER_TYPE_TO_CLASS[name]
