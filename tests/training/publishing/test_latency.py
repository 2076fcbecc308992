"""Latency: what is timed, what is left out, and where it is written."""

import json

import pytest
import torch
from small_pictures import picture, save
from small_report import describe

from training.publishing import latency
from training.publishing.latency import WARM_UP, add_latency, main, measure_latency, measure_on_devices


class Clock:
    """Stands for `time`, and for a detector whose n-th prediction takes the n-th duration, in milliseconds."""

    def __init__(self, durations):
        self.now, self.durations, self.seen, self.device = 0.0, iter(durations), [], torch.device("cpu")

    def perf_counter(self):
        return self.now

    def predict(self, shown):
        self.seen.append(shown)
        return self

    @property
    def anomaly_map(self):
        """Takes the time, because it belongs to what is measured."""
        self.now += next(self.durations) / 1000

    def to(self, device):
        self.device = torch.device(device)
        return self


def test_median_and_95th_percentile_of_all_calls_but_the_first(monkeypatch):
    clock = Clock([1e6] * WARM_UP + [*range(1, 22)])
    monkeypatch.setattr(latency, "time", clock)
    measured = measure_latency(clock, picture(0), repeats=21)
    assert (measured["median_ms"], measured["p95_ms"], measured["repeats"]) == (11.0, 20.0, 21)


def test_a_file_is_decoded_once_before_the_clock_starts(monkeypatch, tmp_path):
    clock = Clock([1.0] * 10)
    monkeypatch.setattr(latency, "time", clock)
    measured = measure_latency(clock, save(picture(0), tmp_path / "photo.png"), repeats=2)
    assert len(clock.seen) == WARM_UP + 2 and len({id(shown) for shown in clock.seen}) == 1
    assert clock.seen[0].size == (48, 40) and (measured["height"], measured["width"]) == (40, 48)


def test_what_was_trained_on_a_gpu_is_timed_on_the_cpu_as_well(monkeypatch):
    clock = Clock([1.0] * (WARM_UP + latency.REPEATS) + [9.0] * (WARM_UP + latency.REPEATS)).to("cuda")
    monkeypatch.setattr(latency, "time", clock)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    measured = measure_on_devices(clock, picture(0))
    assert {kind: each["median_ms"] for kind, each in measured.items()} == {"cuda": 1.0, "cpu": 9.0}
    assert measured["cuda"]["device"] == "a GPU" != measured["cpu"]["device"]


@pytest.fixture
def folder(model_folder, monkeypatch):
    """A finished model, timed on a CPU that is not this one, and on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    elsewhere = {"median_ms": 1e6, "p95_ms": 1e6, "device": "elsewhere", "threads": 1, "height": 1, "width": 1}
    timed = {"cpu": elsewhere | {"repeats": 1}, "cuda": elsewhere | {"repeats": 1}}
    return describe(model_folder / "simplenet-toy-widget", latency=timed)


def test_a_finished_model_gets_the_time_of_this_machine_and_keeps_that_of_other_devices(folder, monkeypatch):
    monkeypatch.setattr(latency, "REPEATS", 20)
    add_latency(folder, picture(0))
    report = json.loads((folder / "metrics.json").read_text())
    assert report["latency"]["cuda"]["device"] == "elsewhere" != report["latency"]["cpu"]["device"]
    assert 0 < report["latency"]["cpu"]["median_ms"] <= report["latency"]["cpu"]["p95_ms"] < 1e6
    row = next(line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| CPU |"))
    assert "CPU threads: 5; picture: 40 x 48; 20 times" in row


def test_the_command_measures_every_finished_model_of_a_run(folder, tmp_path, capsys):
    main([str(folder.parent), str(save(picture(0), tmp_path / "photo.png"))])
    assert capsys.readouterr().out.startswith("simplenet-toy-widget: cpu ")  # the other one has no report


@pytest.mark.parametrize(
    ("run", "message"), [(".", "give a PICTURE"), ("simplenet-toy-widget", "contains no finished model")]
)
def test_the_command_says_what_is_missing(run, message, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(folder.parent / run)])
    assert ended.value.code == 2 and message in capsys.readouterr().err
