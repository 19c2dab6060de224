"""The words of the command line: commands, their options, help that teaches, and near names for wrong ones."""

import argparse
import importlib
import keyword
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from unitok_jax.errors import UserError
from unitok_jax.settings import near

Add = Callable[[argparse.ArgumentParser], None]

OVERVIEW = """\
Trains and uses unified visual tokenizers and their multimodal language models.

A first hour:
  unitok train --config configs/demo/tokenizer.py --workdir runs/tokenizer     learn to draw with codes
  unitok inspect runs/tokenizer                                                parts, sizes, last step
  unitok caption --workdir runs/stage2 picture.png                             what a trained model sees
  unitok generate --workdir runs/stage2 "a handwritten red seven" --out out    what it draws

`unitok <command> --help` shows each command's options with examples.
"""


class Command:
    """A command of the command line.

    Args:
        name: what the user types; ``module`` and ``function`` below `unitok_jax.cli` do the work.
        does: one line.
        examples: command lines that work.
        add: adds the options.
        overrides: whether ``--config.key=value`` may be given.
    """

    def __init__(self, name: str, module: str, does: str, examples: str, add: Add, overrides: bool = False):
        self.name, self.module, self.does, self.examples = name, module, does, examples
        self.add, self.overrides = add, overrides

    @property
    def function(self) -> Callable[[Any], None]:
        """What runs it; imported only now, so that help is quick."""
        name = f"{self.name}_" if keyword.iskeyword(self.name) else self.name
        return getattr(importlib.import_module(f"unitok_jax.cli.{self.module}"), name)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the recipe, and its variant if any")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="config, checkpoints and metrics; may be gs://")
    parser.add_argument("--profile", metavar="FIRST[:COUNT]", help="trace COUNT (3) steps into DIR/profile")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the recipe, and its variant if any")
    parser.add_argument("--topology", required=True, metavar="TPU", help="chips of a slice, such as v5p:4x4x4")
    parser.add_argument("--slices", type=int, default=1, help="slices, joined over DCN (default: %(default)s)")
    parser.add_argument("--search", action="store_true", help="try the meshes and batches that divide the topology")
    parser.add_argument("--decode", action="store_true", help="prefill and decode step in the place of the train step")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the model was trained; may be gs://")
    parser.add_argument(
        "--mesh", metavar="AXIS=SIZE,...", help="this machine's devices along each axis (default: all share one copy)"
    )


def _pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")


