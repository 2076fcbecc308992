"""The demo: a picture and a category in, the verdicts and heat maps of SimpleNet and GLASS side by side out.

    python app.py                          # the bundled sample parts, and what was trained into runs/
    python app.py --models DIR             # the models in a folder
    python app.py --namespace NAME         # models published on the Hub

The sample parts come along with all of them. A Space has no command line: there HUBMODELS_MODELS and
HUBMODELS_NAMESPACE say where the models are. New models in a folder or namespace show when the page is loaded again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

import gradio as gr  # noqa: TID251
from gradio.utils import get_upload_folder  # noqa: TID251
from PIL import Image

from hubmodels import AnomalyDetector, AnomalyPrediction, BackboneError, ModelError, PictureError, compare
from hubmodels.catalog import Catalog
from hubmodels.heatmap import overlay
from hubmodels.listings import METHODS, list_bundle, list_folder, list_namespace
from hubmodels.pictures import read_picture
from hubmodels.repository import CONFIG_FILE, limit_waiting

TITLE = "Is this part good?"
INTRODUCTION = f"""# {TITLE}
SimpleNet and GLASS learned from pictures of good parts only. Show them a part of a kind they know, and compare."""
HINT = "Choose a category and give a picture of such a part: upload, paste or photograph it."
EXPLANATION = """
* **Heat map**: amber to yellow, outlined: above this method's pixel threshold; bluish: a faint suspicion; untouched:
like good parts. The verdict comes from the image score, so that a small outline can lie on a good part.
* **Image score**: higher = more anomalous. Each method has its own scale: compare verdicts and p-values, not scores.
* **p-value**: the share of good parts that look at least this unusual, from good pictures kept out of training.
* **Latency**: computing time for this picture, without reading it and drawing the heat map."""
OWN_PARTS = """
Twenty to fifty pictures of good parts are enough for a first model, and a CPU will do:
```
.venv/bin/python -m pip install -e '.[train]'
.venv/bin/accelerate launch training/train.py --data-root my_good_pictures --category widget
make demo
```
Models that somebody published on the Hub are shown by `make demo NAMESPACE=name`."""
API = "Category label and picture -> status (HTML), then verdict (HTML) and heat map of SimpleNet and of GLASS."

VERDICTS = {True: "Defective", False: "Good", None: "No verdict (not calibrated)"}
TONES = {True: "defective", False: "good", None: ""}
SHOWN_SIDE = 2048  # pixels; a larger heat map only costs the visitor's time
OWN_MODELS = Path("runs")  # where training writes to by default
HUB_TIMEOUT = 10  # seconds without a byte from the Hub
LISTED_FOR = 600  # seconds until a visitor's arrival makes the app look for new models
EXAMPLES = Path(__file__).parent / "examples"  # DATASET/CATEGORY/*.png
EXAMPLE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # what a browser can show
SHOW_RESULT = """(...inputs) => {
    document.querySelector("[role=status]").closest(".card").scrollIntoView({ block: "nearest" });
    return inputs;
}"""  # or a click on an example far below it seems to do nothing
CSS = """
.card { --tone: var(--border-color-primary); border: 1px solid var(--border-color-primary); border-radius: 8px;
        border-left: 6px solid var(--tone); background: var(--block-background-fill); padding: 12px 16px;
        color: var(--body-text-color); overflow-wrap: anywhere; scroll-margin: 12px; }
