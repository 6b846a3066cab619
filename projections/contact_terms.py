"""Under which terms a contact is found, and how well it fits a query: pure text, no storage.

Words, email parts, tags and every ending of a phone number are found by prefix (`w:`). Names also by trigrams whose
letters are sorted (`t:`), so that two letters changing places, the commonest typo, leave most of them as they were.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

WORD_LENGTH = 40
TAG_LENGTH = 64
EMAIL_LENGTH = 254
WORDS = 12
"""Bounds of what one name, email or list of tags adds to the index."""
SHORTEST_ENDING = 4

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"[+\d\s().\-/]*\d[\d\s().\-/]*")


class Profile(NamedTuple):
    """What can be searched."""

    created_at: str
    first_name: str
    last_name: str
    phone: str | None
    email: str | None
    tags: tuple[str, ...]


class Words(NamedTuple):
    """A profile taken apart. Only `names` (of the person, and in the mailbox) forgive typos: another digit is another
    person's number."""

    names: frozenset[str]
    others: frozenset[str]


def plain(text: str) -> str:
    """Without case, accents or NUL: `José` and `jose` are the same."""
    decomposed = unicodedata.normalize("NFKD", text.replace("\0", "").casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def split(text: str) -> list[str]:
    return [word[:WORD_LENGTH] for word in _WORD.findall(plain(text))[:WORDS]]


def tokens(query: str) -> list[str]:
    """The words of a query; one that is a phone number, however it is written, is one word of digits."""
    if _NUMBER.fullmatch(query.strip()):
        digits = re.sub(r"\D", "", query)
        return [digits.lstrip("0") or digits]
    return [
        part
        for chunk in plain(query).split()[:WORDS]
        for part in ([chunk[:EMAIL_LENGTH]] if "@" in chunk else split(chunk))
    ]


def words_of(profile: Profile) -> Words:
    first, last = split(profile.first_name), split(profile.last_name)
    mailbox, _, domain = (profile.email or "").partition("@")
    tags = [plain(tag)[:TAG_LENGTH] for tag in profile.tags[:WORDS]]
    others = {
        *_joined(first + last),  # `vandermeer` and `josevandermeer` for José van der Meer
        *_joined(last),
        *_endings(profile.phone),
        *tags,
        *(word for tag in tags for word in split(tag)),
        plain(profile.email or "")[:EMAIL_LENGTH],
        *split(domain),
    }
    return Words(frozenset((*first, *last, *split(mailbox))), frozenset(others - {""}))


def _joined(words: list[str]) -> list[str]:
    return ["".join(words)[:WORD_LENGTH]] if len(words) > 1 else []


def _endings(phone: str | None) -> Iterator[str]:
    digits = re.sub(r"\D", "", phone or "")
    for start in range(max(1, len(digits) - SHORTEST_ENDING + 1)):
        yield digits[start:]


def trigrams(word: str) -> set[str]:
    padded = f"  {word} "
    return {"".join(sorted(padded[i : i + 3])) for i in range(len(padded) - 2)}


def _alike(name: str) -> Iterator[str]:
    for word in split(name):
        yield from trigrams(word)


def terms_of(profile: Profile) -> set[str]:
    words = words_of(profile)
    terms = {word_prefix(word) for word in words.names | words.others}
    terms |= {trigram_term(trigram) for name in (profile.first_name, profile.last_name) for trigram in _alike(name)}
    terms |= {tag_term(tag) for tag in profile.tags}
    terms.add(f"{EVERYBODY}{profile.created_at}")
    if profile.phone:
        terms.add(phone_term(profile.phone))
    if profile.email:
        terms.add(email_term(profile.email))
    return terms


EVERYBODY = "c:"
"""Prefix of a term that every contact has once, in order of creation."""


def word_prefix(word: str) -> str:
    return f"w:{word}"


def trigram_term(trigram: str) -> str:
    return f"t:{trigram}"


def phone_term(e164: str) -> str:
    return f"phone:{plain(e164)}"


def email_term(email: str) -> str:
    return f"email:{plain(email)}"


def tag_term(tag: str) -> str:
    return f"tag:{plain(tag)}"


def fit(profile: Profile, query: Iterable[str]) -> float:
    """How well a contact fits, 0 to 1: every word of the query must fit one of its words."""
    words = words_of(profile)
    scores = [_word_fit(words, token) for token in query]
    return sum(scores) / len(scores) if scores and all(scores) else 0.0


def _word_fit(words: Words, token: str) -> float:
    if token in words.names:
        return 1.0
    if any(word.startswith(token) for word in words.names):
        return 0.9
    if token in words.others:
        return 0.8
    if any(word.startswith(token) for word in words.others):
        return 0.7
    return max((0.6 * _likeness(token, word) for word in words.names), default=0.0)


def _likeness(token: str, word: str) -> float:
    """1 for the same, 0 for too different: one mistake in up to five letters, two in more, none in one or two."""
    allowed = 0 if len(token) < 3 else 1 if len(token) < 6 else 2
    if abs(len(token) - len(word)) > allowed:
        return 0.0
    mistakes = edits(token, word)
    return 1 - mistakes / len(token) if mistakes <= allowed else 0.0


def edits(left: str, right: str) -> int:
    """Letters inserted, left out, replaced, or swapped with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        two_before, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            best = min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                best = min(best, two_before[j - 2] + 1)
            row.append(best)
    return row[-1]
