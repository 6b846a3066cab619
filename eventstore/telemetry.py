"""Every metric: its name, its meaning, and what to do when it moves. Never labelled by organization or person."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from eventstore.meters import Level, Tally, Timings

FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

APPEND_SECONDS = Timings(
    "trunkline_append_seconds",
    "Time from an append call to its reply. Rising: Redis is saturated or AOF is slow. `Backlog`: consumers or the "
    "archive lag behind.",
    "outcome", ("Appended", "Duplicate", "KeyReused", "Fenced", "HeldBy", "VersionConflict", "Backlog"), FAST,
)  # fmt: skip

DELIVERY_SECONDS = Histogram(
    "trunkline_delivery_seconds",
    "Time from an event's append to its first write to a subscriber's socket. Rising: the edge's core is full.",
    buckets=FAST,
)
SUBSCRIBERS = Gauge("trunkline_subscribers", "Open streams by dialect and wire format.", ["dialect", "wire"])
FRAMES = Counter("trunkline_frames_total", "Frames written to subscribers.")
FRAME_BYTES = Counter("trunkline_frame_bytes_total", "Bytes written to subscribers.")
CATCH_UP_PAGES = Counter(
    "trunkline_catch_up_pages_total", "Pages read from the log for subscribers behind the in-memory window."
)
RING_HITS = Counter("trunkline_ring_hits_total", "Times a subscriber that was behind was served from memory.")
GAPS = Counter("trunkline_gaps_total", "Gap frames by reason. `ahead`: a Redis came back shorter.", ["reason"])
CONSUMER_LAG = Gauge(
    "trunkline_consumer_lag_events",
    "Facts not acknowledged yet by the durable consumer furthest behind, of those connected here. Rising: it is too "
    "slow, or does not acknowledge; `GET /v1/consumers` tells which one.",
)
SLOW_CUTS = Counter("trunkline_slow_cuts_total", "Streams cut because the client read nothing for a minute.")
RELOADS = Counter("trunkline_tailer_reconnects_total", "Times the tailer lost Redis and checked the log again.")

REQUESTS = Tally("trunkline_http_requests_total", "Requests by route and status class.", ["route", "status"])
SENT_AWAY = Counter(
    "trunkline_sent_away_total",
    "EventSources that got 200, `retry:` and a cut, by the code of the error that others are shown. They come back by "
    "themselves. `TOO_MANY_STREAMS`: start more edges.",
    ["code"],
)
WEBHOOKS = Counter(
    "trunkline_webhooks_total", "Webhooks by source and outcome. `bad_signature`: wrong secret or URL.",
    ["source", "outcome"],
)  # fmt: skip

LANES_ACTIVE = Gauge("trunkline_lanes_active", "Lanes this worker holds now.")
WORK_ITEMS = Tally(
    "trunkline_work_items_total", "Items by handler and outcome. `parked`: someone must look.", ["handler", "outcome"]
)
WORK_SECONDS = Timings("trunkline_work_seconds", "Time an item was being handled.", "handler", (), SLOW)
LANES_PARKED = Counter("trunkline_lanes_parked_total", "Lanes parked after too many attempts.")
PARKED_LANES = Level(
    "trunkline_parked_lanes",
    "Lanes that wait for a person, of all organizations in the worker's shards. Above 0: `trunkline park ORG` tells "
    "why they stopped; mend that, then `redrive` them, or `drop` what never can be done.",
)
PARKED_OLDEST_SECONDS = Level(
    "trunkline_parked_oldest_seconds", "How long the oldest of these lanes has been waiting; 0 when there is none."
)
EFFECTS = Counter("trunkline_effects_total", "Calls to the outside by effect and outcome.", ["effect", "outcome"])
FIRST_TOKEN_SECONDS = Histogram(
    "trunkline_model_first_token_seconds", "Time from a model call to its first token.", buckets=SLOW
)
MODEL_TOKENS = Counter(
    "trunkline_model_tokens_total",
    "Tokens that language models counted, by kind (`input output cache_write cache_read`), broken streams included.",
    ["kind"],
)
MODEL_COST = Counter(
    "trunkline_model_cost_usd_total", "What these tokens cost, for models whose price is known. Rising: see the tokens."
)
MODEL_ERRORS = Counter(
    "trunkline_model_errors_total",
    "Model calls that failed, by kind. `rate_limit`, `overloaded`: they are repeated; "
    "`authentication`, `billing`, `not_found`: see the settings.",
    ["kind"],
)
