"""The demo: inspects a picture of a part with all methods of its category, and compares their results.

    python app.py                          # the bundled sample parts, and the models in runs/
    python app.py --models DIR             # the models in a folder
    python app.py --namespace NAME         # models published on the Hub

The sample parts are always included. A Space has no command line. There, the environment variables HUBMODELS_MODELS
and HUBMODELS_NAMESPACE replace the options. New models in a folder or namespace appear when the page is loaded again.
"""

import argparse
import atexit
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from webapp.environment import bypass_proxies, listening_address, prepare

if __name__ == "__main__":
    prepare()  # Gradio reads the environment when it is imported

import httpx

from hubmodels import install_command
from hubmodels.folders import find_labelled
from hubmodels.hub.catalog import FOLDER, Catalog, list_bundle, list_namespace, list_own
from hubmodels.hub.files import limit_waiting
from hubmodels.line.log import InspectionLog
from hubmodels.line.serve import TOKEN
from hubmodels.line.sources import is_camera
from webapp.hosting import keep_deleting, refuse_web_addresses, return_freed_memory
from webapp.page import CHECKED_EVERY, KEPT_FOR, build_page, launch_settings
from webapp.page_log import PageLog
from webapp.plain_requests import open_server
from webapp.teaching import Teacher
from webapp.visitors import Everybody, Visitors

OWN_MODELS = Path("runs")  # default output folder of training
HUB_TIMEOUT = 10  # seconds without a byte from the Hub
EXAMPLES = Path(__file__).parent / "examples"  # DATASET/CATEGORY/*.png
PUBLISHED_AS = Path(__file__).with_name("space_id.txt")  # written by training.publishing


def read_arguments() -> argparse.Namespace:
    """The command line. If it names no models, the environment is used."""
    parser = argparse.ArgumentParser(description="Inspect pictures of parts, and compare the methods.")
    parser.add_argument("--models", metavar="DIR", help="folder of model folders, such as runs (HUBMODELS_MODELS)")
    parser.add_argument("--namespace", metavar="NAME", help="Hub user or organisation (HUBMODELS_NAMESPACE)")
    parser.add_argument("--backbone-weights", metavar="FILE", help="default: bundled, local cache, Hub")
    parser.add_argument(
        "--examples", metavar="DIR", type=Path, default=EXAMPLES, help="example pictures, DIR/DATASET/CATEGORY/*.png"
    )
    parser.add_argument(
        "--test-folder", metavar="DIR", type=Path, help="labelled pictures for the comparison, in MVTec AD layout"
    )
    parser.add_argument(
        "--normal-folder", metavar="NAME", help="its folders of good parts (default: good, ok, normal and the like)"
    )
    parser.add_argument(
        "--log", metavar="DIR", type=Path, help="keep every result and correction there (not on a Space; docs/line.md)"
    )
    parser.add_argument(
        "--camera",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="a camera for the tab Live: camera:0, rtsp://...; can be repeated",
    )
    parser.add_argument("--host", help="default: 127.0.0.1, which only this computer can reach")
    parser.add_argument("--port", type=_port, help="default: the first free port from 7860")
    parser.add_argument(
        "--per-minute", metavar="N", type=_count, help="plain requests of one address; default: no limit"
    )
    args = parser.parse_args()
    if not (args.models or args.namespace):
        args.models, args.namespace = (os.environ.get(f"HUBMODELS_{name}") for name in ("MODELS", "NAMESPACE"))
    for option in ("models", "examples", "test_folder"):
        if (folder := getattr(args, option)) and not Path(folder).is_dir():
            parser.error(f"--{option.replace('_', '-')} {folder} is not a folder")
    if args.log and os.environ.get("SPACE_ID"):
        parser.error("--log is for one's own computer: a Space keeps nothing of its visitors")
    for camera in args.camera:
        if not is_camera(camera):
            parser.error(f"--camera {camera} is no camera: give camera:0, rtsp://... or another address")
    if args.camera and not find_spec("av"):
        parser.error(f"--camera needs a package: {install_command('video')}")
    try:
        found = find_labelled(args.test_folder, args.normal_folder) if args.test_folder else []
    except ValueError as error:
        parser.error(f"--test-folder: {error}")
    for name, unused in ((category.name, unused) for category in found for unused in category.unused):
        print(f"app.py: {name}: {unused}", file=sys.stderr)
    if args.test_folder and not found:
        parser.error(
            f"--test-folder {args.test_folder} contains no labelled pictures: expected CATEGORY/test/good/*.png and "
            "CATEGORY/test/DEFECT/*.png (docs/data.md)"
        )
    return args


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number from 1 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of requests: give at least 1")
    return int(text)


