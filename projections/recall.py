"""Which memories a question brings back: relevance times temporal decay, and what they are related to. Pure.

Relevance is BM25 over stemmed words of a memory and its topics; docs/memory.md says why, and how well it does.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import Stemmer

from eventstore.events.memory import Relation
from projections.contact_terms import plain
from projections.memory import Kept, Remembered

HALF_LIFE_MS = 60 * 24 * 3_600_000
FLOOR = 0.3
"""What is left of the weight of something old: a name told two years ago is still the name."""
UNRELATED = 0.1
"""Relevance of a memory that shares no word with the question: it follows the others, the latest one first."""
SATURATION, LENGTH_WEIGHT = 1.2, 0.75
"""BM25's k1 and b, at their usual values."""

_WORD = re.compile(r"[^\W_]+")
_stemmer = lru_cache(maxsize=1)(lambda: Stemmer.Stemmer("english"))


def search(remembered: Remembered, question: str, now_ms: int) -> list[Kept]:
    """All memories, those first that matter most to the question now."""
    relevance = _bm25(words(question), [_words_of(kept) for kept in remembered.memories])
    scored = [
        ((UNRELATED + relevant) * decay(now_ms - kept.at_ms), kept.at_ms, kept)
        for relevant, kept in zip(relevance, remembered.memories, strict=True)
    ]
    return [kept for *_, kept in sorted(scored, key=lambda entry: entry[:2], reverse=True)]


def decay(age_ms: int) -> float:
    """1 for what was heard of just now, sinking towards the floor by half its distance per half-life."""
    return FLOOR + (1 - FLOOR) * math.pow(0.5, max(0, age_ms) / HALF_LIFE_MS)


def related(remembered: Remembered, question: str, recalled: Sequence[Kept]) -> list[Relation]:
    """What the entity graph knows of whom the question or a recalled memory names, and of their neighbours; latest
    first."""
    said = words(" ".join([question, *(kept.memory.text for kept in recalled)]))
    names = {name for name in _names(remembered) if set(words(name)) <= set(said)}
    near = [relation for relation in remembered.relations if names & {relation.subject, relation.object}]
    neighbours = {name for relation in near for name in (relation.subject, relation.object)}
    further = [
        relation
        for relation in remembered.relations
        if relation not in near and neighbours & {relation.subject, relation.object}
    ]
    return [*reversed(near), *reversed(further)]


def words(text: str) -> list[str]:
    """Stemmed, without case and accents."""
    return list(_stemmer().stemWords(_WORD.findall(plain(text))))


def _words_of(kept: Kept) -> list[str]:
    memory = kept.memory
    return words(" ".join([memory.text, memory.about.replace("_", " "), *memory.topics]))


def _names(remembered: Remembered) -> set[str]:
    return {name for relation in remembered.relations for name in (relation.subject, relation.object)}


def _bm25(question: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    mean = sum(map(len, texts)) / max(len(texts), 1) or 1.0
    holding = Counter(word for text in texts for word in set(text))
    weight = {word: math.log(1 + (len(texts) - holding[word] + 0.5) / (holding[word] + 0.5)) for word in set(question)}
    return [sum(weight[word] * _saturated(text.count(word), len(text) / mean) for word in weight) for text in texts]


def _saturated(times: int, length: float) -> float:
    """What repetition adds, less and less, and less in a text that is longer than others."""
    return times * (SATURATION + 1) / (times + SATURATION * (1 + LENGTH_WEIGHT * (length - 1)))
