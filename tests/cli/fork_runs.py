"""Runs the command line in forked children and kills them. A process of its own, so that forking is safe.

Imports are paid once; each child starts at the command itself, and dies by SIGKILL at a random moment.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import time

import peft.tuners.lora
import torch
import transformers.models.bert.modeling_bert
import transformers.trainer

import luthier.evaluation.run
import luthier.report.tables
import luthier.training.supervised
import luthier.tuning.residual_prompt
from luthier.cli.arguments import main

PAID_ONCE = (peft.tuners.lora, transformers.models.bert.modeling_bert, transformers.trainer, luthier.evaluation.run)
PAID_ONCE += (luthier.report.tables, luthier.tuning.residual_prompt, luthier.training.supervised)


def child(arguments: list[str]) -> int:
    """Start the command in a forked child; returns its process id."""
    gc.freeze()  # no child looks for garbage among what was imported
    process = os.fork()
    if process == 0:
        try:
            code = main(arguments)
        except BaseException:
            code = 99
        os._exit(code)
    return process


def run(arguments: list[str]) -> tuple[int, float]:
    """Let the command run to its end; its exit code and seconds."""
    started = time.perf_counter()
    _, status = os.waitpid(child(arguments), 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - started


def run_killed(arguments: list[str], kills: int, longest: float, seed: int) -> dict:
    """Kill the command at random moments; then let it finish. A child that ends before its kill starts no new one."""
    draw, died, finished = random.Random(seed), 0, 0
    for _ in range(kills):
        process = child(arguments)
        time.sleep(draw.uniform(0.02, longest))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        died += code == -signal.SIGKILL
        finished += code == 0
        if code not in (0, -signal.SIGKILL):
            return {"code": code}
    code, _ = run(arguments)
    return {"code": code, "died": died, "finished": finished}


if __name__ == "__main__":
    torch.set_num_threads(1)
    straight, killed, kills = json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    warm, _ = run([*straight, "--output", "warm"])
    code, seconds = run(straight)
    print(json.dumps({"straight": code, **run_killed(killed, kills, 0.6 * seconds, seed=7)}))
