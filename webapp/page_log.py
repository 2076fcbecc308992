"""The page's log: every result that somebody saw or a program received, and every correction. Off by default."""

import logging
from dataclasses import replace
from pathlib import Path

from hubmodels.hub.catalog import Catalog
from hubmodels.inspection import Inspection
from hubmodels.line.line import models_used, sha256_of
from hubmodels.line.log import InspectionLog, LogError
from hubmodels.line.log_queue import RESULT
from hubmodels.pictures import PictureError

logger = logging.getLogger(__name__)


class NotLoggedError(PictureError):
    """The log cannot be written; then no result is shown that nobody could prove later."""

    def __init__(self) -> None:
        super().__init__("the log of results cannot be written, so the result is not shown", "not_logged")


class PageLog:
    """Writes to a log, or nowhere.

    Args:
        log: which one; None = nothing is kept.
    """

    def __init__(self, log: InspectionLog | None = None) -> None:
        self._log = log

    def inspection(
        self,
        name: str,
        file: Path | bytes,
        category: str,
        inspection: Inspection,
        rate: float | None,
        catalog: Catalog,
    ) -> None:
        """Adds a result, at the false-alarm rate at which it is shown.

        Args:
            name: of the picture.
            file: the picture's file, or its bytes; only read if there is a log.
            catalog: which has the models.

        Raises:
            NotLoggedError: the log cannot be written.
        """
        if self._log is not None:
            shown = replace(inspection, predictions=inspection.at_rate(rate)).record(category, rate)
            detectors = {detector.method: detector for detector in inspection.detectors.values()}
            models = models_used(catalog, category, detectors)
            sha256 = sha256_of(file if isinstance(file, bytes) else file.read_bytes())
            self._add(RESULT, {"picture": name, "sha256": sha256} | shown | {"models": models})

    def correction(self, category: str, sha256: str | None, verdict: str, undone: bool = False) -> None:
        """Adds what a person said of a picture, "good" or "defective", or that it was undone.

        Args:
            sha256: of the picture's file; None if it is no longer there.

        Raises:
            NotLoggedError: the log cannot be written.
        """
        if self._log is not None:
            said = {"category": category, "sha256": sha256, "verdict": verdict}
            self._add("undone" if undone else "correction", said)

    def _add(self, event: str, record: dict) -> None:
        try:
            self._log.add(event, record)
        except (OSError, LogError) as error:
            logger.error("%s", error)
            raise NotLoggedError from error
