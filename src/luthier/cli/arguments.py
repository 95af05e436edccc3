"""The command line: parses, calls, prints. `luthier --help` imports nothing heavy."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from luthier._version import __version__
from luthier.cli.messages import quieten
from luthier.errors import LuthierError, nearest

VERBS = "known_verbs"
OUTPUT = "runs"
_RUNNING = ("run", "compare")
# Verbs that keep the answers so far beside their --output.
_KEEPING = ("predict", "embed", "extract")
_GOES_ON = (
    "run the same command again; it keeps every finished stage, and goes on from the newest whole checkpoint where "
    "there is one"
)
_ANSWERS_GO_ON = "run the same command again; it goes on behind the rows that were answered"
_BEGINS_ANEW = "run the same command again, which begins anew"
EXIT_CODES = """\
exit codes: 0 done, 1 failed, 2 recipe or command line, 3 data, 4 model, 5 training (NaN, nothing to train),
6 run directory (locked, full, not writable) or a file that may not be opened, 75 stopped by a signal while training,
after one whole checkpoint: the same command continues, 130 stopped at once by Ctrl-C where nothing trains, or by a
second one
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    parser = argparse.ArgumentParser(
        prog="luthier",
        description="Sets pretrained language models up for their work: a model, data and a recipe in, "
        "a tuned model and a report out.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"luthier {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    _add_recipe_verbs(verbs)
    _add_result_verbs(verbs)
    _add_information_verbs(verbs)
    parser.set_defaults(**{VERBS: list(verbs.choices)})
    return parser


def _add_recipe_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = _verb(verbs, "init", "write a commented starter recipe", "init")
    init.add_argument("path", nargs="?", default="recipe.yaml", help="file to write (default: recipe.yaml)")
    init.add_argument("--model", help="model to put into it (default: a small one that fits the data)")
    init.add_argument("--data", help="training file or set to put into it")
    init.add_argument("--method", default="lora", help="tuning method to put into it (default: lora)")
    init.add_argument("--force", action="store_true", help="replace the file if it is there")

    validate = _verb(verbs, "validate", "check a recipe, all errors at once, without loading torch", "validate")
    _recipe_arguments(validate)

    plan = _verb(verbs, "plan", "dry run: stages, what is cached, parameters to train, time and memory", "plan")
    _recipe_arguments(plan)
    plan.add_argument("--output", default=OUTPUT, help="folder of the run directories (default: runs)")

    run = _verb(verbs, "run", "run a recipe; the same command continues a stopped run", "run")
    _recipe_arguments(run)
    _run_arguments(run)

    compare = _verb(verbs, "compare", "run a grid of recipes and print one table, or compare finished runs", "compare")
    compare.add_argument("targets", nargs="+", metavar="RECIPE|RUN", help="one recipe, or run directories")
    compare.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="values of a recipe key to try; repeatable",
    )
    compare.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="set a recipe key"
    )
    _preset_arguments(compare)
    _run_arguments(compare)


def _add_result_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = _verb(verbs, "report", "write one self-contained HTML page about runs", "report")
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    report.add_argument("--output", help="file to write (default: report.html in the run; beside it for several)")

    predict = _verb(verbs, "predict", "label text with a tuned model", "asking:predict")
    predict.add_argument("run", metavar="RUN", help="run, cell, stage or model directory")
    source = predict.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", help="a text; repeatable")
    source.add_argument(
        "--file", help="file with the columns the model was trained on, called as in training; labels are not read"
    )
    predict.add_argument("--pair", action="append", help="second text of each --text, for models that read two texts")
    predict.add_argument(
        "--output",
        help="JSON-lines file to write (default: standard output); for a --file, the same command goes on after a stop",
    )
    predict.add_argument("--batch-size", type=_above_zero, default=64, help="texts in one forward pass (default: 64)")

    _allow_argument(predict)

    _extract_arguments(_verb(verbs, "extract", "entities and relations of texts, from a tuned model", "asking:extract"))

    _attacks_arguments(
        _verb(
            verbs,
            "attacks",
            "what a redteam stage asked and was answered: to review, or for other tools",
            "attacking:attacks",
        )
    )

    embed = _verb(verbs, "embed", "turn text into vectors with the encoder of a represent stage", "asking:embed")
    embed.add_argument("run", metavar="RUN", help="run, cell, stage or encoder directory")
    source = embed.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", help="a text; repeatable")
    source.add_argument("--file", help="csv, tsv, jsonl, parquet or txt file")
    embed.add_argument("--pair", action="append", help="second text of each --text, read together with it")
    embed.add_argument("--column", help="column of the file with the text (default: text)")
    embed.add_argument("--pair-column", help="column of the file with the second text of each pair")
    embed.add_argument("--output", required=True, help=".npy file for the vectors alone, .parquet with the texts")
    embed.add_argument("--batch-size", type=_above_zero, default=64, help="texts in one forward pass (default: 64)")
    embed.add_argument(
        "--dtype", choices=("float32", "float64", "float16"), default="float32", help="number format (default: float32)"
    )

    _allow_argument(embed)

    _tokenizer_arguments(_verb(verbs, "tokenizer", "how tokenizers cut text, language by language", "asking:tokenizer"))

    export = _verb(verbs, "export", "write a tuned prompt, prefix or head for serving without PEFT", "asking:export")
    export.add_argument("run", metavar="RUN", help="run, cell, stage or model directory")
    export.add_argument("--to", required=True, metavar="PLACE", help="safetensors file; for head_only a folder")
    export.add_argument("--force", action="store_true", help="replace the file if it is there")
    _allow_argument(export)


