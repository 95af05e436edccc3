"""The verb that reads and serves what a `redteam` stage asked and was answered."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from luthier.cli.messages import console
from luthier.errors import RecipeError


def attacks(arguments: argparse.Namespace) -> None:
    """Nothing that was asked or answered is printed: only counts and places."""
    from luthier.redteaming.exchange import write_attacks, write_preferences
    from luthier.redteaming.labels import read_labels
    from luthier.redteaming.marks import marks_in
    from luthier.redteaming.reading import attacks_of, number_of, preferences_of, round_folders, stage_folders
    from luthier.redteaming.review import write_review
    from luthier.storage.output_places import check_place_of

    folders = stage_folders(arguments.run)
    folder = folders[-1]
    if len(folders) > 1:
        told = f"of {len(folders)} stages the last is read, {folder}; name another one's folder to read that"
        console(stderr=True).print(told, soft_wrap=True, highlight=False, markup=False)
    given = {"--round": arguments.round, "--form": arguments.form, "--all": arguments.all}
    if not arguments.write and (unused := [name for name, value in given.items() if value]):
        raise RecipeError(f"{unused[0]} says what --write writes, which was not given", fix="give it, or leave it out")
    if arguments.port and not (arguments.serve or arguments.endpoint):
        raise RecipeError("--port belongs to --serve or --endpoint", fix="give one of them, or leave it out")
    if arguments.labels and not (arguments.view or arguments.serve):
        raise RecipeError("--labels belongs to --view or --serve", fix="give one of them")
    if arguments.serve and arguments.endpoint:
        raise RecipeError("--serve and --endpoint each serve until they are stopped", fix="give them to two commands")
    if arguments.all and arguments.form == "preferences":
        raise RecipeError("--all has no effect with --form preferences", fix="leave it out")
    asked = list(folder.glob("*/**/*"))
    for output in filter(None, (arguments.view, arguments.write)):
        check_place_of(Path(output), arguments.labels, *asked)
    if arguments.view:
        page = write_review(folder, arguments.view, read_labels(arguments.labels))
        console().print(f"wrote the review page to {page}", soft_wrap=True)
    if arguments.write:
        if arguments.form == "preferences":
            pairs = preferences_of(folder, arguments.round)
            write_preferences(arguments.write, pairs)
            console().print(f"wrote {len(pairs)} pairs of answers to {arguments.write}", soft_wrap=True)
        else:
            found = attacks_of(folder, arguments.round, every=arguments.all)
            write_attacks(arguments.write, found, arguments.form or "jsonl")
            console().print(f"wrote {len(found)} attacks to {arguments.write}", soft_wrap=True)
    if arguments.serve:
        _serve_review(folder, Path(arguments.labels or "labels.jsonl"), arguments.port or 0)
    if arguments.endpoint:
        _serve_target(folder, arguments.endpoint, arguments.port or 0)
    if not (arguments.view or arguments.write or arguments.serve or arguments.endpoint):
        for mark in marks_in(folder):
            console().print(mark, style="yellow", soft_wrap=True, highlight=False, markup=False)
        for place in round_folders(folder):
            number = number_of(place)
            written, succeeded = len(attacks_of(folder, [number], every=True)), len(attacks_of(folder, [number]))
            console().print(f"round {number}: {written} attacks were asked, {succeeded} succeeded")


def _serve_review(folder: Path, labels: Path, port: int) -> None:
    from luthier.redteaming.serving import review_server

    server = review_server(folder, labels, port)
    console().print(f"the review page: {server.address}  (Ctrl-C ends it; labels go to {labels})", soft_wrap=True)
    _until_stopped(server)


def _serve_target(folder: Path, when: Any, port: int) -> None:
    from luthier.redteaming.chat_server import chat_server, target_of

    server = chat_server(target_of(folder, when), port, name=f"target-{when}")
    console().print(f"{server.name} answers at {server.address}  (Ctrl-C ends it)", soft_wrap=True)
    _until_stopped(server)


def _until_stopped(server: Any) -> None:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console().print("ended")
    finally:
        server.server_close()
