"""Fifty visitors of the demo for a minute: `python -m benchmarks.load`. Starts the demo like `make demo`.

Each visitor loads the page and uploads a picture: an example, a photo of 12 megapixels, or a broken file. Then it
requests the report like a browser or, every fourth time, the numbers like a program, and starts again after the
answer. If the queue is full, the visitor tries again after 1 to 3 s. An answer counts if its content is right for the
picture. A request is lost if it is neither answered nor refused. Prints and writes `results/load.json`: answers,
refusals, errors, losses, seconds to the answer, and each second the memory of the process. Needs `.[train,dev]`.
"""

import argparse
import asyncio
import io
import random
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import numpy as np
import psutil
from browser import ROOT, running
from PIL import Image

from training.evaluation import git_commit, machine, versions, write_json

RESULT = Path(__file__).parent / "results" / "load.json"
PATIENCE = 120  # seconds after which an accepted request without answer is lost
CATEGORIES = ("brushed_metal", "cloth", "connector", "pill", "washer")
KINDS = ("example", "example", "example", "camera", "broken")  # kinds of pictures, by how often they are uploaded
EXPECTED = {"example": 'aria-label=\\"GLASS\\"', "camera": 'aria-label=\\"GLASS\\"', "broken": "Not inspected"}
EXPECTED_OF_API = {"example": '"is_anomalous"', "camera": '"is_anomalous"', "broken": '"unknown_format"'}


@dataclass
class Tally:
    """Everything that happened to all visitors, and the memory of the app."""

    counts: Counter = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"page": [], "answer": [], "queue": []})
    refusals: list[int] = field(default_factory=list)  # number of refusals before each answer
    memory_mb: list[float] = field(default_factory=list)  # each second
    open_files: list[int] = field(default_factory=list)
    trouble: Counter = field(default_factory=Counter)


class Refused(Exception):
    """The queue is full."""


def pictures() -> dict[str, list[tuple[str, bytes]]]:
    """Files to upload by kind, each with its category."""
    shown = [(f"parts / {c}", p.read_bytes()) for c in CATEGORIES for p in (ROOT / "examples/parts" / c).glob("*.png")]
    coarse = np.random.default_rng(0).integers(60, 200, (120, 160, 3), np.uint8)
    photo, stream = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC), io.BytesIO()
    photo.save(stream, "JPEG", quality=92)
    camera = [(f"parts / {c}", stream.getvalue()) for c in CATEGORIES]
    return {"example": shown, "camera": camera, "broken": [("parts / pill", b"\x89PNG\r\n\x1a\nand no more")]}


async def visitor(client: httpx2.AsyncClient, files: dict, until: float, tally: Tally, rng: random.Random) -> None:
    """One visitor, who uploads pictures until the time is over."""
    session = uuid.uuid4().hex
    await asyncio.sleep(rng.uniform(0, 3))
    while time.perf_counter() < until:
        kind = rng.choice(KINDS)
        category, content = rng.choice(files[kind])
        try:
            begun = time.perf_counter()
            (await client.get("/")).raise_for_status()
            tally.seconds["page"].append(time.perf_counter() - begun)
            own = content + rng.randbytes(16)  # decoders ignore the end; equal files would be stored once
            sent = await client.post("/gradio_api/upload", files={"files": ("part.png", own)})
            upload = {"path": sent.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}
            send = request_numbers if rng.random() < 0.25 else request_report
            await insist(send, client, session, category, upload, kind, until, tally, rng)
        except httpx2.HTTPError as error:
            tally.counts["errors"] += 1
            tally.trouble[f"{type(error).__name__}: {error}"[:200]] += 1
        await asyncio.sleep(rng.uniform(0.2, 1))


async def insist(request, client, session, category, upload, kind, until, tally, rng) -> None:
    """Sends the request until it is answered; gives up if the time is over before the queue has a place."""
    first, refused = time.perf_counter(), 0
    while True:
        sent_at = time.perf_counter()
        try:
            is_right = await asyncio.wait_for(request(client, session, category, upload, kind), PATIENCE)
        except Refused:
            refused += 1
            tally.counts["refused"] += 1
            if sent_at > until:
                tally.counts["refused until the end"] += 1
                return
            await asyncio.sleep(rng.uniform(1, 3))
            continue
        except (TimeoutError, EOFError):
            tally.counts["lost"] += 1
            return
        tally.counts["answers" if is_right else "errors"] += 1
        tally.counts[f"answers to {kind}"] += bool(is_right)
        if is_right:
            tally.seconds["answer"].append(time.perf_counter() - first)
            tally.seconds["queue"].append(time.perf_counter() - sent_at)
            tally.refusals.append(refused)
        else:
            tally.trouble[f"wrong answer to {kind} by {request.__name__}"] += 1
        return


