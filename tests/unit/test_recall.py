"""Which memories a question brings back, measured on a small labelled set and tried on the rules one by one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from eventstore.events.memory import Memory, Relation
from projections import recall
from projections.memory import Kept, Remembered

LABELLED = Path(__file__).parents[1] / "fixtures" / "memory" / "labelled.json"
NOW = 1_760_000_000_000
DAY = 24 * 3_600_000


class Question(msgspec.Struct):
    question: str
    relevant: list[int]


class Labelled(msgspec.Struct):
    memories: list[Memory]
    questions: list[Question]


def remembered(*memories: Memory | str, age_days: int = 0) -> Remembered:
    found = [Memory(text=memory) if isinstance(memory, str) else memory for memory in memories]
    return Remembered("1-0", memories=tuple(Kept(NOW - age_days * DAY, memory) for memory in found))


def first(state: Remembered, question: str) -> str:
    return recall.search(state, question, NOW)[0].memory.text


def recall_at_3(labelled: Labelled, *, topics: bool) -> float:
    memories = [memory if topics else Memory(text=memory.text) for memory in labelled.memories]
    state = remembered(*memories)
    shares = []
    for asked in labelled.questions:
        found = {memories.index(kept.memory) for kept in recall.search(state, asked.question, NOW)[:3]}
        shares.append(len(found & set(asked.relevant)) / min(3, len(asked.relevant)))
    return sum(shares) / len(shares)


def test_recall_at_3_is_what_the_page_about_memory_says() -> None:
    labelled = msgspec.json.decode(LABELLED.read_bytes(), type=Labelled)
    measured = recall_at_3(labelled, topics=True), recall_at_3(labelled, topics=False)
    page = (LABELLED.parents[3] / "docs" / "memory.md").read_text()
    assert measured[0] >= 0.9
    for value in measured:
        assert f"{value:.3f}" in page


def test_any_form_of_a_word_is_that_word() -> None:
    state = remembered("Loves running in the woods", "Has two daughters", "Is allergic to cats")
    assert first(state, "Where could I run?") == "Loves running in the woods"
    assert first(state, "What would my daughter like?") == "Has two daughters"
    assert first(remembered("Grew up in Umeå", "Likes tea"), "do you know umea?") == "Grew up in Umeå"


def test_topics_answer_for_words_that_the_memory_does_not_use() -> None:
    state = remembered("Likes tea", Memory(text="Is a nurse", topics=["job", "profession"]))
    assert first(state, "What is my job?") == "Is a nurse"


def test_of_two_equally_relevant_memories_the_later_one_counts_more() -> None:
    old, new = Memory(text="The meeting is in room four"), Memory(text="The meeting is in room nine")
    state = Remembered("1-0", memories=(Kept(NOW - DAY, new), Kept(NOW - 200 * DAY, old)))
    assert first(state, "Where is the meeting?") == new.text


def test_what_is_old_and_relevant_stays_before_what_is_new_and_not() -> None:
    old, new = Memory(text="The user's name is Ann"), Memory(text="Likes tea")
    state = Remembered("1-0", memories=(Kept(NOW - 1_000 * DAY, old), Kept(NOW, new)))
    assert first(state, "What is my name?") == old.text


def test_without_a_shared_word_the_latest_come_first() -> None:
    a, b = Memory(text="Likes tea"), Memory(text="Owns a boat")
    state = Remembered("1-0", memories=(Kept(NOW - 9 * DAY, a), Kept(NOW, b)))
    assert [kept.memory for kept in recall.search(state, "Hello", NOW)] == [b, a]


def test_weight_sinks_to_a_floor_and_the_future_weighs_no_more_than_now() -> None:
    assert recall.decay(0) == recall.decay(-DAY) == 1.0
    assert recall.decay(recall.HALF_LIFE_MS) == recall.FLOOR + (1 - recall.FLOOR) / 2
    assert abs(recall.decay(10_000 * DAY) - recall.FLOOR) < 1e-9


def test_nothing_remembered_is_nothing_found() -> None:
    assert recall.search(Remembered("1-0"), "What is my name?", NOW) == []


def test_the_graph_adds_who_is_named_and_their_neighbours() -> None:
    dog, vet, other = Relation("user", "dog", "Rex"), Relation("Rex", "treated by", "Dr. Blum"), Relation("A", "b", "C")
    state = Remembered("1-0", relations=(vet, dog, other))
    assert recall.related(state, "Rex is ill, whom do I call?", []) == [dog, vet]
    assert recall.related(state, "How is Dr. Blum?", []) == [vet, dog]
    assert recall.related(state, "Hello", []) == []


def test_a_recalled_memory_brings_its_relations_along() -> None:
    state = Remembered("1-0", relations=(Relation("Rex", "is a", "collie"),))
    kept = Kept(NOW, Memory(text="Walks Rex every morning"))
    assert recall.related(state, "What do I do in the morning?", [kept]) == [Relation("Rex", "is a", "collie")]