.card.defective { --tone: #e08000; } .card.good { --tone: #0a8f6a; } .card.failed { --tone: #c0392b; }
.card h3 { margin: 0; font-size: 1rem; } .card p { margin: 4px 0 0; } .card dd { margin: 0; }
.card .verdict { font-size: 1.6rem; font-weight: 700; line-height: 1.2; margin: 2px 0 8px; }
.card dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0; }
.card dt, .card .note { opacity: 0.8; } .card .note { font-size: 0.85rem; }
.html-container { padding: 0 !important; } footer .divider:last-child { display: none; }
"""


def inspect_upload(catalog: Catalog, category: str | None, picture: dict | None) -> list:
    """The event: `inspect` with the very file that Gradio received."""
    return inspect(catalog, category, uploaded_path(picture))


def uploaded_path(upload: dict | None) -> str | None:
    """Gradio's description of an upload -> its path; None for anything that does not lie among the uploads.

    gr.Image itself would clip 16-bit pictures, decode before our limit of pixels, and answer a broken file by a bare
    "Error". And Gradio 6.31 checks a path only where the caller of the API marks it as a file: without this check a
    caller could ask for any picture on the server.
    """
    path = upload and upload.get("path")
    uploads = Path(get_upload_folder()).resolve()
    return path if path and Path(path).resolve().is_relative_to(uploads) else None


def inspect(catalog: Catalog, category: str | None, picture: str | None) -> list:
    """One picture -> status, then for each of METHODS its card and its heat map; HTML and Gradio updates."""
    nothing = [part for _ in METHODS for part in ("", _shown(None))]
    if picture is None:
        return [_status("", HINT), *nothing]
    try:
        upright = read_picture(picture)
        detectors = catalog.load(category)
        predictions = compare(detectors, upright)
    except (PictureError, ModelError, BackboneError) as error:
        return [_status("failed", f"<strong>Not inspected.</strong> {escape(str(error))}"), *nothing]
    judged = {d.method: (d, p) for d, p in zip(detectors, predictions, strict=True)}
    results = [_agreement({type(d).__name__: p.is_anomalous for d, p in judged.values()})]
    for method in METHODS:
        if method in judged:
            results += [_verdict(*judged[method]), _heat_map(upright, judged[method][1])]
        else:
            results += [_absence(catalog, category, method), _shown(None)]
    return results


def _heat_map(picture: Image.Image, prediction: AnomalyPrediction) -> dict:
    if prediction.is_anomalous is None:
        return _shown(None)  # colours are anchored at the calibration
    shown = overlay(picture, prediction)
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return _shown(shown)


def _shown(picture: Image.Image | None) -> dict:
    return gr.update(value=picture, visible=picture is not None)  # a new one each time: Gradio empties it


def _card(tone: str, content: str) -> str:
    """`content` is HTML: whatever comes from outside has to be escaped in it."""
    return f'<section class="card {tone}">{content}</section>'


def _status(tone: str, content: str) -> str:
    return _card(tone, f'<div role="status">{content}</div>')  # read out by screen readers


def _verdict(detector: AnomalyDetector, prediction: AnomalyPrediction) -> str:
    score = f"{prediction.image_score:.3g}"
    if prediction.threshold is not None:
        score += f" (threshold {prediction.threshold:.3g})"
    rows = {
        "Image score": score,
        "p-value": _p_value(prediction.p_value),
        "Latency": f"{prediction.latency_ms:.0f} ms",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(words)}</dd>" for name, words in rows.items())
    return _card(
        TONES[prediction.is_anomalous],
        f"<h3>{type(detector).__name__}</h3><p class='verdict'>{VERDICTS[prediction.is_anomalous]}</p>"
        f"<dl>{listed}</dl><p class='note'>Calibration: {escape(detector.calibration.describe())}.</p>",
    )


def _p_value(p: float | None) -> str:
    if p is None:
        return "none without calibration"
    percent = f"{100 * p:.0f}" if p >= 0.01 else f"{100 * p:.1g}"
    return f"p = {p:.2g}: {percent} % of good parts look at least this unusual"


def _absence(catalog: Catalog, category: str, method: str) -> str:
    name = METHODS[method].__name__
    sources = [e.source for e in catalog.entries if (e.label, e.method) == (category, method)]
    reasons = [catalog.problems[source] for source in sources if source in catalog.problems]
    words = f"could not be loaded: {escape(reasons[0])}" if reasons else "has no model for this category yet."
    return _card("", f"<h3>{name}</h3><p>{name} {words}</p>")


def arrive(catalog: Catalog) -> list[dict]:
    """The event of a visitor's arrival: categories, notices, and the models that cannot be used, as they are now."""
    catalog.refresh(older_than=LISTED_FOR)
    return _shelf(catalog)


def _shelf(catalog: Catalog) -> list[dict]:
    """Gradio updates of the dropdown, the notices, the accordion of unusable models, and its content."""
    problems = [f"{source}: {reason}" for source, reason in catalog.problems.items()]
    label = f"Models that cannot be used ({len(problems)})"
    return [
        gr.update(choices=catalog.categories()),
        gr.update(value=_card("failed", _list_items(catalog.notices)), visible=bool(catalog.notices)),
        gr.update(label=label, visible=bool(problems)),
        _list_items(problems),
    ]


def _list_items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _agreement(verdicts: dict[str, bool | None]) -> str:
    """Method names and verdicts -> one sentence."""
    said = ", ".join(f"{name} says {VERDICTS[verdict].lower()}" for name, verdict in verdicts.items())
    if len(verdicts) == 1:
        return _status("", f"Only one method looked: {said}.")
    if None in verdicts.values():
        return _status("", f"No comparison: {said}.")
    if len(set(verdicts.values())) == 1:
        verdict = next(iter(verdicts.values()))
        return _status(TONES[verdict], f"<strong>Both methods agree: {VERDICTS[verdict].lower()}.</strong>")
    return _status("", f"<strong>The methods disagree:</strong> {said}. Have a look yourself.")


def find_examples(folder: Path, catalog: Catalog) -> list[list[str]]:
    """[picture, category label, what it shows] of the pictures `folder/DATASET/CATEGORY/SHOWN.png` with a model."""
    pictures = sorted(path for path in folder.glob("*/*/*") if path.suffix.lower() in EXAMPLE_SUFFIXES)
    labels = {(entry.dataset, entry.category): entry.label for entry in catalog.entries}
    known = [(path, labels[path.parts[-3:-1]]) for path in pictures if path.parts[-3:-1] in labels]
    return [[str(path), label, path.stem.replace("_", " ")] for path, label in known]


