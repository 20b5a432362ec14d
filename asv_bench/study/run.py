"""Run the accuracy study: every contestant, stage by stage, from the same dense model of a seed.

    python asv_bench/study/prepare.py study.npz
    python asv_bench/study/run.py study.npz results.jsonl --seeds 0 1 2 --processes 8

Each job is a process of its own and writes lines of JSON as its stages end; one that is not done by
the deadline is missing from the results, never cut short. `report.py` makes tables and plots.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as Late
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from contestants import SETS, Contestant
from masked import PrunedModel, train
from tasks import TASKS

import tvwarray
from tvwarray.prune import StagePruner
from tvwarray.prune.state import StageRecord


class Job(NamedTuple):
    task: str
    seed: int
    contestant: Contestant | None
    """None trains the dense model that the others start from."""
    data: str
    folder: str
    device: str
    steps: int
    dense_steps: int | None


def run(job: Job) -> list[dict[str, Any]]:
    """Return the rows of a job."""
    torch.set_num_threads(1)
    with np.load(job.data) as file:
        data = dict(file)
    task = TASKS[job.task](data, job.seed, job.device)
    dense = Path(job.folder, f"{job.task}-{job.seed}.pt")
    row = {"task": job.task, "seed": job.seed}
    if job.contestant is None:
        steps = task.dense_steps if job.dense_steps is None else job.dense_steps
        train(task.model, task.loss, task.batches, steps, task.dense_rate)
        torch.save(task.model.state_dict(), dense)
        metrics = {split: task.metric(task.model, split) for split in ("validation", "test")}
        return [row | {"contestant": "dense", "target": 0.0, "sparsity": 0.0} | metrics]
    task.model.load_state_dict(torch.load(dense, map_location=job.device))

    model = PrunedModel(
        task.model,
        task.loss,
        task.batches,
        lambda m: task.metric(m, "validation"),
        steps=job.steps,
        rate=task.rate,
    )
    rows: list[dict[str, Any]] = []

    def note(record: StageRecord) -> None:
        shares = [float(m.mask.mean()) for m in model.layers.values()]
        rows.append(
            row
            | {
                "contestant": job.contestant.name,
                "target": record.target,
                "sparsity": record.sparsity,
                "score_kept": record.score_kept,
                "pruned": record.pruned,
                "validation": record.metric,
                "test": task.metric(task.model, "test"),
                "least": min(shares),
                "seconds": record.seconds,
            }
        )

    pruner = StagePruner(
        job.contestant.stages,
        job.contestant.pattern,
        regrow=job.contestant.regrow,
        callbacks=[note],
        **job.contestant.ranking,
    )
    pruner.run(model)
    return rows


def main() -> int:
    args = _arguments()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVWARRAY_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # processes that start later: a core each
    begin = time.monotonic()
    common = (args.data, args.folder, args.device, args.steps, args.dense_steps)
    Path(args.folder).mkdir(parents=True, exist_ok=True)
    tasks = dict.fromkeys(SETS[name][0] for name in args.sets)
    dense = [Job(task, seed, None, *common) for seed in args.seeds for task in tasks]
    pruned = [
        Job(SETS[name][0], seed, contestant, *common)
        for seed in args.seeds
        for name in args.sets
        for contestant in SETS[name][1]()
        if args.only is None or contestant.name in args.only
    ]
    failed = done = 0
    pool = ProcessPoolExecutor(args.processes, get_context("spawn"))
    with open(args.results, "w") as file:
        print(json.dumps({"machine": _machine(args)}), file=file, flush=True)
        for jobs in (dense, pruned):
            running: dict[Future[Any], Job] = {pool.submit(run, job): job for job in jobs}
            try:
                for future in as_completed(running, args.limit - (time.monotonic() - begin)):
                    try:
                        rows = future.result()
                    except Exception as e:  # one job that fails must not cost the others
                        failed += 1
                        print(f"FAILED {running[future][:3]}: {type(e).__name__}: {e}", flush=True)
                        continue
                    done += 1
                    for row in rows:
                        print(json.dumps(row), file=file, flush=True)
                    shown = " ".join(f"{r['test']:.3f}" for r in rows)
                    name = rows[0]["contestant"]
                    print(
                        f"{time.monotonic() - begin:5.0f} s  {rows[0]['task']} {rows[0]['seed']} "
                        f"{name:28} {shown}",
                        flush=True,
                    )
            except Late:
                print("the time is up", flush=True)
    print(f"{done} jobs done, {failed} failed, of {len(dense) + len(pruned)}", flush=True)
    for process in pool._processes.values():  # what runs past the deadline is not waited for
        process.kill()
    return 1 if failed else 0


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    return {
        "gpu": gpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "tvwarray": tvwarray.__version__,
        "steps": args.steps,
        "seeds": args.seeds,
    }


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", help="what prepare.py wrote")
    p.add_argument("results", help="the file to write, a line of JSON for each stage")
    p.add_argument("--sets", nargs="+", default=["text", "images"], choices=list(SETS))
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--only", nargs="+", help="contestants by name")
    p.add_argument("--steps", type=int, default=100, help="fine-tuning steps of a stage")
    p.add_argument("--dense-steps", type=int, help="training steps of the dense model")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    p.add_argument("--limit", type=float, default=3600.0, help="seconds after which it ends")
    p.add_argument("--folder", default="study-models", help="where dense models are kept")
    return p.parse_args()


if __name__ == "__main__":
    sys.exit(main())
