"""Dataclass fields as command-line options: `option` declares one, `add_options` shows them, `collect` reads them."""

import argparse
import types
import typing
from dataclasses import MISSING, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


def option(default: Any, help: str, group: str = "", **extra: Any) -> Any:
    """A dataclass field that is also an option.

    Args:
        default: `dataclasses.MISSING` makes the option required.
        group: heading in `--help`.
        extra: `metavar` and `aliases`.
    """
    metadata = {"help": help, "group": group, **extra}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def add_options(parser: argparse.ArgumentParser, settings: type, heading: str = "") -> None:
    """Adds the options of a dataclass to the parser, under their groups or under the given heading."""
    groups, hints = {}, get_type_hints(settings)
    for each in fields(settings):
        if "help" not in each.metadata:
            continue
        name = heading or each.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        flags = ["--" + each.name.replace("_", "-"), *each.metadata.get("aliases", ())]
        group.add_argument(*flags, **_argument(each, hints[each.name]))


def collect(settings: type, parsed: argparse.Namespace) -> dict[str, Any]:
    """The parsed values of a dataclass's options, by field name."""
    return {each.name: getattr(parsed, each.name) for each in fields(settings) if "help" in each.metadata}


def _argument(each, hint) -> dict:
    """Keyword arguments of `add_argument` for one field."""
    text = each.metadata["help"]
    help = text() if callable(text) else text  # some texts list the methods, which are known only at call time
    if each.default not in (MISSING, None, "") and each.default is not False and "default" not in help:
        help += f" (default: {each.default})"
    if hint is bool:
        return {"action": "store_true", "help": help}
    kind = _without_none(hint)
    many = get_origin(kind) is list
    element = get_args(kind)[0] if many else kind
    keywords = {"help": help, "nargs": "+"} if many else {"help": help}
    if get_origin(element) is Literal:
        keywords["choices"] = get_args(element)
    elif choices := each.metadata.get("choices"):
        keywords["choices"] = choices()
    else:
        keywords |= {"type": element, "metavar": each.metadata.get("metavar", each.name.upper())}
    return keywords | _default_of(each)


def _default_of(each) -> dict:
    if each.default_factory is not MISSING:
        return {"default": each.default_factory()}
    return {"required": True} if each.default is MISSING else {"default": each.default}


def _without_none(hint):
    if get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
