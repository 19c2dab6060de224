"""The house keeps its order: floors, small files, no cycles, nothing deprecated. Read from the source alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "unitok_jax"

# From the ground up; a file imports from floors below its own, and freely within its folder.
FLOORS = (
    ("errors",),
    ("settings",),
    ("config",),
    ("data", "weights", "parallel"),
    ("layers",),
    ("losses", "sampling", "quantizers"),
    ("backbones",),
    ("systems",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("planning",),
    ("conversion",),
    ("web",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
LONGEST = 490
ARRAYS = ("Array", "jax.Array", "jnp.ndarray", "np.ndarray")
HOLDERS = ("dict", "Mapping", "Callable")  # of arrays of many shapes, or checked where they are called
BANNED_IMPORTS = ("torch", "tensorflow", "diffusers")
DEPRECATED = (
    r"jax\.experimental\.pjit",
    r"jax\.experimental\.shard_map",
    r"jax\.experimental import (pjit|shard_map)",
    r"with mesh\b",
    r"jax\.tree_map\b",
    r"jax\.core\.Shape",
    r"lax\.pvary",
    r"check_rep\s*=",
    r"PositionalSharding",
    r"clu import (metric_writers|periodic_actions)",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Absolute names of what a file imports; `from a import b` gives ``a.b`` where that is a module, else ``a``."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return found


def own(path: Path, **options) -> set[str]:
    return {name for name in imports(path, **options) if name.split(".")[0] == "unitok_jax" and name != "unitok_jax"}


def floor(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_floors_below(name):
    if name == "unitok_jax":
        return
    here = floor(name)
    assert here in LEVEL, f"{name}: no floor of this name; say in FLOORS where it stands"
    for other in own(FILES[name]):
        there = floor(other)
        assert there == here or LEVEL[there] < LEVEL[here], f"{name} imports {other}, which is not below it"


def system_of(name: str) -> str | None:
    """The system that a module belongs to."""
    parts = name.split(".")
    inside = len(parts) > 2 and parts[1] == "systems" and (PACKAGE / "systems" / parts[2]).is_dir()
    return parts[2] if inside else None


def test_nothing_names_a_system_but_itself():
    for name, path in FILES.items():
        for other in own(path):
            assert system_of(other) in (None, system_of(name)), f"{name} imports {other}"


def test_no_import_cycles():
    # The name of a package stands for its __init__, which a submodule never needs.
    graph = {name: {n for n in own(path, top_level_only=True) if n in FILES} - {name} for name, path in FILES.items()}
    done, trail = set(), []

    def visit(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            trail.append(name)
            for other in sorted(graph[name]):
                visit(other)
            trail.pop()
            done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_small_and_current(name):
    path, text = FILES[name], FILES[name].read_text()
    assert path.name not in ("utils.py", "helpers.py", "common.py", "misc.py")
    assert text.count("\n") <= LONGEST
    assert ast.get_docstring(ast.parse(text)), "says nothing at its top"
    for pattern in DEPRECATED:
        assert not re.search(pattern, text), pattern
    for module in imports(path):
        assert module.split(".")[0] not in BANNED_IMPORTS, module


def test_public_names_say_what_they_are():
    silent = []
    for name, path in FILES.items():
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{name}.{node.name}")
    assert not silent


def functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """The public functions of a module and the methods of its public classes, special ones too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and re.match("__|[^_]", child.name):
            yield child
        elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from functions(child)


def bare(hint: ast.AST) -> bool:
    """Whether a hint has an array without a shape: alone, in a union, tuple or sequence."""
    if isinstance(hint, ast.Subscript):
        outer = ast.unparse(hint.value)
        return outer not in HOLDERS and not hasattr(jaxtyping, outer) and bare(hint.slice)
    return ast.unparse(hint) in ARRAYS or any(map(bare, ast.iter_child_nodes(hint)))


def test_arrays_in_public_signatures_have_shapes():
    shapeless = []
    for name, path in FILES.items():
        for function in functions(ast.parse(path.read_text())):
            arguments = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
            hints = [function.returns, *(argument.annotation for argument in arguments)]
            shapeless += [f"{name}.{function.name}: {ast.unparse(hint)}" for hint in hints if hint and bare(hint)]
    assert not shapeless


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
