"""The command `hubmodels`: inspects pictures, lists models, checks them on this computer, and reads logs.

Commands write results to standard output, and everything else to standard error.
"""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from hubmodels import install_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
log_app = typer.Typer(no_args_is_help=True, help="Reads logs of inspections.")
app.add_typer(log_app, name="log")

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help='A folder of models, a bundled category such as "parts / washer", or USER/NAME on the Hub.',
    ),
]
Category = Annotated[str | None, typer.Option(help="Of a folder with models of several categories.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Can be given several times; default: all.")]
Drift = Annotated[
    Path | None, typer.Option(help="File that keeps the state of the drift alarm; delete it to begin again.")
]
Overlays = Annotated[Path | None, typer.Option(help="Folder for the pictures under their heat maps.")]
Rate = Annotated[
    float | None, typer.Option(help="Accepted share of good parts called defective; default: the model's.")
]
Webhook = Annotated[str | None, typer.Option(help="Address that receives each result as JSON by POST.")]
Mqtt = Annotated[str | None, typer.Option(help="mqtt://HOST/TOPIC or mqtts://HOST/TOPIC that receives each result.")]


class Exit(IntEnum):
    """Exit status of `inspect`."""

    GOOD = 0
    DEFECTIVE = 1
    NOT_JUDGED = 2


@app.command()
def inspect(
    sources: Annotated[list[str], typer.Argument(help="Pictures, folders, patterns, videos, cameras; - = a list.")],
    model: Model,
    category: Category = None,
    methods: Methods = None,
    rate: Rate = None,
    as_csv: Annotated[bool, typer.Option("--csv/--json", help="A table, or one JSON object a line.")] = False,
    overlays: Overlays = None,
    log: Annotated[Path | None, typer.Option(help="Folder of a log that shows later changes.")] = None,
    drift: Drift = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds between two pictures of a video or camera; 0 = all; default: 1.")
    ] = None,
    still: Annotated[
        bool, typer.Option("--still", help="Judge a video or camera once each time that nothing moves.")
    ] = False,
) -> None:
    """Decides which pictures show a defective part.

    SOURCES are pictures, folders, patterns ("parts/*.png"), videos, cameras (camera:0, rtsp://...), or - for a list
    of paths on standard input. Exit status: 0 = all are good, 1 = a part is defective, 2 = a picture could not be
    judged.
    """
    from hubmodels.line.line import Line

    line = _or_end(lambda: Line.of(model, category, methods, rate, log, overlays, drift))
    write, counts = (_csv_writer(line) if as_csv else _write_json), Counter()
    try:
        for record in _judged(line, sources, every, still):
            counts[_status(record)] += 1
            write(record)
            _tell_drift(record)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        sys.stdout = None  # who read the output has ended
    _say(f"{counts.total()} pictures: {counts[0]} good, {counts[1]} defective, {counts[2]} not judged")
    raise typer.Exit(max(counts, default=Exit.NOT_JUDGED))