def open_catalog(args: argparse.Namespace) -> Catalog:
    """The models of the arguments, or else those in `runs`; then the bundled ones. The page shows what failed."""
    places = []
    if args.models:
        places.append(partial(list_own, args.models, args.backbone_weights))
    if args.namespace:
        places.append(partial(list_namespace, args.namespace, args.backbone_weights))
    if not args.models:
        places.append(partial(list_own, OWN_MODELS, args.backbone_weights))
    return Catalog(*places, list_bundle)


def open_teacher(args: argparse.Namespace, catalog: Catalog) -> Everybody | Visitors:
    """Who may teach, and who sees the parts: everybody on one's own computer; on a Space each visitor the own parts.

    A Space teaches if it is a duplicate, or if its variable HUBMODELS_TEACH is 1.
    """
    if not (space := os.environ.get("SPACE_ID")):
        models = Path(args.models or OWN_MODELS)
        log = PageLog(InspectionLog(args.log) if args.log else None)
        return Everybody(catalog, Teacher(catalog, models, models / "pictures"), log)
    if os.environ.get("HUBMODELS_TEACH") != "1" and not is_duplicate(space):
        return Everybody(catalog)
    folder = tempfile.mkdtemp(prefix="hubmodels-visitors-")  # not for uploads: Gradio serves those to everybody
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Visitors(catalog, Path(folder))


def is_duplicate(space: str, published: Path = PUBLISHED_AS) -> bool:
    """Whether a Space has another id than the one it was published as."""
    return published.is_file() and published.read_text(encoding="utf-8").strip().casefold() != space.casefold()


def main() -> None:
    """Opens the catalog and serves the page."""
    args = read_arguments()
    host = listening_address(args.host, args.port)
    bypass_proxies(host or "")
    limit_waiting(HUB_TIMEOUT)
    return_freed_memory()
    refuse_web_addresses()
    catalog = open_catalog(args)
    visitors = open_teacher(args, catalog)
    keep_deleting(KEPT_FOR, CHECKED_EVERY, visitors.delete_old)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that a lesson ends, too, and folders are deleted
    for notice in catalog.notices:
        print(f"app.py: {notice}", file=sys.stderr)
    if args.models and not catalog.notices and all(entry.origin != FOLDER for entry in catalog.entries):
        print(f"app.py: {args.models} contains no model folder yet", file=sys.stderr)
    page = build_page(catalog, args.examples, args.test_folder, args.normal_folder, visitors, args.camera)
    shared, token = visitors.of(None), os.environ.get(TOKEN) or None
    server = open_server(shared.catalog, args.per_minute, token, shared.log)
    settings = launch_settings(here=not os.environ.get("SPACE_ID"), server=server)
    try:
        page.launch(server_name=host, server_port=args.port, **settings, quiet=True, prevent_thread_lock=True)
    except OSError as error:  # Gradio found no free port
        port = f"port {args.port}" if args.port else "any port from 7860"
        sys.exit(f"app.py: the demo cannot start on {port}: stop the other program, or give --port ({error})")
    except (httpx.HTTPError, ValueError) as error:  # Gradio visits its own page first
        sys.exit(
            f"app.py: the demo started at {page.local_url}, but this computer cannot reach it: check firewall, proxy "
            f"and the hosts file, or give --host 127.0.0.1 ({error})"
        )
    print(f"The demo runs at {page.local_url} (Ctrl-C stops it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