async def request_report(client, session, category, upload, kind) -> bool:
    """Requests the report like a browser; returns whether it is right."""
    body = {"data": [category, upload], "fn_index": client.inspect_event, "session_hash": session}
    event = await join(client, "/gradio_api/queue/join", body)
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        async for line in stream.aiter_lines():
            if event in line and '"process_completed"' in line:
                return EXPECTED[kind] in line
    raise EOFError


async def request_numbers(client, session, category, upload, kind) -> bool:
    """Requests the numbers like a program; returns whether they are right."""
    event = await join(client, "/gradio_api/call/inspect", {"data": [upload, category, None, False]})
    answer = await client.get(f"/gradio_api/call/inspect/{event}")
    if "event: complete" not in answer.text and "event: error" not in answer.text:
        raise EOFError
    return EXPECTED_OF_API[kind] in answer.text


async def join(client, path: str, body: dict) -> str:
    """The id of the event."""
    answer = await client.post(path, json=body)
    if answer.status_code == 503 and "Queue is full" in answer.text:
        raise Refused
    return answer.raise_for_status().json()["event_id"]


async def watch(process: psutil.Process, tally: Tally) -> None:
    """Records memory and open files of the process each second."""
    while True:
        tally.memory_mb.append(process.memory_info().rss / 2**20)
        tally.open_files.append(process.num_fds())
        await asyncio.sleep(1)


async def crowd(url: str, process: psutil.Process, visitors: int, seconds: float) -> dict:
    """The whole minute; returns the results."""
    tally, files = Tally(), pictures()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False) as client:
        config = (await client.get("/config")).json()
        (client.inspect_event,) = (
            d["id"] for d in config["dependencies"] if d["api_name"] == "inspect_1"
        )  # the button
        for category, content in files["example"][:1] + files["camera"]:  # loads the models before the visitors come
            await alone(client, category, content)
        quiet = [await alone(client, *files["example"][0]) for _ in range(3)]
        before, watching = process.memory_info().rss / 2**20, asyncio.create_task(watch(process, tally))
        until = time.perf_counter() + seconds
        await asyncio.gather(*(visitor(client, files, until, tally, random.Random(seed)) for seed in range(visitors)))
        crowd_s = time.perf_counter() - until + seconds
        watching.cancel()
        after = [await alone(client, *files["example"][0]) for _ in range(3)]
        await asyncio.sleep(10)  # until the server notices closed connections
    return figures(tally, process, before, crowd_s) | {"alone_before_s": min(quiet), "alone_after_s": min(after)}


async def alone(client, category: str, content: bytes) -> float:
    """Seconds to the report without other visitors."""
    begun = time.perf_counter()
    sent = await client.post("/gradio_api/upload", files={"files": ("part.png", content)})
    upload = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
    if not await request_report(client, uuid.uuid4().hex, category, upload, "example"):
        raise SystemExit(f"no report on {category}")
    return time.perf_counter() - begun


def figures(tally: Tally, process: psutil.Process, before: float, crowd_s: float) -> dict:
    """Everything that was counted and measured."""
    half = tally.memory_mb[len(tally.memory_mb) // 2 :]
    slope = np.polyfit(range(len(half)), half, 1)[0] * 60
    shares = {"p50": 50, "p95": 95, "max": 100}
    times = {f"{what}_{s}_s": np.percentile(t, q) for what, t in tally.seconds.items() for s, q in shares.items()}
    memory = {"before": before, "peak": max(tally.memory_mb), "end": process.memory_info().rss / 2**20}
    counted = dict.fromkeys(("answers", "refused", "errors", "lost"), 0) | tally.counts
    return {
        **{name.replace(" ", "_"): count for name, count in counted.items()},
        "most_refusals_of_one_question": max(tally.refusals),
        "crowd_s": crowd_s,
        **times,
        **{f"memory_{when}_mb": value for when, value in memory.items()},
        "memory_slope_second_half_mb_per_minute": slope,
        "open_files_before": tally.open_files[0],
        "open_files_peak": max(tally.open_files),
        "open_files_end": process.num_fds(),
        "threads_end": process.num_threads(),
        "trouble": dict(tally.trouble),
        "memory_mb": [round(value) for value in tally.memory_mb],
    }


def main() -> None:
    """Prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    with TemporaryDirectory() as place, running(Path(place)) as url:
        (process,) = psutil.Process().children()
        row = asyncio.run(crowd(url, process, args.visitors, args.seconds))
        left = [path for path in (Path(place) / "up").rglob("*") if path.is_file()]
        row |= {"uploads_left": len(left), "uploads_left_mb": sum(path.stat().st_size for path in left) / 2**20}
        row["tracebacks_in_log"] = (Path(place) / "log.txt").read_text().count("Traceback")
    row = {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
    row |= {"visitors": args.visitors, "seconds": args.seconds}
    for name, value in row.items():
        print(f"{name.replace('_', ' '):42} {value}")
    origin = {"machine": machine(), "commit": git_commit(), "versions": versions()}
    write_json(RESULT, {"command": " ".join(["python -m benchmarks.load", *sys.argv[1:]])} | row | origin)


if __name__ == "__main__":
    main()
