"""`neuroprune shrink`: cut a saved model by a plan, or take out what does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroprune.cli.console import UsageError, emit, guarded, loader, quiet_libraries
from neuroprune.cli.options import Json

if TYPE_CHECKING:
    from neuroprune.plan import ShrinkPlan


@guarded
def shrink(
    model: Annotated[str, typer.Argument(help="Directory, pypi:PACKAGE or hub name.")],
    out: Annotated[Path, typer.Option(help="Directory to save the smaller model to.")],
    plan: Annotated[
        Path | None,
        typer.Option(
            help="JSON with remove_heads, remove_neurons (block -> indices), merge_heads (block -> "
            "{removed: kept}), remove_inputs (block -> group -> indices) and remove_hidden "
            "(indices), counting the model's units as `inspect` lists them.",
            show_default=False,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Remove heads and neurons of a saved model and save the result.

    Without --plan, exactly the units that do nothing are removed, and inputs that nothing reads
    where at least a quarter of them is dead: the outputs stay the same.
    """
    from neuroprune import save_pretrained, shrink_
    from neuroprune.anatomy import anatomy_of
    from neuroprune.bench.models import load_any
    from neuroprune.checkpoint import loads_with
    from neuroprune.methods import dead_inputs, dead_units
    from neuroprune.tasks.models import load_tokenizer
    from neuroprune.topology.sparsity import sparsity

    quiet_libraries()
    chosen = None if plan is None else read_plan(plan)
    loaded, source = load_any(model)
    if out.resolve() == Path(source).resolve():
        raise UsageError(f"--out is the model's own directory {out}; choose another one.")
    before = sparsity(anatomy_of(loaded))
    done = dead_units(anatomy_of(loaded)) if chosen is None else chosen
    shrink_(loaded, done)
    if chosen is None:
        unread = dead_inputs(anatomy_of(loaded))
        shrink_(loaded, unread)
        done = done.then(unread)
    after = sparsity(anatomy_of(loaded))
    try:
        tokenizer: Any = load_tokenizer(source)
    except ValueError:
        tokenizer = None  # a bare model stays a bare model
    save_pretrained(loaded, out, tokenizer)
    payload = {
        "out": str(out),
        "loads_with": loads_with(out),
        **{f"removed_{what.split()[0]}": count for what, count in _removed(done).items()},
        "plan": done.to_dict(),
        "before": before.to_dict(),
        "after": after.to_dict(),
    }
    removed = " and ".join(f"{count} {what}" for what, count in _removed(done).items())
    shown = (
        f"removed {removed}; structural sparsity "
        f"{before.structural_sparsity:.1%} -> {after.structural_sparsity:.1%} of the dense model's "
        f"{after.dense_weights:,} prunable weights\nsaved to {out} ({loader(out)})"
    )
    emit(payload, shown, json_output)


def _removed(plan: ShrinkPlan) -> dict[str, int]:
    """What a plan removes and how much of it; of dimensions only where any go."""
    others = {"inputs": plan.num_inputs, "hidden dimensions": len(plan.remove_hidden)}
    units = {"heads": plan.num_heads, "neurons": plan.num_neurons}
    return units | {what: count for what, count in others.items() if count}


def read_plan(path: Path) -> ShrinkPlan:
    """A plan from a JSON file; absent entries remove nothing.

    Args:
        path: the file.

    Raises:
        UsageError: not JSON.
        PlanError: not a plan.
    """
    from neuroprune.plan import ShrinkPlan

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected an object with remove_heads and remove_neurons.")
    empty: dict[str, Any] = {"remove_heads": {}, "remove_neurons": {}, "merge_heads": {}}
    return ShrinkPlan.from_dict(empty | data)
