"""Fuzz readers of foreign files: `python -m tests.fuzzing --seconds 600 --only chat`.

With `--record FILE` the seconds are a total: every reader gets turns of a minute, what it had is kept in that file, and
the next call goes on from there with other changes.

Every finding is written to a folder: the changed file, and beside it the traceback. A case that crashes the process, or
takes more memory than is allowed, is found by the process that watches; it goes on with the next seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.fuzzing.targets import TARGETS

_MEMORY = 6 << 30
# Processor seconds to import what is needed, to make what is sound, and for a last case.
_START = 120.0
# Processor seconds of a reader before the next one's turn, where a record is kept.
_TURN = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, for each reader")
    parser.add_argument("--only", help="the reader of this name, or those whose name contains it")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--findings", type=Path, default=Path("fuzzing-findings"), help="folder for what is found")
    parser.add_argument(
        "--record", type=Path, help="file of what every reader had so far; a later call goes on from it"
    )
    parser.add_argument("--list", action="store_true", help="print the readers")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    named = options.only in TARGETS
    names = [options.only] if named else [name for name in TARGETS if (options.only or "") in name]
    if options.list:
        print("\n".join(names))
        return 0
    if options.child:
        fuzz(options.child, options.seconds, options.seed, options.findings)
        return 0
    if options.record:
        found = recorded(names, options)
    else:
        found = sum(watched(name, options.seconds, options.seed, options.findings)["found"] for name in names)
    print(f"{found} findings" + (f", in {options.findings}" if found else ""))
    return 1 if found else 0


def recorded(names: list[str], options: argparse.Namespace) -> int:
    """Findings of this call, which gives each reader turns until it had `--seconds` in all, by the record.

    The record names for every reader its processor seconds, cases, findings and turns; a turn has changes of its own.
    """
    record = json.loads(options.record.read_text()) if options.record.exists() else {}
    new = 0
    while behind := [name for name in names if record.get(name, {}).get("seconds", 0) < options.seconds]:
        name = min(behind, key=lambda one: record.get(one, {}).get("seconds", 0))
        had = record.setdefault(name, {"seconds": 0, "cases": 0, "found": 0, "turns": 0})
        turn = min(_TURN, options.seconds - had["seconds"])
        told = watched(name, turn, options.seed + had["turns"], options.findings)
        for key, value in told.items():
            had[key] += value
        had["turns"] += 1
        had["seconds"] += turn
        new += told["found"]
        scratch = options.record.with_suffix(".new")
        scratch.write_text(json.dumps(record, indent=1))
        scratch.replace(options.record)
    return new


def watched(name: str, seconds: float, seed: int, findings: Path) -> dict[str, int]:
    """Cases and findings of one reader, in a process of its own, and in another one where that died."""
    left, found, cases = seconds, 0, 0
    while left > 1:
        with tempfile.TemporaryDirectory() as place:
            state, errors = Path(place) / "state.json", Path(place) / "errors"
            command = [
                sys.executable,
                "-m",
                "tests.fuzzing",
                "--child",
                name,
                "--seconds",
                str(left),
                "--seed",
                str(seed),
            ]
            command += ["--findings", str(findings)]
            environment = os.environ | {"FUZZING_STATE": str(state), "LUTHIER_CACHE": f"{place}/cache"}
            with errors.open("wb") as stream:
                child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stream)
                used = _used_until_the_end(child, left + _START)
            died = "hung" if used > left + _START else f"ended with {child.returncode}" if child.returncode else ""
            told = json.loads(state.read_text()) if state.exists() else {}
            if died and not told:
                raise RuntimeError(f"{name}: what is sound is not read; it {died}:\n{errors.read_text()[-3000:]}")
            cases, found = cases + told["cases"], found + told["found"]
            if not died:
                break
            found, left, seed = found + 1, left - used, seed + 1000
            told_by = f"{died}\n{errors.read_text(errors='replace')[-3000:]}"
            keep(findings, name, told["file"], bytes.fromhex(told["content"]), told_by, died)
    print(f"{name}: {cases} cases, {found} findings", flush=True)
    return {"cases": cases, "found": found}


def _used_until_the_end(child: subprocess.Popen[bytes], most: float) -> float:
    """Processor seconds that a process took; it is ended where it takes more than `most`."""
    process, used = psutil.Process(child.pid), 0.0
    while child.poll() is None:
        with contextlib.suppress(psutil.Error):
            used = sum(process.cpu_times()[:2])
        if used > most:
            child.kill()
            child.wait()
        time.sleep(0.5)
    return used


def fuzz(name: str, seconds: float, seed: int, findings: Path) -> None:
    """Cases of one reader until the time is over; the state is written before each."""
    from tests.fuzzing.cases import tried

    target, draw = TARGETS[name], random.Random(f"{name} {seed}")
    state, seen, cases = Path(os.environ["FUZZING_STATE"]), set(), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "case"
        sound = target.sound(folder)
        target.run(folder)  # takes what is sound, or there is nothing to change
        end = time.process_time() + seconds
        limit = _MEMORY + _mapped()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        while time.process_time() < end:
            file, content = target.changed(sound, draw)
            told = {"cases": cases, "found": len(seen), "file": file, "content": content.hex()}
            state.write_text(json.dumps(told))
            finding = tried(target, folder, file, content, sound)
            cases += 1
            if finding is not None and finding.key not in seen:
                seen.add(finding.key)
                keep(findings, name, file, content, finding.text, finding.key)
    state.write_text(json.dumps({"cases": cases, "found": len(seen)}))


def keep(folder: Path, target: str, file: str, content: bytes, text: str, key: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = "".join(one if one.isalnum() else "-" for one in f"{target} {key}")[:120]
    (folder / f"{stem}.{Path(file).name}").write_bytes(content)
    (folder / f"{stem}.txt").write_text(f"{target}: {file}\n{key}\n{text}", encoding="utf-8", errors="backslashreplace")
    print(f"{target}: {key}", flush=True)


def _mapped() -> int:
    """Bytes of addresses that the process has, libraries included."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