def _out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", default=default, metavar="DIR", help="folder for the results (default: %(default)s)")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--suite",
        default="digits",
        help="what to measure: digits, digit_scenes, reconstruction, zeroshot; or whose prompts to draw for its own "
        "scorer: geneval, dpg, t2i-compbench (default: %(default)s). POPE, MME, SEED, GQA, MMMU and others are asked "
        "and scored by lmms-eval, see docs/evaluation.md",
    )
    parser.add_argument(
        "--source", nargs="+", metavar=("KIND", "KEY=VALUE"), help="pictures of reconstruction and zeroshot"
    )
    parser.add_argument("--limit", type=_count, help="so many of them, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=_seed, help="of what is drawn (default: 0)")
    parser.add_argument("--classes", metavar="FILE", help="zeroshot: JSON of class names and templates")
    parser.add_argument(
        "--lpips", nargs="+", metavar="FILE", help="reconstruction: LPIPS's VGG-16 and heads, in one file or two"
    )
    parser.add_argument("--fid", action="store_true", default=None, help="reconstruction: rFID by clean-fid too")
    parser.add_argument(
        "--prompts",
        metavar="PATH",
        help="of a benchmark: evaluation_metadata.jsonl, a folder of .txt files, a .txt file",
    )
    parser.add_argument(
        "--samples", type=_count, help="pictures of each prompt of a benchmark (default: the benchmark's)"
    )
    parser.add_argument("--guidance", type=float, help="guidance scale of a benchmark (default: the recipe's)")
    parser.add_argument("--out", metavar="DIR", help="folder for figures, pictures and report (default: WORKDIR/SUITE)")
    parser.add_argument(
        "--started", type=float, metavar="TIME", help="Unix time when the whole job began: the figures tell `seconds`"
    )


def _caption(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _pictures(parser)


def _ask(parser: argparse.ArgumentParser) -> None:
    _caption(parser)
    parser.add_argument("--question", required=True, help="what to ask about each picture")


def _generate(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw")
    parser.add_argument("--count", type=int, default=1, help="pictures of each prompt (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the first picture; the next take the next numbers")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale (default: the recipe's)")
    parser.add_argument("--temperature", type=float, help="of the picture's codes (default: the recipe's)")
    parser.add_argument("--system", help="refuse a workdir of another system")
    parser.add_argument("--detokenizer", help="what draws, where a model has several: ar, sana")
    parser.add_argument("--resolution", type=int, help="side of the pictures, where a model has several")
    parser.add_argument("--scale", type=int, help="pool scale of the codes, 1 the finest, where a model has several")
    parser.add_argument("--detokenizer-guidance", type=float, help="guidance of what draws (default: the recipe's)")
    parser.add_argument("--best-of", type=int, default=1, metavar="N", help="draw N, keep what the model likes best")
    parser.add_argument(
        "--top-k", type=int, help="likeliest codes that may be drawn, 0 for all (default: the recipe's)"
    )
    parser.add_argument(
        "--grid", metavar="ROWSxCOLUMNS", help="codes of the picture (a model may know its own grid alone, the default)"
    )
    parser.add_argument("--noise-steps", type=int, help="of models that draw by diffusion (default: the recipe's)")
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        help="change this picture as the prompts say (for models that were trained on edits)",
    )
    _out(parser, "generated")


def _chat(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures that the first message is about")
    parser.add_argument("--seed", type=_seed, default=0, help="of the first answer; the next take the next numbers")
    parser.add_argument("--guidance", type=float, help="guidance scale of pictures (default: the recipe's)")
    _out(parser, "chat")


def _serve(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: %(default)s, which only this machine reaches)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    parser.add_argument("--queue", type=int, default=16, help="visitors that may wait (default: %(default)s)")


def _reconstruct(parser: argparse.ArgumentParser) -> None:
    _caption(parser)
    _out(parser, "reconstructed")


def _shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="a recipe whose model reads the pictures (its sizes), by the same weights",
    )
    parser.add_argument(
        "--source", nargs="+", required=True, metavar=("KIND", "KEY=VALUE"), help="a kind of source and its options"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the ArrayRecord shards; may be gs://")
    parser.add_argument("--shards", type=int, default=1, help="how many files (default: %(default)s)")


def _bad_share(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help=f"{when} if more of the records cannot be read, of 100 and more (default: %(default)s)",
    )


def _prepare(parser: argparse.ArgumentParser) -> None:
    _shards(parser)
    _bad_share(parser, "fail in the end")
    parser.add_argument("--task", help="what each record must serve, such as caption (default: pictures that decode)")
    parser.add_argument(
        "--runner", default="FnApiRunner", help="of Apache Beam, such as DataflowRunner (default: %(default)s, local)"
    )
    parser.add_argument(
        "--beam", nargs="+", default=[], metavar="OPTION[=VALUE]", help="the runner's own options, without dashes"
    )


def _tokenize(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _shards(parser)
    parser.add_argument("--drop-pictures", action="store_true", help="keep codes only, not the pictures beside them")
    _bad_share(parser, "stop")


def _import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="files, folders or hub ids (owner/name, owner/name@revision, owner/name@revision:file) that together hold "
        "the parts of a model",
    )
    parser.add_argument("--system", required=True, help="whose checkpoints they are, such as unitoken")
    parser.add_argument("--variant", default="auto", help="what they are, if their keys do not tell (default: auto)")
    parser.add_argument("--vocabulary", metavar="FILE", help="text tokenizer JSON, if none stands beside them")
    parser.add_argument("--config", metavar="FILE[:ARG]", help="a recipe that says the model, in their place")
    parser.add_argument("--revision", help="branch, tag or commit of the hub ids")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", metavar="DIR", help="a run (its last step) or an import")
    parser.add_argument("--checkpoint", metavar="DIR", help="one step of a run, WORKDIR/checkpoints/STEP")
    parser.add_argument(
        "--format", default="upstream", help="upstream (the published project's) or transformers (default: upstream)"
    )
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: what each parameter has)")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a file (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("export", metavar="EXPORT", help="a folder that `unitok export` made, or its hub id")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest share allowed (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the random inputs (default: %(default)s)")


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", help="a workdir, a recipe FILE.py[:ARG], a checkpoint file or folder, or a hub id"
    )


def _count(text: str) -> int:
    return _whole(text, 1, 2**31 - 1)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**31 - 1)


