"""`python -m trunkline.docs`: the reference pages that are written from the code, and the check that they still fit it.

`--check` writes nothing; it names every committed page that differs and exits 1.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from eventstore import codec, events, telemetry
from eventstore.meters import Level, Tally, Timings
from eventstore.schema import Body

FOLDER = Path(__file__).parents[1] / "docs"
COMMAND = "python -m trunkline.docs"

Metric = Counter | Gauge | Histogram | Level | Tally | Timings
Ending = Literal["yes", "as root", "no"]

_NOTICE = f"<!-- Written by `{COMMAND}` from the code: change the code, not this file. -->\n"

_EVENTS_HEAD = """# Events

Every type that the log stores, by family. A *fact* stands on the organization's log: it has a dense `number`, and the
`version` of its conversation if it has one. A *delta* stands on the token stream: it has neither, and it is trimmed
early. The envelope around `data` (id, number, version, actor, run, cause) is the same for all types; see
[glossary.md](glossary.md).

*Personal* fields identify or quote a person. They are stored apart from the others (`p` instead of `d`), so that they
can be sealed and forgotten; on the wire both are one `data` object. A field without a default is always present. A
field that is null is left out of the stored form.

*Ends a run*: `as root` means that the event ends the run when the tool call itself started the run. A tool inside a
turn carries a `call_id` and ends nothing. An input that starts no work (`custom.*`) is a run that is over with itself.
Types that this version does not know are kept and passed on as they are.
"""

_METRICS_HEAD = """# Metrics

What `/metrics` shows, from `eventstore/telemetry.py`. No metric is labelled by organization, conversation or person:
labels have few values, and a metrics server is no place for personal data. A histogram's samples end in `_bucket`,
`_sum` and `_count`.

Every process counts for itself. Of `trunkline edge --processes N` the shared port shows whichever the kernel picks, so
that counters seem to jump back: add `--metrics-port M`, and let Prometheus ask the ports M to M + N - 1 instead.

"""


class Page(NamedTuple):
    """One generated file and what belongs in it now."""

    name: str
    text: Callable[[], str]


def events_page() -> str:
    overview = [
        ["type", "family", "kind", "ends a run"],
        *(
            [f"[`{_shown(body)}`](#{_anchor(body)})", _family_name(family), _kind(body), ending(body)]
            for family in events.FAMILIES
            for body in family.TYPES
        ),
        [f"[`{_shown(events.Custom)}`](#{_anchor(events.Custom)})", "custom", "fact", ending(events.Custom)],
    ]
    families = [_family(family, family.TYPES) for family in events.FAMILIES]
    custom = _family(events.custom, (events.Custom,))
    return "\n".join([_NOTICE + _EVENTS_HEAD, _table(overview), *families, custom])


def metrics_page() -> str:
    rows = [["name", "type", "labels", "meaning", "when it moves"]]
    rows += [_metric_row(metric) for metric in metrics()]
    return _NOTICE + _METRICS_HEAD + _table(rows)


PAGES = (Page("events.md", events_page), Page("metrics.md", metrics_page))


def metrics() -> list[Metric]:
    """Every metric of the module, in the order in which it is written there."""
    return [value for value in vars(telemetry).values() if isinstance(value, Metric)]


def labels_of(metric: Metric) -> Sequence[str]:
    """Of prometheus_client's own metrics nothing public tells them."""
    return metric.labels if isinstance(metric, Level | Tally | Timings) else metric._labelnames


def ending(body: type[Body]) -> Ending:
    """Whether a run is over with this type."""
    name = _shown(body)
    if name in events.TERMINAL_TYPES:
        return "yes"
    return "as root" if name in ("tool.completed", "tool.failed") else "no"


