"""Finds contacts for people: exact filters, then words by prefix, then words with typos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from projections import contact_terms
from projections.contacts import Contact, Document, profile
from projections.engine import ReadModel

CANDIDATES = 200
"""Contacts that are loaded and ranked where words are searched for; of more only these are returned."""
ENTRIES = 2_000
"""Index entries read per word, trigram and filter."""


class ContactQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Filters are exact and all must hold; `text` is what somebody typed. Without any of them: everybody."""

    text: str = ""
    phone: str | None = None
    email: str | None = None
    tags: tuple[str, ...] = ()
    limit: int = 20


class Found(NamedTuple):
    """`total` counts all that fit, also those that the limit leaves out."""

    contacts: list[Contact]
    total: int


async def search(model: ReadModel[Document], query: ContactQuery) -> Found:
    """Best first, then by creation and id, so the same question on the same data has the same answer."""
    filtered = await _filtered(model, query)
    words = contact_terms.tokens(query.text)
    if query.text.strip():
        return await _by_words(model, words, filtered, query.limit) if words else Found([], 0)
    if filtered is None:
        keys = await model.keys_with_prefix(contact_terms.EVERYBODY, query.limit)
        return Found(await _contacts(model, keys), await model.count(contact_terms.EVERYBODY))
    found = sorted(await _contacts(model, sorted(filtered)), key=_age)
    return Found(found[: query.limit], len(found))


async def _filtered(model: ReadModel[Document], query: ContactQuery) -> set[str] | None:
    """The contacts that pass the exact filters; None without filters."""
    terms = [contact_terms.tag_term(tag) for tag in query.tags]
    if query.phone:
        terms.append(contact_terms.phone_term(query.phone))
    if query.email:
        terms.append(contact_terms.email_term(query.email))
    sets = [set(await model.keys_with(term, ENTRIES)) for term in terms]
    return set.intersection(*sets) if sets else None


class _Matches(NamedTuple):
    """Contacts with one word of the query; a list that was cut off proves nothing about who is not in it."""

    keys: list[str]
    complete: bool


async def _by_words(model: ReadModel[Document], words: Sequence[str], among: set[str] | None, limit: int) -> Found:
    matches = [await _beginning(model, word) for word in words]
    candidates = _common(matches, among)
    if found := await _fitting(model, words, candidates):
        return Found(found[:limit], len(found) + max(0, len(candidates) - CANDIDATES))
    either = [
        _Matches(known + await _alike(model, word), all_) for word, (known, all_) in zip(words, matches, strict=True)
    ]
    found = await _fitting(model, words, _common(either, among))
    return Found(found[:limit], len(found))


def _common(matches: Sequence[_Matches], among: set[str] | None) -> list[str]:
    """Contacts that match all words, in the order of the word that fewest match."""
    complete = [match.keys for match in matches if match.complete] or [match.keys for match in matches]
    fewest = min(complete, key=len)
    allowed = set(fewest).intersection(*complete)
    if among is not None:
        allowed &= among
    return [key for key in dict.fromkeys(fewest) if key in allowed]


async def _beginning(model: ReadModel[Document], word: str) -> _Matches:
    prefix = contact_terms.word_prefix(word)
    complete = await model.count(prefix) <= ENTRIES
    return _Matches(await model.keys_with_prefix(prefix, ENTRIES), complete)


async def _alike(model: ReadModel[Document], word: str) -> list[str]:
    """Contacts with a name that shares letters with the word, those that share most first."""
    shared: Counter[str] = Counter()
    if not word.isdigit():
        for trigram in sorted(contact_terms.trigrams(word)):
            shared.update(await model.keys_with(contact_terms.trigram_term(trigram), ENTRIES))
    return sorted(shared, key=lambda key: (-shared[key], key))[:ENTRIES]


async def _fitting(model: ReadModel[Document], words: Sequence[str], keys: Sequence[str]) -> list[Contact]:
    fits = [
        (contact_terms.fit(profile(contact), words), contact) for contact in await _contacts(model, keys[:CANDIDATES])
    ]
    fits.sort(key=lambda entry: (-entry[0], _age(entry[1])))
    return [contact for score, contact in fits if score > 0]


async def _contacts(model: ReadModel[Document], keys: Sequence[str]) -> list[Contact]:
    return [document for document in (await model.get_many(keys)).values() if isinstance(document, Contact)]


def _age(contact: Contact) -> tuple[str, str]:
    return contact.created_at, contact.id
