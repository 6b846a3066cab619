"""The reference pages: written from the code, and noticed when they no longer fit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore import events
from trunkline import docs


def test_committed_pages_are_what_the_code_says() -> None:
    assert docs.stale(docs.FOLDER) == []


def test_check_names_the_stale_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs.write(tmp_path)
    (tmp_path / "events.md").write_text("yesterday's")
    assert docs.main(["--check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert "docs/events.md" in told
    assert "docs/metrics.md" not in told
    assert (tmp_path / "events.md").read_text() == "yesterday's"


def test_a_missing_page_is_stale(tmp_path: Path) -> None:
    assert docs.stale(tmp_path) == ["events.md", "metrics.md"]


def test_written_pages_pass_the_check(tmp_path: Path) -> None:
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0


def test_every_event_type_is_described() -> None:
    page = docs.events_page()
    for body in events.TYPES:
        assert f"\n### {body.__struct_config__.tag}\n" in page
    assert "\n### custom.*\n" in page


def test_personal_fields_are_marked() -> None:
    page = docs.events_page()
    assert '| `text` | string | `""` | yes |' in page
    assert "| `message_id` | string |  |  |" in page


def test_terminal_types_end_their_run() -> None:
    endings = {str(body.__struct_config__.tag): docs.ending(body) for body in events.TYPES}
    assert {name for name, end in endings.items() if end == "yes"} == events.TERMINAL_TYPES & endings.keys()
    assert {name for name, end in endings.items() if end == "as root"} == {"tool.completed", "tool.failed"}


def test_every_metric_has_a_name_as_it_is_scraped_and_a_meaning() -> None:
    rows = [line.split(" | ") for line in docs.metrics_page().splitlines() if line.startswith("| `trunkline_")]
    assert len(rows) == len(docs.metrics())
    assert "| `trunkline_append_seconds`" in [row[0] for row in rows]
    assert all(len(row[3]) > 10 for row in rows)