def build_demo(catalog: Catalog, examples: Sequence[list[str]] = ()) -> gr.Blocks:
    """The page.

    Args:
        examples: [picture, category label, what it shows] rows to choose from.
    """
    _, notices_now, accordion_now, problems_now = _shelf(catalog)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        gr.Markdown(INTRODUCTION)
        notices = gr.HTML(notices_now["value"], visible=notices_now["visible"], label="Notices")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                category = gr.Dropdown(catalog.categories(), label="Category")
                sources = ["upload", "clipboard", "webcam"]
                picture = gr.Image(label="Picture", type="filepath", sources=sources, height=320)
                button = gr.Button("Inspect", variant="primary")
                if examples:
                    shown = gr.Textbox(label="Shows", visible=False)  # a column of the table, nothing more
                    gr.Examples(list(examples), [picture, category, shown], cache_examples=False)
            with gr.Column(scale=5):
                status = gr.HTML(_status("", HINT), label="Status")
                outputs = [status]
                buttons = ["download", "fullscreen"]  # the third, share, would upload the picture elsewhere
                with gr.Row():
                    for method in METHODS.values():
                        with gr.Column(min_width=280):
                            card = gr.HTML(label=f"{method.__name__} verdict")
                            heat_map = gr.Image(label=f"{method.__name__} heat map", visible=False, buttons=buttons)
                            outputs += [card, heat_map]
                with gr.Accordion("How to read this", open=False):
                    gr.Markdown(EXPLANATION)
                with gr.Accordion("Your own parts", open=False):
                    gr.Markdown(OWN_PARTS)
                with gr.Accordion(accordion_now["label"], visible=accordion_now["visible"], open=False) as accordion:
                    problems = gr.HTML(problems_now)
        gr.on(
            [button.click, picture.change, category.change],
            partial(inspect_upload, catalog),
            [category, picture],
            outputs,
            preprocess=False,  # see uploaded_path
            api_name="inspect",
            api_description=API,
            show_progress_on=status,
            js=SHOW_RESULT,
            trigger_mode="always_last",
        )
        demo.load(
            partial(arrive, catalog),
            outputs=[category, notices, accordion, problems],
            queue=False,  # a slow Hub keeps nobody from inspecting
            show_progress="hidden",
            api_visibility="private",
        )
    return demo.queue(max_size=16, default_concurrency_limit=1)


def read_arguments() -> argparse.Namespace:
    """The command line; where it names no models, the environment."""
    parser = argparse.ArgumentParser(description="Compare SimpleNet and GLASS on a picture of a part.")
    parser.add_argument("--models", metavar="DIR", help="folder of model folders, such as runs (HUBMODELS_MODELS)")
    parser.add_argument("--namespace", metavar="NAME", help="Hub user or organisation (HUBMODELS_NAMESPACE)")
    parser.add_argument("--backbone-weights", metavar="FILE", help="default: bundled, local cache, Hub")
    parser.add_argument(
        "--examples", metavar="DIR", type=Path, default=EXAMPLES, help="pictures to offer, DIR/DATASET/CATEGORY/*.png"
    )
    parser.add_argument("--host", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    args = parser.parse_args()
    if not (args.models or args.namespace):
        args.models, args.namespace = (os.environ.get(f"HUBMODELS_{name}") for name in ("MODELS", "NAMESPACE"))
    for option in ("models", "examples"):
        if (folder := getattr(args, option)) and not Path(folder).is_dir():
            parser.error(f"--{option} {folder} is not a folder")
    return args


def open_catalog(args: argparse.Namespace) -> Catalog:
    """The models asked for, or else those trained here; then the bundled ones. The page tells what failed."""
    places = []
    if args.models:
        places.append(partial(list_folder, args.models, args.backbone_weights))
    if args.namespace:
        places.append(partial(list_namespace, args.namespace, args.backbone_weights))
    if not places and any(OWN_MODELS.glob(f"*/{CONFIG_FILE}")):
        places.append(partial(list_folder, OWN_MODELS, args.backbone_weights))
    return Catalog(*places, list_bundle)


def main() -> None:
    """Opens the catalog that was asked for and serves the page."""
    args = read_arguments()
    limit_waiting(HUB_TIMEOUT)
    catalog = open_catalog(args)
    for notice in catalog.notices:
        print(f"app.py: {notice}", file=sys.stderr)
    build_demo(catalog, find_examples(args.examples, catalog)).launch(
        server_name=args.host,
        server_port=args.port,
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        footer_links=["api"],
        run_history=False,
        show_error=False,
        max_file_size="64mb",
        ssr_mode=False,
    )


if __name__ == "__main__":
    main()