def stale(folder: Path) -> list[str]:
    """Names of the pages in the folder that are missing or not what the code says."""
    return [page.name for page in PAGES if _stored(folder / page.name) != page.text()]


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for page in PAGES:
        (folder / page.name).write_text(page.text(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """The exit code: 1 when `--check` found a page that is stale."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the reference pages in docs/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page differs")
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    differing = stale(folder)
    for name in differing:
        print(f"docs/{name} is not what the code says: run `{COMMAND}` and commit it", file=sys.stderr)
    return 1 if differing else 0


def _family(family: ModuleType, bodies: Sequence[type[Body]]) -> str:
    parts = [f"## {_family_name(family)}\n", f"{_doc(family)}\n"]
    for body in bodies:
        parts += [f"### {_shown(body)}\n", _about(body), ""]
        parts += [f"{doc}\n"] if (doc := _doc(body)) else []
        parts += [_fields(body)]
    for struct in _nested(bodies):
        parts += [f"### `{struct.__name__}`\n", f"{_doc(struct)}\n", _fields(struct)]
    return "\n".join(parts)


def _about(body: type[Body]) -> str:
    kind = {"fact": "A fact.", "delta": "A delta."}[_kind(body)]
    end = {
        "yes": " Ends its run.",
        "as root": " Ends its run when the call itself started the run (it has no `call_id` then).",
        "no": "",
    }[ending(body)]
    return kind + end


def _fields(struct: type[msgspec.Struct]) -> str:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    personal = codec.personal_fields(struct) if issubclass(struct, Body) else frozenset()
    rows = [["field", "type", "default", "personal"]]
    for field in info.fields:
        rows.append([f"`{field.name}`", _type(field.type), _default(field), "yes" if field.name in personal else ""])
    return _table(rows)


def _type(kind: msgspec.inspect.Type) -> str:
    """As JSON has it: that is what clients read."""
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return _type(inner)
        case msgspec.inspect.UnionType(types=types):
            named = [_type(each) for each in types if not isinstance(each, msgspec.inspect.NoneType)]
            return " or ".join([*named, "null"] if len(named) < len(types) else named)
        case msgspec.inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case msgspec.inspect.ListType(item_type=item):
            return f"array of {_type(item)}"
        case msgspec.inspect.DictType(value_type=value):
            return "object" if isinstance(value, msgspec.inspect.AnyType) else f"object of {_type(value)}"
        case msgspec.inspect.StructType(cls=struct):
            return f"`{struct.__name__}`"
    return _PLAIN[type(kind)]


_PLAIN: dict[type[msgspec.inspect.Type], str] = {
    msgspec.inspect.StrType: "string",
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.FloatType: "number",
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.AnyType: "any JSON",
}


def _default(field: msgspec.inspect.Field) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return ""
    return f"`{msgspec.json.encode(value).decode()}`"


def _nested(bodies: Sequence[type[Body]]) -> list[type[msgspec.Struct]]:
    """Structs that the fields of these bodies hold, each once, in the order in which they are met."""
    found: dict[type[msgspec.Struct], None] = {}
    for body in bodies:
        info = msgspec.inspect.type_info(body)
        assert isinstance(info, msgspec.inspect.StructType)
        for field in info.fields:
            found |= dict.fromkeys(_structs(field.type))
    return list(found)


def _structs(kind: msgspec.inspect.Type) -> Iterator[type[msgspec.Struct]]:
    match kind:
        case msgspec.inspect.StructType(cls=struct):
            yield struct
        case msgspec.inspect.Metadata(type=inner) | msgspec.inspect.ListType(item_type=inner):
            yield from _structs(inner)
        case msgspec.inspect.UnionType(types=types):
            for each in types:
                yield from _structs(each)


def _metric_row(metric: Metric) -> list[str]:
    (family,) = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    meaning, _, remedy = family.documentation.partition(". ")
    labels = ", ".join(f"`{label}`" for label in labels_of(metric))
    return [f"`{name}`", family.type, labels, f"{meaning.rstrip('.')}.", remedy]


def _shown(body: type[Body]) -> str:
    return "custom.*" if body is events.Custom else str(body.__struct_config__.tag)


def _anchor(body: type[Body]) -> str:
    """As Markdown viewers make it from a heading: everything but letters, digits, `_` and `-` is dropped."""
    return "".join(character for character in _shown(body) if character.isalnum() or character in "_-")


def _kind(body: type[Body]) -> str:
    return "delta" if _shown(body) in events.DELTA_TYPES else "fact"


def _family_name(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]


def _doc(documented: ModuleType | type) -> str:
    """Its own docstring, not one that it inherited."""
    own = vars(documented).get("__doc__")
    return inspect.cleandoc(own) if own else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _stored(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
