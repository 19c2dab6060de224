"""Recipes: a config file's `get_config(arg)`, the overrides of the command line, and the result as text.

A recipe is a Python file with ``get_config(arg="") -> ml_collections.ConfigDict``. It is named ``path/to/file.py``
or, to pick one of its variants, ``path/to/file.py:arg``. An override ``config.a.b=value`` replaces one existing
value by another of the same type. A recipe below a folder ``configs`` imports its neighbours as
``from configs.folder import name``, any other one those of its own folder by their names.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from unitok_jax.errors import UserError
from unitok_jax.settings import near

FLAG = "config"  # overrides read ``--config.path=value``


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs a recipe and applies overrides.

    Args:
        spec: ``file.py`` or ``file.py:arg``.
        overrides: ``config.a.b=value`` each, with or without leading dashes.

    Returns:
        The config, locked: a key that it does not have cannot be set.

    Raises:
        UserError: for a file, variant or key that does not exist, or a value of the wrong type.
    """
    path, _, arg = spec.partition(":")
    config = _run(Path(path), arg)
    _override(config, [item.lstrip("-") for item in overrides])
    return config.lock()


def to_json(config: ConfigDict | Mapping[str, Any]) -> str:
    """A config as JSON with sorted keys: equal configs give equal text, a recipe and what its workdir keeps of it."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return json.dumps(plain, sort_keys=True, indent=1, default=list)


def config_hash(config: ConfigDict | Mapping[str, Any]) -> str:
    """Twelve hex digits that name a config in results and model cards."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]


def _run(path: Path, arg: str) -> ConfigDict:
    get_config = _get_config(path)
    takes_arg = bool(inspect.signature(get_config).parameters)
    if arg and not takes_arg:
        raise UserError(f"{path}: this recipe has no variants; drop ':{arg}'")
    try:
        config = get_config(arg) if takes_arg else get_config()
    except (KeyError, ValueError) as error:
        if not arg:
            raise
        detail = error.args[0] if error.args else arg
        raise UserError(f"{path}: no variant {arg!r} ({type(error).__name__}: {detail})") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() must return an ml_collections.ConfigDict, not {type(config).__name__}")
    return config


def _get_config(path: Path):
    if not path.is_file():
        raise UserError(f"{path}: no such config file.{_near_files(path)}")
    module_spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path}: a config is a Python file (.py) with a function get_config(arg='')")
    module = importlib.util.module_from_spec(module_spec)
    _let_import_siblings(path)
    try:
        with _importing_from(_root(path.resolve())):
            module_spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever a user's file does wrong at import
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        line = error.lineno if isinstance(error, SyntaxError) else line
        raise UserError(f"{path}:{line}: the config file fails with {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: has no function get_config(arg='')")
    return module.get_config


def _let_import_siblings(path: Path) -> None:
    """Lets a recipe under a folder ``configs`` write ``from configs.demo import common``."""
    for parent in path.resolve().parents:
        if parent.name == "configs" and str(parent.parent) not in sys.path:
            sys.path.append(str(parent.parent))


def _root(path: Path) -> Path:
    return next((parent.parent for parent in path.parents if parent.name == "configs"), path.parent)


@contextlib.contextmanager
def _importing_from(folder: Path) -> Generator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _near_files(path: Path) -> str:
    folder = next((p for p in path.parents if p.is_dir()), Path("."))
    files = [str(p) for p in sorted(folder.rglob("*.py"))[:500] if not p.name.startswith("_")]
    close = difflib.get_close_matches(str(path), files, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _override(config: ConfigDict, overrides: Iterable[str]) -> None:
    argv = []
    for item in overrides:
        name, equals, value = item.partition("=")
        if not equals or not name.startswith(f"{FLAG}."):
            raise UserError(f"--{item}: an override reads --config.key=value")
        _check_key(config, name)
        argv.append(f"--{name}={value}")
    flag_values = flags.FlagValues()
    argv = ["unitok", *argv]
    try:
        config_flags.DEFINE_config_dict(FLAG, config, flag_values=flag_values, sys_argv=argv)
        flag_values(argv)
    except LookupError as error:
        raise UserError(f"{' '.join(argv[1:])}: no such key or index ({error})") from error
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _check_key(config: ConfigDict, name: str) -> None:
    """Follows ``config.a.b[0]`` down the config and names the first key that is not there."""
    node, where = config, FLAG
    for step in name.split(".")[1:]:
        key, indexed, _ = step.partition("[")
        if not isinstance(node, ConfigDict):
            raise UserError(f"--{name}: {where} is a value, it has no keys")
        if key not in node:
            raise UserError(f"--{name}: {where} has no key {key!r}.{near(key, node)}")
        if indexed:
            return  # into a list: ml_collections follows it
        if node.get_type(key) is type(None):
            raise UserError(
                f"--{name}: {where}.{key} is None and has no type; say it in the recipe, or give it a "
                "ml_collections.config_dict.placeholder there"
            )
        node, where = node[key], f"{where}.{key}"
