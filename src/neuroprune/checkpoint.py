"""Save and load shrunk models: safetensors, config.json and the plan in neuroprune.json.

A shrunk model has layers of different sizes, which a stock config cannot describe. Loading builds
the dense model on the meta device, replays the plan on it, and lets `from_pretrained` of
transformers load the weights into the shapes that result. Where a stock config *can* describe the
result, it does, and stock `from_pretrained` loads the directory too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, Family, anatomy_of, family_of
from neuroprune.plan import Lineage, PlanError
from neuroprune.record import write_text_atomic
from neuroprune.surgery import adopt_, reshape_

PLAN_FILE = "neuroprune.json"
CHECKPOINT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, foreign, or could not be written."""


def save_pretrained(model: nn.Module, directory: Path | str, tokenizer: Any = None) -> None:
    """Save a model, shrunk or dense, so that `from_pretrained` loads it with one call.

    Everything is written beside the target first and moved into place when complete, the plan with
    the weights' digests last: a crash leaves the old files or a directory that refuses to load.

    Args:
        model: a transformers model of a declared family, not wrapped.
        directory: where to save; made if need be. Foreign files in it are left alone.
        tokenizer: saved along, if given.

    Raises:
        CheckpointError: the disk is full or the directory cannot be written; what was there before
            is untouched.

    Example:
        >>> neuroprune.save_pretrained(model, "out/", tokenizer)  # doctest: +SKIP
    """
    directory = Path(directory)
    anatomy, family = anatomy_of(model), family_of(model)
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; give a directory to save into.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        _write(model, stage, anatomy, family, tokenizer)
        _move_into_place(stage, directory)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None and "No space left" not in str(error):
            raise
        raise _unwritable(directory, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def from_pretrained(directory: Path | str, model_class: Any = None, **kwargs: Any) -> Any:
    """Load what `save_pretrained` (or a Trainer checkpoint written after a cut) holds.

    Args:
        directory: a local directory, or the name of a hub repository.
        model_class: class to load into, where it is not the one that was saved.
        **kwargs: passed on to `model_class.from_pretrained` (dtype, device_map,
            attn_implementation and so on).

    Returns:
        The model, in eval mode, ready to use, train or prune further.

    Raises:
        CheckpointError: no such directory, no plan in it, or files that were truncated, altered
            or belong to another model.

    Example:
        >>> model = neuroprune.from_pretrained("out/")  # doctest: +SKIP
    """
    directory = _local(directory)
    settings = _read_json(directory / "config.json")
    lineage, layout = _read_plan(directory, settings)
    dense = {k: v for k, v in settings.items() if k not in ("neuroprune", "per_layer_config")}
    model_class = model_class or _saved_class(dense, directory)
    if layout is None:
        config = _config(dense)
        loaded = _load(_replaying(model_class, lineage), directory, config, kwargs)
        loaded.__class__ = model_class
    else:
        loaded = _load(model_class, directory, _config(dense), kwargs)
        for key, value in layout.items():
            setattr(loaded.config, key, value)
        _widen_position_bias_(loaded, lineage)
    try:
        adopt_(loaded, lineage)
    except PlanError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    return loaded


def _write(model: Any, stage: Path, anatomy: Anatomy, family: Family, tokenizer: Any) -> None:
    lineage = anatomy.lineage
    overrides = _stock_settings(anatomy, family)
    state = None if overrides is None else _stock_state(model, anatomy, family, overrides)
    model.save_pretrained(stage, state_dict=state)
    if tokenizer is not None:
        tokenizer.save_pretrained(stage)
    settings = _read_json(stage / "config.json")
    settings.pop("neuroprune", None)
    dense = None
    if overrides is not None:
        dense = {key: settings[key] for key in overrides}
        settings |= overrides
    elif family.single_stack:
        settings["per_layer_config"] = _per_layer(anatomy, family)
    write_text_atomic(stage / "config.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")
    plan = {
        "checkpoint_version": CHECKPOINT_VERSION,
        "lineage": lineage.to_dict(),
        # Stock layout: the config describes the small model, and these were the dense values.
        "stock_layout": dense,
        "sha256": {f.name: _digest(f) for f in sorted(stage.glob("*.safetensors"))},
    }
    write_text_atomic(stage / PLAN_FILE, json.dumps(plan, indent=2, sort_keys=True) + "\n")


def _move_into_place(stage: Path, directory: Path) -> None:
    if not directory.exists():
        stage.chmod(0o755)
        stage.rename(directory)
        return
    (directory / PLAN_FILE).unlink(missing_ok=True)
    new = {f.name for f in stage.iterdir()}
    for stale in directory.glob("model*.safetensors*"):
        if stale.name not in new:
            stale.unlink()
    for file in sorted(stage.iterdir(), key=lambda f: f.name == PLAN_FILE):
        file.replace(directory / file.name)


def _stock_settings(anatomy: Anatomy, family: Family) -> dict[str, int] | None:
    """Config values that make a stock model of the shrunk shape; None where there are none.

    A stock config knows one number of heads and one MLP width. Where head_dim is computed as
    hidden / heads, fewer heads would mean other heads, so only MLP cuts can be described. A shared
    position bias needs the same original heads in every self-attention of a stack.
    """
    lineage, settings = anatomy.lineage, {}
    widths = {b.d_ff for b in anatomy.mlps}
    if lineage.plan.remove_neurons:
        if len(widths) > 1 or 0 in widths:
            return None
        settings[family.d_ff_key] = widths.pop()
    if lineage.plan.remove_heads:
        counts = {b.num_heads for b in anatomy.attentions}
        if family.fixed_head_dim or len(counts) > 1 or 0 in counts:
            return None
        if any(len(kept) > 1 for kept in _kept_by_stack(anatomy).values()):
            return None
        settings[family.heads_key] = counts.pop()
    return settings


def _kept_by_stack(anatomy: Anatomy) -> dict[str, set[tuple[int, ...]]]:
    """First part of the block names ("encoder", "decoder") -> kept heads of its self-attentions."""
    kept: dict[str, set[tuple[int, ...]]] = {}
    for block in anatomy.attentions:
        if not block.is_cross:
            stack = block.name.split(".", 1)[0]
            kept.setdefault(stack, set()).add(anatomy.lineage.kept_heads(block.name))
    return kept


def _stock_state(
    model: nn.Module, anatomy: Anatomy, family: Family, overrides: Mapping[str, int]
) -> dict[str, Tensor] | None:
    """The state dict with shared position biases cut to the kept heads; None if nothing differs."""
    if family.heads_key not in overrides or not family.position_bias:
        return None
    state = dict(model.state_dict())
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = _kept_by_stack(anatomy)
    for path in family.position_bias:
        stack = path.split(".", 1)[0]
        if stack in kept:
            bias: Any = anatomy.root.get_submodule(path)
            name = owners[id(bias.weight)]
            state[name] = state[name][:, list(next(iter(kept[stack])))].contiguous()
    return state


def _widen_position_bias_(model: Any, lineage: Lineage) -> None:
    """Undo the cut of `_stock_state`: a bias per head of the dense model, so that cuts compose."""
    if not lineage.plan.remove_heads:
        return
    family, anatomy_root = family_of(model), _root(model)
    for path in family.position_bias:
        try:
            bias: Any = anatomy_root.get_submodule(path)
        except AttributeError:
            continue  # an encoder without its decoder
        block = path.rpartition(".")[0]
        kept, total = lineage.kept_heads(block), lineage.heads[block]
        if bias.weight.shape[1] == total:
            continue
        wide = bias.weight.new_zeros(bias.weight.shape[0], total)
        wide[:, list(kept)] = bias.weight.detach()
        bias.weight = nn.Parameter(wide, requires_grad=bias.weight.requires_grad)
        bias.embedding_dim = total
        for attention in anatomy_of(model).attentions:
            if attention.shares_position_bias:  # n_heads is the width of the bias
                setattr(attention.owner, "n_heads", lineage.heads[attention.name])  # noqa: B010


def _root(model: nn.Module) -> nn.Module:
    return anatomy_of(model).root


def _per_layer(anatomy: Anatomy, family: Family) -> dict[str, dict[str, int]]:
    """Sizes per layer in the official schema, for readers of the config; our plan is the truth."""
    layers: dict[str, dict[str, int]] = {}
    for block in anatomy.attentions:
        if not block.is_cross:
            layers.setdefault(_layer(block.name), {})[family.heads_key] = block.num_heads
    for mlp in anatomy.mlps:
        layers.setdefault(_layer(mlp.name), {})[family.d_ff_key] = mlp.d_ff
    return layers


def _layer(name: str) -> str:
    return next(part for part in name.split(".") if part.isdigit())


def _local(directory: Path | str) -> Path:
    path = Path(directory)
    if path.is_dir():
        return path
    if path.exists() or not isinstance(directory, str) or str(directory).count("/") != 1:
        raise CheckpointError(f"{directory} is not a directory; give one that was saved before.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(directory))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{directory} is neither a local directory nor a hub repository that can be reached: "
            f"{error}"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: not a complete model directory.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Save the model again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object. Save the model again.")
    return data


def _read_plan(
    directory: Path, settings: Mapping[str, Any]
) -> tuple[Lineage, dict[str, Any] | None]:
    """Lineage, and the dense config values where the directory is in the stock layout."""
    layout = None
    if (directory / PLAN_FILE).exists():
        plan = _read_json(directory / PLAN_FILE)
        if plan.get("checkpoint_version") != CHECKPOINT_VERSION:
            raise CheckpointError(
                f"{directory / PLAN_FILE}: expected checkpoint version {CHECKPOINT_VERSION}, got "
                f"{plan.get('checkpoint_version')!r}. Update neuroprune, or save the model again."
            )
        _verify(directory, plan.get("sha256"))
        stored, layout = plan.get("lineage"), plan.get("stock_layout")
    else:
        stored = settings.get("neuroprune")
    if stored is None:
        raise CheckpointError(
            f"{directory} holds no plan ({PLAN_FILE}): it was not saved by neuroprune, or the save "
            "was interrupted. Load a stock model with transformers' AutoModel classes."
        )
    try:
        lineage = Lineage.from_dict(stored)
    except PlanError as error:
        raise CheckpointError(f"{directory}: {error} Save the model again.") from error
    if lineage.model_type != settings.get("model_type"):
        raise CheckpointError(
            f"{directory}: the plan is of a {lineage.model_type!r} model, config.json of a "
            f"{settings.get('model_type')!r} model. Copy the whole directory, not single files."
        )
    return lineage, layout


def _verify(directory: Path, digests: Any) -> None:
    present = {f.name for f in directory.glob("*.safetensors")}
    if not isinstance(digests, dict) or set(digests) != present:
        raise CheckpointError(
            f"{directory}: the plan lists the weight files {sorted(digests or [])}, the directory "
            f"holds {sorted(present)}. Copy the whole directory, or save the model again."
        )
    for name, digest in digests.items():
        if _digest(directory / name) != digest:
            raise CheckpointError(
                f"{directory / name} was truncated or altered after it was saved (its SHA-256 is "
                "not the one in the plan). Copy it again, or save the model again."
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _saved_class(settings: Mapping[str, Any], directory: Path) -> Any:
    import transformers

    names = settings.get("architectures") or []
    found = [getattr(transformers, name, None) for name in names]
    if not found or found[0] is None:
        raise CheckpointError(
            f"{directory / 'config.json'} names the model class {names}, which this transformers "
            "does not have. Pass model_class=..."
        )
    return found[0]


def _config(settings: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(**settings)


def _replaying(model_class: Any, lineage: Lineage) -> Any:
    """A subclass that takes the shrunk shapes once it is built, before weights are loaded."""

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        reshape_(self, lineage)

    # transformers looks at a class's module and name, so the subclass carries the original's.
    namespace = {"__init__": __init__, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), namespace)


def _load(model_class: Any, directory: Path, config: Any, kwargs: dict[str, Any]) -> Any:
    try:
        return model_class.from_pretrained(directory, config=config, **kwargs)
    except PlanError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{directory}: the weights do not fit the plan and config saved beside them: {error}"
        ) from error


def _unwritable(directory: Path, error: BaseException) -> CheckpointError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    remedy = "free some space" if full else "check that the place exists and can be written"
    return CheckpointError(
        f"could not save to {directory}: {error}. Nothing that was there has changed; {remedy} and "
        "save again."
    )