def _whole(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"-?\d+", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {least} to {most}")
    return int(text)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            "train",
            "trains a recipe, or goes on where its workdir stopped",
            "unitok train --config configs/demo/tokenizer.py --workdir runs/tokenizer\n"
            "unitok train --config configs/demo/tokenizer.py --workdir runs/long --config.steps=5000",
            _config,
            overrides=True,
        ),
        Command(
            "plan",
            "plan",
            "compiles a recipe for TPUs that are not there: memory, collectives, an estimate of time",
            "unitok plan --config configs/unitoken/base_stage2.py --topology v5p:4x4x4\n"
            "unitok plan --config configs/unitoken/base_stage2.py:packed --topology v6e:16x16 --slices 2 --search",
            _plan,
            overrides=True,
        ),
        Command(
            "evaluate",
            "evaluate",
            "measures a trained model and writes figures and a report",
            "unitok evaluate --workdir runs/demo/stage2 --suite digits --out runs/demo\n"
            "unitok evaluate --workdir runs/demo/stage2 --suite reconstruction --source folder path=photos --limit 9\n"
            "unitok evaluate --workdir runs/dualtoken/tokenizer --suite zeroshot --source folder path=val --classes "
            "imagenet.json\n"
            "unitok evaluate --workdir runs/unitoken/base_stage2 --suite geneval --prompts evaluation_metadata.jsonl",
            _evaluate,
        ),
        Command(
            "caption",
            "use",
            "says what pictures show",
            "unitok caption --workdir runs/demo/stage2 cat.png dog.jpg",
            _caption,
        ),
        Command(
            "ask",
            "use",
            "answers a question about pictures",
            'unitok ask --workdir runs/demo/stage2 --question "what colour is it?" seven.png',
            _ask,
        ),
        Command(
            "generate",
            "use",
            "draws pictures from words",
            'unitok generate --workdir runs/demo/stage2 "a handwritten red seven" --count 4 --out drawn\n'
            'unitok generate --workdir runs/demo/stage2 "a handwritten blue two" --guidance 1.5 --seed 7\n'
            'unitok generate --workdir runs/tar/sft_7b "a red fox" --detokenizer sana --resolution 512 --best-of 4\n'
            'unitok generate --workdir runs/unitoken/base_stage2 "a harbour at dawn" --grid 24x42 --top-k 2000',
            _generate,
        ),
        Command(
            "chat",
            "chat",
            "talks over several turns, with pictures from both sides; reads messages line by line",
            "unitok chat --workdir runs/unitoken/base_stage2 cat.png\n"
            "unitok chat --workdir runs/unitoken/base_stage2 --guidance 3 --out drawn",
            _chat,
        ),
        Command(
            "serve",
            "serve",
            "opens a page in the browser: draw, edit, chat, look at codes (needs the extra web)",
            "unitok serve --workdir runs/demo/stage2\nunitok serve --workdir imported --port 8000",
            _serve,
        ),
        Command(
            "reconstruct",
            "use",
            "takes pictures through their codes and back",
            "unitok reconstruct --workdir runs/demo/tokenizer photo.png --out back",
            _reconstruct,
        ),
        Command(
            "prepare",
            "prepare",
            "checks a raw data set and writes it as shards that training reads (Apache Beam)",
            "unitok prepare --source llava path=data/chat.json --task conversation --out shards --shards 64\n"
            "unitok prepare --source folder path=gs://b/raw --out gs://b/shards --shards 512 --runner DataflowRunner "
            "--beam project=p region=europe-west4 temp_location=gs://b/tmp",
            _prepare,
        ),
        Command(
            "tokenize",
            "codes",
            "writes a source's pictures as codes, in shards that training reads",
            "unitok tokenize --workdir runs/demo/tokenizer --source jsonl path=data/train.jsonl --out codes --shards 8",
            _tokenize,
        ),
        Command(
            "import",
            "convert",
            "reads published PyTorch checkpoints into a folder that the other commands use",
            "unitok import OceanJay/UniToken-base-StageII tokenizer/vqgan.ckpt --system unitoken --out imported\n"
            "unitok import Lumina-mGPT-7B-512 --system unitoken --variant lumina_mgpt --out lm",
            _import,
        ),
        Command(
            "export",
            "convert",
            "writes a model as files that PyTorch users load",
            "unitok export --workdir runs/stage2 --format upstream --out exported --dtype bfloat16\n"
            "unitok export --checkpoint runs/stage2/checkpoints/1000 --format transformers --out chameleon",
            _export,
        ),
        Command(
            "verify",
            "convert",
            "reads an export with torch and ours and compares them on random inputs (needs the extra parity)",
            "unitok verify exported",
            _verify,
        ),
        Command(
            "inspect",
            "look",
            "shows parts, shapes and sizes of a run, a recipe or a checkpoint",
            "unitok inspect runs/demo/stage2\nunitok inspect configs/demo/stage2.py\nunitok inspect model.safetensors",
            _inspect,
        ),
    )
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see: {self.prog} --help)")


