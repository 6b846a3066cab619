"""Metrics that prometheus_client does not have: of what only some processes know, and of what happens ten thousand
times a second, for one thread to write. Those are numbers in plain dicts, which become its own when somebody scrapes:
its own take a lock for every number, and several calls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector
from prometheus_client.utils import floatToGoString


class Tally(Collector):
    """A counter by labels."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._name = name
        self._meaning = meaning
        self._counts: dict[tuple[str, ...], int] = {}
        REGISTRY.register(self)

    def inc(self, *labels: str) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._meaning, labels=self.labels)]

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._meaning, labels=self.labels)
        for labels, count in tuple(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class Level(Collector):
    """A gauge that only processes show that have set it: elsewhere a 0 would say that all is well."""

    labels = ()

    def __init__(self, name: str, meaning: str) -> None:
        self._name = name
        self._meaning = meaning
        self._value: float | None = None
        REGISTRY.register(self)

    def set(self, value: float) -> None:
        self._value = value

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._meaning)]

    def collect(self) -> Iterator[Metric]:
        if self._value is not None:
            yield GaugeMetricFamily(self._name, self._meaning, self._value)


class Timings(Collector):
    """A histogram of seconds by one label; of its values, those that are shown before they occur."""

    def __init__(self, name: str, meaning: str, label: str, values: Sequence[str], bounds: Sequence[float]) -> None:
        self.labels = (label,)
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._counts = defaultdict(lambda: [0] * (len(bounds) + 1), {v: [0] * (len(bounds) + 1) for v in values})
        self._sums = defaultdict(float, dict.fromkeys(values, 0.0))
        REGISTRY.register(self)

    def observe(self, value: str, seconds: float) -> None:
        self._counts[value][bisect_left(self._bounds, seconds)] += 1
        self._sums[value] += seconds

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._meaning, labels=self.labels)]

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._meaning, labels=self.labels)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for value, counts in tuple(self._counts.items()):
            family.add_metric([value], list(zip(names, accumulate(counts), strict=True)), self._sums[value])
        yield family
