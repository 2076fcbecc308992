"""Publishes trained models, or the Space that shows them; or copies models into the library.

python -m training.publishing models runs acme --dry-run   # shows what would be pushed, one repository per model
python -m training.publishing models runs acme             # the same command continues after an interruption
python -m training.publishing space acme/inspection --namespace acme
python -m training.publishing bundle runs/bundle           # copies them into the library
python -m training.publishing cards                        # renders the cards of the bundled models again
"""

import argparse
import logging
import sys
from pathlib import Path

from huggingface_hub import HfApi

from hubmodels import LIBRARY
from hubmodels.hub.catalog import BUNDLED_MODELS
from hubmodels.hub.errors import HUB_ERRORS, ModelError, in_words
from hubmodels.hub.files import limit_waiting
from training.publishing.card import TEMPLATES, finished_models, write_bundled_card, write_bundled_cards
from training.publishing.publish import HUB_TIMEOUT, Publication, bundle, check_login, publish
from training.publishing.space import assemble_space, published, push_space

logger = logging.getLogger("training")


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.publishing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    models = actions.add_parser("models", help="push the models of a run to the Hub")
    models.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    models.add_argument("namespace", metavar="NAMESPACE", help="user or organisation on the Hub")
    models.add_argument("--private", action="store_true", help="make new repositories private")
    models.add_argument("--revision", metavar="BRANCH", help="push to this branch (default: main)")
    models.add_argument("--dry-run", action="store_true", help="only show what would be pushed")
    models.add_argument("--overwrite-cards", action="store_true", help="also cards that were edited on the Hub")
    models.add_argument(
        "--no-collection", dest="collection", action="store_false", help="do not list the models in a Collection"
    )
    pictures = "show panels and picture names even if the licence of the data is not known to allow it"
    models.add_argument("--show-pictures", action="store_true", help=pictures)
    space = actions.add_parser("space", help="push the demo as a Space, or write its folder")
    space.add_argument("repo_id", metavar="OWNER/NAME", help="id of the Space")
    space.add_argument(
        "--namespace",
        metavar="NAMESPACE",
        help="user or organisation whose models it shows (default: the bundled models)",
    )
    space.add_argument("--private", action="store_true", help="make a new Space private")
    space.add_argument("--output", type=Path, metavar="DIR", help="write the folder here, and push nothing")
    package = actions.add_parser("bundle", help="copy the models of a run into the library, and write their cards")
    package.add_argument("run", type=Path, metavar="DIR", help="folder that training wrote to")
    actions.add_parser("cards", help="render the cards of the bundled models again, for example with a new template")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (1 if something failed)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    args = vars(read_arguments(arguments))
    limit_waiting(HUB_TIMEOUT)
    try:
        failures = ACTIONS[args.pop("action")](**args)
    except HUB_ERRORS as error:
        failures = {"failed": in_words(error)}
    except (ModelError, ValueError, OSError) as error:
        failures = {"failed": str(error)}
    except KeyboardInterrupt:
        failures = {"interrupted": "the same command continues"}
    for name, reason in failures.items():
        logger.error("%s: %s", name, reason)
    return 1 if failures else 0


def _publish_models(run: Path, **options) -> dict[str, str]:
    publication, folders = Publication(**options), finished_models(run)
    if not publication.dry_run:
        check_login(publication.namespace)
    return publish(folders, publication)


def _publish_space(repo_id: str, namespace: str | None, private: bool, output: Path | None) -> dict[str, str]:
    if output:
        shown = published(namespace, HfApi(library_name=LIBRARY)) if namespace else {}
        logger.info("%s", assemble_space(output, repo_id=repo_id, namespace=namespace, **shown))
    else:
        check_login(repo_id.partition("/")[0])
        logger.info("%s", push_space(repo_id, namespace=namespace, private=private))
    return {}


def _bundle(run: Path) -> dict[str, str]:
    for place in [*bundle(run), *write_bundled_cards(run)]:
        logger.info("%s", place)
    return {}


def _render_cards() -> dict[str, str]:
    for folder in finished_models(BUNDLED_MODELS):
        write_bundled_card(folder, TEMPLATES / folder.name)
    return {}


ACTIONS = {"models": _publish_models, "space": _publish_space, "bundle": _bundle, "cards": _render_cards}


if __name__ == "__main__":
    sys.exit(main())