def _tokenizer_arguments(tokenizer: argparse.ArgumentParser) -> None:
    tokenizer.add_argument(
        "tokenizers",
        nargs="+",
        metavar="TOKENIZER",
        help="a run with a vocabulary stage, or any model with a tokenizer",
    )
    tokenizer.add_argument(
        "--text", required=True, metavar="FOLDER", help="folder with one file or one folder a language, named after it"
    )
    tokenizer.add_argument("--column", default="text", help="column of the files with the text (default: text)")
    tokenizer.add_argument("--lines", type=_above_zero, help="read only the first lines of each language")
    tokenizer.add_argument("--output", metavar="FILE", help="what to write: an .html page with plots, or .json")


def _extract_arguments(extract: argparse.ArgumentParser) -> None:
    extract.add_argument("run", metavar="RUN", help="run, cell, stage or model directory")
    source = extract.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", help="a text; repeatable")
    source.add_argument("--file", help="txt file with a text a line, or documents in any annotation format")
    source.add_argument("--jsonl", help="JSON-lines file with a text under --column in every line")
    extract.add_argument("--column", help="key of --jsonl with the text (default: text)")
    extract.add_argument("--output", help="JSON-lines file to write (default: standard output)")
    extract.add_argument(
        "--suggest", metavar="FORMAT", help="write --output for an annotation tool: label_studio, doccano, brat, ..."
    )
    extract.add_argument("--view", metavar="PAGE", help="HTML page to write, with entities and relations drawn")
    extract.add_argument("--graph", metavar="FILE", help="graph to write: .graphml, or .jsonld")
    extract.add_argument(
        "--tokeniser", choices=("words", "blanks"), default="words", help="what parts texts into words"
    )
    extract.add_argument("--batch-size", type=_above_zero, default=64, help="texts in one forward pass (default: 64)")
    _allow_argument(extract)


def _attacks_arguments(attacks: argparse.ArgumentParser) -> None:
    attacks.add_argument("run", metavar="RUN", help="run or stage directory")
    attacks.add_argument("--view", metavar="PAGE", help="HTML page to write, to read, label and veto in a browser")
    attacks.add_argument("--serve", action="store_true", help="show that page on this machine, and save labels at once")
    attacks.add_argument("--labels", metavar="FILE", help="labels of an earlier review; --serve saves them here")
    attacks.add_argument(
        "--endpoint",
        choices=("before", "after"),
        help="answer with the target before or after the rounds at an OpenAI-compatible address on this machine, for "
        "other tools to attack",
    )
    attacks.add_argument("--port", type=_above_zero, help="of --serve or --endpoint (default: a free one)")
    attacks.add_argument("--write", metavar="FILE", help="file of the attacks that succeeded")
    attacks.add_argument(
        "--form",
        choices=("garak", "pyrit", "jsonl", "preferences"),
        help="form of --write: a prompt a line (a list for .json), a PyRIT seed file, JSON lines, or prompts with a "
        "safe and an unsafe answer each (default: jsonl)",
    )
    attacks.add_argument(
        "--round", type=_above_zero, action="append", default=[], help="of this round alone; repeatable"
    )
    attacks.add_argument("--all", action="store_true", help="prompts that did not succeed, too")


def _allow_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=("pickle", "remote_code"),
        help="what is refused of a model unless it is named here, as `allow` in a recipe's model; repeatable",
    )


def _add_information_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = _verb(
        verbs, "list", "methods, objectives, stages, suites and tasks, with the paper of each", "explain:list_parts"
    )
    kinds = ("methods", "objectives", "stages", "suites", "tasks")
    listing.add_argument("kind", nargs="?", choices=kinds, help="only these")
    explain = _verb(
        verbs, "explain", "what a method, stage, suite or task is: settings, defaults, paper", "explain:explain"
    )
    explain.add_argument("name", help="name of a method, objective, stage, suite or task; or `rope`, with a model")
    rope = explain.add_argument_group("rope", "rotary positions of a model on longer texts, from its config.json alone")
    rope.add_argument("model", nargs="?", help="the model, its folder, or a config.json")
    rope.add_argument("--length", type=_above_zero, help="tokens of the longer texts")
    rope.add_argument("--kind", help="a kind to show beside the model's own, as in `lengthen.rope` (default: abf)")
    rope.add_argument("--base", type=float, help="the base under abf")
    rope.add_argument("--output", metavar="FILE", help="page to write (.html), or the plot alone (.svg)")
    _verb(verbs, "doctor", "versions, accelerator, cores, memory and extras of this machine", "doctor")
    schema = _verb(verbs, "schema", "JSON schema of recipes, for editors", "schema")
    schema.add_argument("--output", help="file to write (default: standard output)")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, action: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("-v", "--verbose", action="store_true", help="show log messages")
    parser.set_defaults(action=action)
    return parser


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a YAML file (default: recipe.yaml, if it is there)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="set a recipe key; repeatable",
    )


