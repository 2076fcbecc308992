"""Fifty visitors of the demo for a minute: `python -m benchmarks.load`. Starts the demo like `make demo`.

Each visitor loads the page and uploads a picture: an example, a photo of 12 megapixels, or a broken file. Then it
requests the report like a browser or, every fourth time, the numbers like a program, and starts again after the
answer. If the queue is full, the visitor tries again after 1 to 3 s. An answer counts if its content is right for the
picture. A request is lost if it is neither answered nor refused. Prints and writes `results/load.json`: answers,
refusals, errors, losses, seconds to the answer, and each second the memory of the process. Needs `.[train,dev]`.

`python -m benchmarks.load programs` measures what programs get that send pictures of 256 pixels: `hubmodels serve`
with one and two processes, and the demo, by one plain request and by the three steps of its endpoint. Each client
sends the next picture after the answer. All models of one part judge. `answers per CPU second` is the throughput of
one core: the CPU time is that of the server alone. `python -m benchmarks.load table` prints the results.
"""

import argparse
import asyncio
import io
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import numpy as np
import psutil
from app_process import wait_for
from browser import ROOT, running
from hub_environment import free_port
from PIL import Image

from benchmarks.measuring import origin, provenance, report, table
from benchmarks.timing import spread
from training.evaluation import git_commit, machine, versions, write_json

RESULT = Path(__file__).parent / "results" / "load.json"
OF_PROGRAMS = RESULT.with_name("load_programs.json")
COLUMNS = (
    *("server", "request", "clients", "answers", "refused", "errors", "answers per second", "answers per CPU second"),
    *("median_ms", "p95_ms", "memory_mb"),
)
WARM_UP = 3  # seconds
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


# ---------------------------------------------------------------- programs


@contextmanager
def serving(workers: int, folder: Path) -> Iterator[str]:
    """Address of `hubmodels serve` with all methods of one part."""
    port, log, environment = free_port(), folder / "log.txt", os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "hubmodels", "serve", "--model", "washer", "--workers", str(workers)]
    words += ["--port", str(port)]
    with (
        log.open("w") as out,
        subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=out) as process,
    ):
        try:
            yield wait_for(f"http://127.0.0.1:{port}/healthz", process, log).removesuffix("/healthz")
        finally:
            process.terminate()


async def judge(client: httpx2.AsyncClient, content: bytes) -> bool:
    """One plain request; returns whether the answer is right."""
    answer = await client.post("/judge", files={"picture": ("part.png", content)}, data={"category": "parts / washer"})
    if answer.status_code in (429, 503):
        raise Refused
    return answer.status_code == 200 and answer.json()["verdicts"] == 3


async def three_steps(client: httpx2.AsyncClient, content: bytes) -> bool:
    """Upload, call and result of the demo's endpoint; returns whether the answer is right."""
    sent = await client.post("/gradio_api/upload", files={"files": ("part.png", content)})
    upload = {"path": sent.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}
    return await request_numbers(client, None, "parts / washer", upload, "example")


Ask = Callable[[httpx2.AsyncClient, bytes], Awaitable[bool]]
SERVERS = {  # by name: how it starts, and the requests that it answers
    "serve, 1 process": (lambda folder: serving(1, folder), {"/judge": judge}),
    "serve, 2 processes": (lambda folder: serving(2, folder), {"/judge": judge}),
    "demo": (running, {"/judge": judge, "three steps": three_steps}),
}


async def program(
    send: Ask, client: httpx2.AsyncClient, contents: Sequence[bytes], until: float, tally: Tally
) -> None:
    """One program, which sends pictures one after the other until the time is over."""
    number = 0
    while (begun := time.perf_counter()) < until:
        try:
            is_right = await send(client, contents[number % len(contents)] + os.urandom(16))
            tally.counts["answers" if is_right else "errors"] += 1
            tally.seconds["answer"] += [time.perf_counter() - begun] * is_right
        except Refused:
            tally.counts["refused"] += 1
            await asyncio.sleep(0.1)
        except httpx2.HTTPError:
            tally.counts["errors"] += 1
        number += 1


async def programs(url: str, send: Ask, clients: int, seconds: float) -> Tally:
    """What several programs at once get in so many seconds."""
    contents, tally = [path.read_bytes() for path in sorted((ROOT / "examples/parts/washer").glob("*.png"))], Tally()
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(program(send, client, contents, until, tally) for _ in range(clients)))
    return tally


def of_all(processes: Sequence[psutil.Process]) -> tuple[float, float]:
    """CPU seconds until now, and MB of memory, of some processes together."""
    cpu = sum(sum(process.cpu_times()[:2]) for process in processes)
    return cpu, sum(process.memory_info().rss for process in processes) / 2**20


def measure_programs(name: str, clients: Sequence[int], seconds: float) -> Iterator[dict]:
    """The rows of a server."""
    start, requests = SERVERS[name]
    with TemporaryDirectory() as place, start(Path(place)) as url:
        for request, send in requests.items():
            asyncio.run(programs(url, send, 4, WARM_UP))
            for count in clients:
                processes = psutil.Process().children(recursive=True)
                before, begun = of_all(processes)[0], time.perf_counter()
                tally = asyncio.run(programs(url, send, count, seconds))
                row = {"server": name, "request": request, "clients": count}
                yield row | figures_of_programs(tally, time.perf_counter() - begun, before, processes)


def figures_of_programs(tally: Tally, wall_s: float, before: float, processes: Sequence[psutil.Process]) -> dict:
    """A row, without its name."""
    cpu, memory = of_all(processes)
    counts = {name: tally.counts[name] for name in ("answers", "refused", "errors")}
    rates = {"answers per second": wall_s, "answers per CPU second": cpu - before}
    rates = {name: round(counts["answers"] / time_s, 1) for name, time_s in rates.items()}
    return counts | rates | spread([1000 * s for s in tally.seconds["answer"]]) | {"memory_mb": round(memory)}


def write_programs(clients: Sequence[int], seconds: float) -> None:
    """Prints and writes all rows."""
    rows = [row for name in SERVERS for row in measure_programs(name, clients, seconds)]
    where = provenance(" ".join(["python -m benchmarks.load", *sys.argv[1:]]))
    report(OF_PROGRAMS.stem, [row | where for row in rows], COLUMNS)


def results_table() -> str:
    """The rows of the last measurement with programs."""
    rows = json.loads(OF_PROGRAMS.read_text(encoding="utf-8"))
    return f"{table(rows, COLUMNS)}\n\n{origin(rows[0])}"


def main() -> None:
    """Prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=("visitors", "programs", "table"), nargs="?", default="visitors")
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="programs at once")
    args = parser.parse_args()
    if args.who == "table":
        print(results_table())
    elif args.who == "programs":
        write_programs(args.clients, args.seconds)
    else:
        write_visitors(args)


def write_visitors(args: argparse.Namespace) -> None:
    """Prints and writes what the visitors got."""
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
    where = {"machine": machine(), "commit": git_commit(), "versions": versions()}
    write_json(RESULT, {"command": " ".join(["python -m benchmarks.load", *sys.argv[1:]])} | row | where)


if __name__ == "__main__":
    main()