def parse(argv: Sequence[str]) -> tuple[Callable[[Any], None], argparse.Namespace]:
    """Reads a command line.

    Args:
        argv: what stands after ``unitok``.

    Returns:
        The function of the command, and its arguments; ``overrides`` holds the ``--config.key=value`` given.

    Raises:
        UserError: for a wrong command or option, with the near ones.
        SystemExit: after help was shown.
    """
    from unitok_jax import __version__

    top = _Parser(
        "unitok", description=OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(metavar="command")
    parsers = {name: _add(commands, command) for name, command in COMMANDS.items()}
    if not argv:
        top.print_help()
        raise SystemExit(2)
    name, command = argv[0], COMMANDS.get(argv[0])
    if command is None and not name.startswith("-"):
        raise UserError(f"no command {name!r}.{near(name, COMMANDS)}")
    overrides = [item for item in argv if command and command.overrides and item.startswith("--config.")]
    given = [item for item in argv if item not in overrides]
    _check_options(given, parsers[name] if command else top)
    args, surplus = top.parse_known_args(given)
    if surplus:
        raise UserError(f"{surplus[0]!r} is one argument too many (see: unitok {name} --help)")
    return COMMANDS[name].function, argparse.Namespace(overrides=overrides, **vars(args))


def _add(commands: Any, command: Command) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        command.name,
        help=command.does,
        description=f"{command.does[0].upper()}{command.does[1:]}.",
        epilog="examples:\n" + "".join(f"  {line}\n" for line in command.examples.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command.overrides:
        where = "--topology TPU" if command.name == "plan" else "--workdir DIR"
        parser.usage = f"unitok {command.name} --config FILE[:ARG] {where} [--config.KEY=VALUE ...]"
    command.add(parser)
    return parser


def _check_options(given: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Names the near options of a wrong one, which argparse would not."""
    known = parser._option_string_actions
    for name in (item.partition("=")[0] for item in given if item.startswith("--")):
        if name not in known:
            raise UserError(f"no option {name}.{near(name, known)} (see: {parser.prog} --help)")