def _preset_arguments(compare: argparse.ArgumentParser) -> None:
    preset = compare.add_argument_group("presets", "settings of `compare.preset`, in place of the recipe's own")
    preset.add_argument(
        "--preset", metavar="NAME", help="tuning: all tuning methods under one budget, and which to take"
    )
    preset.add_argument("--methods", metavar="A,B", help="the methods to run, in place of all")
    preset.add_argument("--seeds", type=int, metavar="N", help="seeds of every method (default: 3)")
    budget = preset.add_mutually_exclusive_group()
    budget.add_argument("--budget-steps", type=int, metavar="N", help="optimiser steps of every run")
    budget.add_argument("--budget-minutes", type=float, metavar="M", help="minutes that every run may train")
    preset.add_argument(
        "--prefer", choices=("parameters", "seconds"), help="what is cheap, among methods that are level with the best"
    )


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default=OUTPUT, help="folder of the run directories (default: runs)")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _above_zero(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Errors meant for the user are printed without a traceback, with an exit code of their own."""
    parser, words = build_parser(), list(sys.argv[1:] if arguments is None else arguments)
    _refuse_unknown_verb(parser, words)
    parsed = parser.parse_args(words)
    _look_here_for_plugins()
    _print_in_any_encoding()
    try:
        quieten(parsed.verbose)
        from luthier.registry import classes_stay

        module, _, name = parsed.action.rpartition(":")
        with classes_stay():
            verbs = import_module(f"luthier.cli.{module or 'commands'}")
        action: Callable[[argparse.Namespace], int | None] = getattr(verbs, name)
        code = action(parsed) or 0
        sys.stdout.flush()
        return code
    except LuthierError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(f"stopped at once\n  fix: {_after_a_stop(parsed)}", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except MemoryError:
        return _fail(f"out of memory\n  fix: {_less_memory(parsed)}", 1)
    except Exception as error:
        return _refused(error) or _unexpected(error, parsed)


def _look_here_for_plugins() -> None:
    """Let a recipe name modules of the working folder as plugins; they come after everything that is installed."""
    with suppress(OSError):  # the folder is gone
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)


def _print_in_any_encoding() -> None:
    """Let characters that standard output has no bytes for be printed as escapes, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_unknown_verb(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Say which verb a typo most likely meant, in place of a list of all; exits with code 2."""
    verb, known = next((word for word in words if not word.startswith("-")), None), parser.get_default(VERBS)
    if verb is None or verb in known:
        return
    guess = nearest(verb, known)
    parser.error(
        f"there is no command {verb!r}; " + (f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}")
    )


def _fail(message: str, code: int) -> int:
    from luthier.report.text import visible
    from luthier.secrets import redact

    # Names of files and columns are somebody else's text: they may not steer the terminal.
    print(f"luthier: {visible(redact(message), keep=chr(10))}", file=sys.stderr)  # noqa: T201
    return code


def _refused(error: Exception) -> int | None:
    """Tell of a file that the disk or the system refused, wherever it was; None where the error is another."""
    from luthier.storage.files import disk_failure, refusal

    if (told := refusal(error)) is None:
        return None
    if disk_failure(error) is not None:
        with suppress(OSError):  # what is left in the buffer would be written again at exit
            sys.stdout.close()
    return _fail(str(told), told.exit_code)


def _after_a_stop(parsed: argparse.Namespace) -> str:
    if parsed.verb in _RUNNING:
        return _GOES_ON
    kept = parsed.verb in _KEEPING and parsed.output and (parsed.file or parsed.verb != "predict")
    return _ANSWERS_GO_ON if kept else _BEGINS_ANEW


def _less_memory(parsed: argparse.Namespace) -> str:
    if hasattr(parsed, "batch_size"):
        return f"lower --batch-size, which is {parsed.batch_size}"
    return "lower batch_size (and raise accumulation), or set gradient_checkpointing: true"


def _unexpected(error: Exception, parsed: argparse.Namespace) -> int:
    import traceback

    if type(error).__name__ == "OutOfMemoryError":
        return _fail(f"out of accelerator memory\n  fix: {_less_memory(parsed)}", 1)
    from luthier.storage.ranks import rank

    place = Path(f"luthier-error-{rank()}.log" if rank() else "luthier-error.log")
    trace = "".join(traceback.format_exception(error))
    if parsed.verbose:
        return _fail(trace, 1)
    try:
        from luthier.secrets import redact

        place.write_text(redact(trace), encoding="utf8")
        kept = f"the traceback is in {place}"
    except OSError:
        kept = "run again with --verbose for the traceback"
    return _fail(f"unexpected {type(error).__name__}: {error}\n  this is a defect in Luthier; {kept}", 1)