def _judged(line, sources: list[str], every: float | None, still: bool) -> Iterator[dict]:
    from hubmodels.line.live import EVERY, still_pictures
    from hubmodels.line.sources import SourceError, pictures_of

    every = every if every is not None else EVERY if still else 1.0
    for source in sources:
        try:
            pictures = pictures_of(source, every)
            for found in still_pictures(pictures) if still else pictures:
                yield line.judge(found.name, found.picture)
        except SourceError as error:
            yield {"picture": source, "error": {"kind": "source", "message": str(error)}}


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="Where pictures arrive.", exists=True, file_okay=False)],
    model: Model,
    log: Annotated[Path, typer.Option(help="Folder of the log, which also remembers what was judged.")],
    category: Category = None,
    methods: Methods = None,
    rate: Rate = None,
    overlays: Overlays = None,
    drift: Drift = None,
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Write each result next to its picture, as FILE.json.")
    ] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks at the folder.", min=0)] = 1.0,
    webhook: Webhook = None,
    mqtt: Mqtt = None,
) -> None:
    """Judges the pictures that arrive in a folder, each once, until Ctrl-C.

    It can be stopped, killed and started again at any time: the log says what was judged. Each result is a line of
    JSON on standard output, too. Results that a webhook or broker did not receive yet are sent again, also after a
    restart. Secrets are in the variables HUBMODELS_WEBHOOK_SECRET, HUBMODELS_MQTT_USER and HUBMODELS_MQTT_PASSWORD.
    """
    from hubmodels.line.line import Line
    from hubmodels.line.outputs import Outputs
    from hubmodels.line.watch import FolderWatch

    line = _or_end(lambda: Line.of(model, category, methods, rate, log, overlays, drift))
    watching = _or_end(lambda: FolderWatch(folder, line, sidecar))
    line.outputs = _or_end(lambda: Outputs.of(line.log, webhook, mqtt))
    _say(f"watching {folder}; press Ctrl-C to end")
    try:
        with line.outputs:
            for record in watching.run(interval):
                _write_json(record)
                _tell_drift(record)
    except (KeyboardInterrupt, BrokenPipeError):
        _say("ended")


@app.command()
def serve(
    models: Annotated[list[str], typer.Option("--model", "-m", help="As in inspect; can be given several times.")],
    categories: Annotated[
        list[str] | None, typer.Option("--category", help="Of a folder with models of several categories.")
    ] = None,
    methods: Methods = None,
    rate: Rate = None,
    log: Annotated[Path | None, typer.Option(help="Folder of a log that shows later changes.")] = None,
    drift: Annotated[Path | None, typer.Option(help="Folder for the states of the drift alarms.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this computer can reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Processes, each with its own models.", min=1)] = 1,
    most_waiting: Annotated[int, typer.Option(help="Waiting requests; more are refused.", min=1)] = 16,
    most_mb: Annotated[int, typer.Option("--most-mb", help="Size of a request.", min=1)] = 64,
    per_minute: Annotated[
        int | None, typer.Option(help="Requests of one address in each process; default: no limit.", min=1)
    ] = None,
    webhook: Webhook = None,
    mqtt: Mqtt = None,
) -> None:
    """Judges pictures that programs send by HTTP: POST /judge. The address /openapi.json describes all of it.

    If the environment variable HUBMODELS_TOKEN is set, requests need the header "Authorization: Bearer TOKEN".
    """
    from hubmodels.line.log import InspectionLog
    from hubmodels.line.outputs import Outputs

    server = _or_end(_server)
    settings = server.Settings(
        *(tuple(models), tuple(categories or ()), tuple(methods or ()), rate, log, drift),
        limits=server.Limits(1_000_000 * most_mb, most_waiting, per_minute),
        token=os.environ.get(server.TOKEN) or None,
    )
    outputs = _or_end(lambda: Outputs.of(InspectionLog(log) if log else None, webhook, mqtt))
    with outputs:  # in this process, also for several workers: it reads the log
        raise typer.Exit(_or_end(lambda: server.run(settings, host, port, workers)))


def _server():
    try:
        return import_module("hubmodels.line.serve")
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "anyio"):
            raise
        raise RuntimeError(f"{error.name} is missing: {install_command('serve')}") from error


def _tell_drift(record: dict) -> None:
    from hubmodels.line.line import drift_in_words

    if words := drift_in_words(record):
        _say(words)


def _status(record: dict) -> Exit:
    from hubmodels.line.outputs import verdict_of

    return Exit[verdict_of(record).upper().replace(" ", "_")]


def _write_json(record: dict) -> None:
    print(json.dumps(record, ensure_ascii=False, allow_nan=False), flush=True)


