"""Settings: what may be written in the environment, and how a mistake there reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.settings import RateLimit, SettingsError, load_settings, provider_changes


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no `.env` of the person who runs the tests
    for name in ("TRUNKLINE_REDIS_URL", "TRUNKLINE_PORT", "PORT", "TRUNKLINE_DATA_DIR", "TWILIO_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8000, Path(".trunkline"))
    assert settings.redis_url is None
    assert settings.rate_limit == RateLimit(1000, 900)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_PORT", "9000")
    assert load_settings(port=9001, host=None).port == 9001
    assert load_settings(port=None).port == 9000


def test_port_may_be_set_as_hosting_platforms_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8123")
    assert load_settings().port == 8123
    monkeypatch.setenv("TRUNKLINE_PORT", "9000")
    assert load_settings().port == 9000


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TRUNKLINE_HOST=0.0.0.0\nTWILIO_ACCOUNT_SID=AC1\nUNRELATED=1\n")
    assert load_settings().host == "0.0.0.0"
    assert load_settings().twilio_account_sid == "AC1"
    monkeypatch.setenv("TRUNKLINE_HOST", "::1")
    assert load_settings().host == "::1"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_REDIS_URL", "")
    assert load_settings().redis_url is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1000/15m", RateLimit(1000, 900)),
        ("50/s", RateLimit(50, 1)),
        ("200", RateLimit(200, 900)),
        ("7/2h", RateLimit(7, 7200)),
        ("0", RateLimit(0, 900)),
    ],
)
def test_rate_limits_are_requests_per_window(text: str, limit: RateLimit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_RATE_LIMIT", text)
    assert load_settings().rate_limit == limit


@pytest.mark.parametrize("text", ["many", "10/", "10/0s", "-1", "10/5d"])
def test_other_rate_limits_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_RATE_LIMIT", text)
    with pytest.raises(SettingsError, match=rf"TRUNKLINE_RATE_LIMIT is '{text}': expected requests"):
        load_settings()


def test_origins_are_separated_by_commas_or_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CORS_ORIGINS", "https://a.example, https://b.example")
    assert load_settings().cors_origins == ("https://a.example", "https://b.example")


def test_addresses_lose_their_trailing_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_PUBLIC_BASE_URL", "https://calls.example/")
    assert load_settings().public_base_url == "https://calls.example"


def test_all_faults_are_told_at_once_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "70000")
    monkeypatch.setenv("TRUNKLINE_DURABILITY", "eternal")
    monkeypatch.setenv("TWILIO_BASE_URL", "localhost")
    with pytest.raises(SettingsError) as raised:
        load_settings(offline_delay_ms=-1)
    lines = str(raised.value).split("; ")
    assert [line.split(" is ")[0] for line in lines] == [
        "TRUNKLINE_PORT or PORT",
        "TRUNKLINE_DURABILITY",
        "TRUNKLINE_OFFLINE_DELAY_MS",
        "TWILIO_BASE_URL",
    ]
    assert "'70000'" in lines[0]
    assert "'eternal'" in lines[1]


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", "too-short")
    monkeypatch.setenv("TRUNKLINE_REDIS_URL", "http://user:hunter2@redis.example")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "TRUNKLINE_SECRET_KEY" in str(raised.value)
    assert "TRUNKLINE_REDIS_URL" in str(raised.value)
    assert "too-short" not in str(raised.value)
    assert "hunter2" not in str(raised.value)

    monkeypatch.setenv("TRUNKLINE_SECRET_KEY", "k" * 32)
    monkeypatch.setenv("TRUNKLINE_REDIS_URL", "redis://user:hunter2@redis.example")
    assert "hunter2" not in repr(load_settings())
    assert "kkkk" not in repr(load_settings())


def test_an_organizations_settings_are_set_and_forgotten_by_the_documents_names() -> None:
    pairs = [
        "TWILIO_AUTH_TOKEN=a=b",
        "TWILIO_PHONE_NUMBER=+1 (555) 010-0100",
        "GHL_BASE_URL=",
        "OPENAI_BASE_URL=http://x/",
    ]
    assert provider_changes(pairs) == {
        "twilio_auth_token": "a=b",
        "twilio_phone_number": "+15550100100",
        "ghl_base_url": None,
        "openai_base_url": "http://x",
    }


def test_what_callbacks_may_go_to_are_hosts_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CALLBACK_ALLOW", "10.0.0.0/8, hooks.internal")
    assert load_settings().callback_allow == ("10.0.0.0/8", "hooks.internal")
    monkeypatch.setenv("TRUNKLINE_CALLBACK_ALLOW", "http://hooks.internal")
    with pytest.raises(SettingsError, match="TRUNKLINE_CALLBACK_ALLOW"):
        load_settings()


def test_every_fault_of_an_organizations_settings_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        provider_changes(
            ["TWILIO_TOKEN=x", "twilio_auth_token=x", "GHL_API_TOKEN", "GHL_BASE_URL=ftp", "SMTP_URL=smtp://x"]
        )
    for name in ("TWILIO_TOKEN", "twilio_auth_token", "GHL_API_TOKEN", "GHL_BASE_URL"):
        assert name in str(refused.value)


def test_tokens_are_signed_in_one_way_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_JWT_SECRET", "s" * 32)
    assert load_settings().jwt_secret is not None
    monkeypatch.setenv("TRUNKLINE_JWKS_URL", "https://issuer.example/jwks.json")
    with pytest.raises(SettingsError, match="TRUNKLINE_JWKS_URL") as refused:
        load_settings()
    assert "s" * 32 not in str(refused.value)
