"""Fuzz readers of foreign files: `python -m tests.fuzzing --seconds 600 --only chat`.

Every finding is written to a folder: the changed file, and beside it the traceback. A case that crashes the process, or
takes more memory than is allowed, is found by the process that watches; it goes on with the next seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzzing.targets import TARGETS

_MEMORY = 6 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--only", help="the reader of this name, or those whose name contains it")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--findings", type=Path, default=Path("fuzzing-findings"), help="folder for what is found")
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
    found = sum(watched(name, options) for name in names)
    print(f"{found} findings" + (f", in {options.findings}" if found else ""))
    return 1 if found else 0


def watched(name: str, options: argparse.Namespace) -> int:
    """Fuzz one reader in a process of its own, and in another one where that died."""
    end, seed, found, cases = time.monotonic() + options.seconds, options.seed, 0, 0
    while (left := end - time.monotonic()) > 1:
        with tempfile.TemporaryDirectory() as place:
            state = Path(place) / "state.json"
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
            environment = os.environ | {"FUZZING_STATE": str(state), "LUTHIER_CACHE": f"{place}/cache"}
            command += ["--findings", str(options.findings)]
            try:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=left + 120)
                died = f"ended with {done.returncode}:\n{done.stderr[-3000:]}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                died = "hung"
            told = json.loads(state.read_text()) if state.exists() else {}
            cases, found = cases + told.get("cases", 0), found + told.get("found", 0)
            if not died:
                break
            if not told:
                raise RuntimeError(f"{name}: what is sound is not read; it {died}")
            found += 1
            keep(options.findings, name, told.get("file", "none"), bytes.fromhex(told.get("content", "")), died, "died")
            seed += 1000
    print(f"{name}: {cases} cases, {found} findings", flush=True)
    return found


def fuzz(name: str, seconds: float, seed: int, findings: Path) -> None:
    """Cases of one reader until the time is over; the state is written before each."""
    from tests.fuzzing.cases import tried

    target, draw = TARGETS[name], random.Random(f"{name} {seed}")
    state, seen, cases = Path(os.environ["FUZZING_STATE"]), set(), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "case"
        sound = target.sound(folder)
        target.run(folder)  # takes what is sound, or there is nothing to change
        end = time.monotonic() + seconds
        limit = _MEMORY + _mapped()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        while time.monotonic() < end:
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
