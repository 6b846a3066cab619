"""Taking notes without a language model: a few sentences that people use of themselves, and nothing guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

REMEMBER = "remember"
"""The tool by which a model hands over its notes."""
SUMMARY_CHARS = 1_200
QUOTED_WORDS = 12
TOLD = 3

_NAME = r"[^\W\d_a-z][\w'’-]*(?: [^\W\d_a-z][\w'’-]*){0,3}"
_REST = r"[^.!?;\n]{2,80}"
_KIN = (
    "wife|husband|partner|son|daughter|mother|father|brother|sister|friend|boss|manager|colleague|dog|cat|horse|doctor"
)


class _Rule(NamedTuple):
    """`note` is filled in with what the pattern found; a rule with an `about` knows one truth at a time."""

    pattern: str
    note: str
    about: str
    topics: str


_RULES = (
    _Rule(rf"(?i:\bmy name is|\bI am called|\bcall me) ({_NAME})", "The user's name is {}", "name", "called who"),
    _Rule(
        rf"(?i:\bI(?: now)? live in|\bI(?: have|'ve)? moved to) (?:the )?({_NAME})",
        "Lives in {}",
        "home",
        "city address where located",
    ),
    _Rule(rf"(?i:\bI work (as|at|for|in) )({_REST})", "Works {} {}", "job", "profession occupation employer living do"),
    _Rule(rf"(?i:\bI(?: am|'m) allergic to )({_REST})", "Is allergic to {}", "", "allergy food health eat"),
    _Rule(
        rf"(?i:\bI(?: really)? (prefer|like|love|enjoy|hate|dislike) )({_REST})",
        "The user {}s {}",
        "",
        "preference favourite like want",
    ),
    _Rule(rf"(?i:\bmy favou?rite (\w+) is )({_REST})", "The user's favourite {} is {}", "", "preference like"),
    _Rule(rf"(?i:\bmy birthday is )({_REST})", "The user's birthday is {}", "birthday", "born birth age date"),
    _Rule(rf"(?i:\b(?:remember|note) that )({_REST})", "{}", "", ""),
)
_RELATIVE = rf"(?i:\bmy ({_KIN})(?:'s name)? is(?: called| named)?) ({_NAME})"


def notes(material: str) -> dict[str, Any]:
    """The arguments of the tool, from what a model would have been told (JSON with `summary` and `messages`)."""
    given = msgspec.json.decode(material)
    said = [message["text"] for message in given["messages"] if message["by"] == "user"]
    relatives = [(found[1].lower(), found[2]) for text in said for found in re.finditer(_RELATIVE, text)]
    return {
        "summary": _summary(given["summary"], said),
        "memories": [memory for text in said for memory in _memories(text)],
        "entities": [{"name": name, "kind": kind} for kind, name in relatives],
        "relations": [{"subject": "user", "relation": kind, "object": name} for kind, name in relatives],
    }


def _memories(text: str) -> Iterator[dict[str, Any]]:
    for rule in _RULES:
        for found in re.finditer(rule.pattern, text):
            note = rule.note.format(*(part.strip() for part in found.groups()))
            yield {"text": note, "about": rule.about, "topics": rule.topics.split()}
    for found in re.finditer(_RELATIVE, text):
        kind = found[1].lower()
        yield {"text": f"The user's {kind} is {found[2]}", "about": "", "topics": ["family", "pet", "name", "called"]}


def _summary(before: str, said: list[str]) -> str:
    """What the person wrote, shortened; the oldest goes when there is no more room."""
    quotes = [f"“{' '.join(text.split()[:QUOTED_WORDS])}”" for text in said]
    told = " ".join([before or "The user wrote:", *quotes])
    if len(told) <= SUMMARY_CHARS:
        return told
    return "The user wrote: … " + told[-SUMMARY_CHARS:].partition("” ")[2]


def told(notes: str) -> str:
    """The first things that a model is told it remembers, as an answer; nothing if it remembers nothing."""
    remembered = [line[2:] for line in notes.splitlines() if line.startswith("- ")][:TOLD]
    return f"I remember: {'; '.join(remembered)}." if remembered else ""
