"""Every golden through its handler, and every handler's mutations."""

import importlib.util
from pathlib import Path

import jax
import pytest
from harness import Case, DoesNotApply, Mutation, Noticed

HANDLERS = Path(__file__).parent / "handlers"


def handler_file(system, kind):
    """The handler's file: one of the system's own before one of the kind; None if there is none."""
    names = (HANDLERS / f"{system}_{kind}.py", HANDLERS / f"{kind}.py")
    return next((path for path in names if path.exists()), None)


def load_handler(case):
    system, kind = case.config["system"], case.config["kind"]
    path = handler_file(system, kind)
    assert path is not None, f"no handler for kind {kind!r} of {system}; add {HANDLERS.name}/{kind}.py"
    spec = importlib.util.spec_from_file_location(f"golden_handler_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(handler, case):
    with jax.default_matmul_precision("highest"):
        handler.check(case)


def test_golden(golden, record_property):
    case = Case(golden)
    record_property("golden", f"{golden.parent.name}/{golden.name}")
    record_property("golden_counts", f"not run, of {len(case.names)}")
    handler = load_handler(case)
    run(handler, case)
    record_property("golden_counts", f"{len(case.compared)}/{len(case.names)}" + _others(case))
    assert not case.unsorted(), f"neither input, compared nor skipped: {', '.join(case.unsorted())}"
    assert case.compared, "nothing was compared"
    assert not case.failures, "\n".join([f"{len(case.failures)} of {len(case.compared)} differ", *case.failures])


def _others(case):
    parts = [f"{len(case.inputs - case.compared)} inputs"]
    parts += (
        [f"{len(case.skipped)} skipped ({'; '.join(dict.fromkeys(case.skipped.values()))})"] if case.skipped else []
    )
    return f", {', '.join(parts)}"


@pytest.mark.slow
def test_mutations_are_seen(mutated, monkeypatch):
    """A wrong activation, epsilon, norm or bias must make a comparison fail, else the golden proves nothing."""
    case = Case(mutated)
    handler = load_handler(case)
    listed = getattr(handler, "MUTATIONS", {})
    mutations: tuple[Mutation, ...] = listed.get(case.name, listed.get(case.config["kind"], ()))
    if not mutations:
        pytest.skip("no mutations for this case")
    seen = {mutation.name: _is_seen(handler, Case(mutated, mutation), monkeypatch) for mutation in mutations}
    unseen = [name for name, found in seen.items() if found is False]
    assert not unseen, f"no comparison noticed: {', '.join(unseen)}"
    assert any(seen.values()), "no mutation applies to this case"


def _is_seen(handler, case, monkeypatch):
    """Whether a mutated run fails at a comparison or an assertion of the handler; None where the case has not what
    the mutation changes."""
    with monkeypatch.context() as patching:
        if case.mutation.patch:
            patching.setattr(*case.mutation.patch)
        try:
            run(handler, case)
        except (Noticed, AssertionError):
            return True
        except DoesNotApply:
            return None
    return bool(case.failures)