def _csv_writer(line):
    from hubmodels.line.log import without_formula
    from hubmodels.line.outputs import verdict_of

    names = ("is_anomalous", "is_unsure", "p_value", "image_score", "threshold", "score_level", "defects")
    columns = {f"{title}.{name}": (title, name) for title in line.titles for name in names}
    writer = csv.writer(sys.stdout)
    writer.writerow(["picture", "result", "error", "warnings", *columns])

    def write(record: dict) -> None:
        methods = record.get("methods", {})
        cells = (methods.get(title, {}).get(name) for title, name in columns.values())
        error = record.get("error", {}).get("message")
        name, warnings = without_formula(record["picture"]), " ".join(record.get("warnings", ()))
        writer.writerow([name, verdict_of(record), error, warnings, *cells])
        sys.stdout.flush()

    return write


@app.command()
def models(
    place: Annotated[
        str | None, typer.Argument(help="A folder of models, or a user on the Hub; default: bundled.")
    ] = None,
) -> None:
    """Lists models: category, method, where it is, commit."""
    from hubmodels.hub.catalog import Catalog

    if place is None:
        return print(Catalog.bundled())
    is_folder = Path(place).is_dir()
    print(_or_end(lambda: Catalog.from_folder(place) if is_folder else Catalog.from_namespace(place)))


@app.command()
def export(
    sources: Annotated[list[str], typer.Argument(help="Model folders or USER/NAME on the Hub; one of each method.")],
    pictures: Annotated[list[Path], typer.Option(help="File or folder to check with; can be given several times.")],
    output: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    backbone_weights: Annotated[Path | None, typer.Option(help="Safetensors weights of the backbone.")] = None,
    without_resizing: Annotated[
        bool, typer.Option("--without-resizing", help="The file takes pictures of the model's input size only.")
    ] = False,
) -> None:
    """Writes models of one category as an ONNX file, which needs no torch, if it agrees with torch on all pictures."""
    from hubmodels.folders import find_pictures
    from hubmodels.loading import load
    from hubmodels.onnx.export import describe, export

    def write() -> dict:
        detectors = [load(source, backbone_weights=backbone_weights) for source in sources]
        return export(detectors, output, find_pictures(pictures), not without_resizing)

    try:
        print(describe(output, _or_end(write)))
    except KeyboardInterrupt:
        _say("stopped: nothing was written")
        raise typer.Exit(130) from None


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="As --model of `hubmodels inspect`.")],
    category: Category = None,
    methods: Methods = None,
    pictures: Annotated[
        list[Path] | None, typer.Option(help="Pictures or folders to time with, and for ONNX.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each picture is inspected.", min=1)] = 10,
) -> None:
    """Loads models on this computer, verifies their hashes, and measures how many pictures a second they inspect.

    With pictures and the extra `export`, it also exports to ONNX and compares the results.
    """
    from hubmodels.line.checking import check_models

    for line in _or_end(lambda: list(check_models(model, category, methods, pictures or [], rounds))):
        print(line)


@log_app.command()
def verify(
    folder: Path,
    sha256: Annotated[str | None, typer.Option("--hash", help="Hash of a line that was noted earlier.")] = None,
) -> None:
    """Finds lines that were changed or are missing; prints the hash of the last line, to be noted elsewhere."""
    from hubmodels.line.log import InspectionLog

    end = _or_end(lambda: _existing(InspectionLog(folder)).verify(sha256))
    print(f"{end.lines} lines are as they were written; the last one has the hash {end.sha256}")


@log_app.command("export")
def export_log(folder: Path, file: Annotated[Path, typer.Argument(help="CSV file to write.")]) -> None:
    """Writes a log as a table."""
    from hubmodels.line.log import InspectionLog, export_csv

    log = _or_end(lambda: _existing(InspectionLog(folder)))
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        export_csv(log, stream)


def _existing(log):
    if not log.files():
        raise ValueError(f"{log.folder} has no log")
    return log


def _or_end(make):
    """What a function returns; its errors that a person can mend end the command with their message."""
    try:
        return make()
    except (ValueError, RuntimeError, OSError) as error:  # of models, too
        _say(f"error: {error}")
        raise typer.Exit(Exit.NOT_JUDGED) from error


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> None:
    """The console script."""
    app()
