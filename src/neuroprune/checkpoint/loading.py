"""`from_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroprune.anatomy import AnatomyError, anatomy_of
from neuroprune.anatomy.registry import families_with_streams
from neuroprune.checkpoint.files import (
    CHECKPOINT_VERSION,
    PLAN_FILE,
    CheckpointError,
    read_json,
    verify,
)
from neuroprune.checkpoint.layout import widen_position_bias_
from neuroprune.lineage import Lineage
from neuroprune.plan import PlanError
from neuroprune.surgery import adopt_, reshape_

_OF_THE_HUB = {"revision", "token", "cache_dir", "local_files_only", "force_download"}


def from_pretrained(directory: Path | str, model_class: Any = None, **kwargs: Any) -> Any:
    """Load what `save_pretrained` (or a Trainer checkpoint written after a cut) holds.

    Args:
        directory: a local directory, or the name of a hub repository.
        model_class: class to load into, where it is not the one that was saved: a model class of
            the same family, or an Auto class.
        **kwargs: passed on to `model_class.from_pretrained` (dtype, device_map,
            attn_implementation, settings of the config such as num_labels, and so on). What is
            about a hub repository (revision, token, cache_dir, local_files_only, force_download)
            chooses what is downloaded, and `subfolder` is a folder inside.

    Returns:
        The model, in eval mode, ready to use, train or prune further.

    Raises:
        CheckpointError: no such directory, no plan in it, weights that were truncated, altered or
            belong to another model, or settings beside them that cannot be of this model.

    Example:
        >>> model = neuroprune.from_pretrained("out/")  # doctest: +SKIP
    """
    directory = _local(directory, {k: kwargs.pop(k) for k in _OF_THE_HUB & kwargs.keys()})
    directory = directory / str(kwargs.pop("subfolder", None) or "")
    settings = read_json(directory / "config.json")
    lineage, layout = _read_plan(directory, settings)
    if {"config", "state_dict", "output_loading_info"} & kwargs.keys():
        raise CheckpointError(
            "config, state_dict and output_loading_info come from the checkpoint; leave them out."
        )
    kind = _config_class(settings, model_class, directory)
    config, kwargs = _config(kind, settings | _dense_width(lineage), kwargs, directory)
    saved_class = _saved_class(settings)
    if model_class is not None:
        wanted = _class_for(model_class, config)
    elif saved_class is not None:
        wanted = saved_class
    else:
        raise CheckpointError(
            f"{directory / 'config.json'} names the model class {settings.get('architectures')}, "
            "which this transformers does not have. Pass model_class=..."
        )
    built = wanted if layout is not None else _replaying(wanted, lineage)
    loaded, report = _load(built, directory, config, kwargs)
    if wanted.__name__ == _saved_name(settings) and report["missing_keys"]:
        raise CheckpointError(
            f"{directory}: weights are missing: {', '.join(sorted(report['missing_keys']))}. "
            "Copy the whole directory, or save the model again."
        )
    loaded.__class__ = wanted
    try:
        if layout is not None:
            for key, value in layout.items():
                setattr(loaded.config, key, value)
            widen_position_bias_(loaded, lineage)
        present = [block.name for block in anatomy_of(loaded).blocks()]
        adopt_(loaded, lineage.restricted_to(present))
    except (PlanError, AnatomyError) as error:
        raise CheckpointError(f"{directory}: {error}") from error
    return loaded


def _local(directory: Path | str, hub: Mapping[str, Any]) -> Path:
    path = Path(directory)
    if path.is_dir():
        return path
    if path.exists() or not isinstance(directory, str) or str(directory).count("/") != 1:
        raise CheckpointError(f"{directory} is not a directory; give one that was saved before.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(directory, etag_timeout=3, **hub))
    except (OSError, HFValidationError) as error:  # all of the hub's errors are one of these
        raise CheckpointError(
            f"{directory} is neither a local directory nor a hub repository that can be reached: "
            f"{error}"
        ) from error


def loads_with(directory: Path) -> str:
    """Who loads a directory that `save_pretrained` wrote.

    Args:
        directory: the directory.

    Returns:
        "transformers" where the stock `from_pretrained` does, as `neuroprune.from_pretrained` does
        always; otherwise "neuroprune".

    Raises:
        CheckpointError: it is no such directory, or it is damaged.
    """
    _, layout = _read_plan(directory, read_json(directory / "config.json"))
    return "neuroprune" if layout is None else "transformers"


def _read_plan(
    directory: Path, settings: Mapping[str, Any]
) -> tuple[Lineage, dict[str, Any] | None]:
    """Lineage, and the dense config values where the directory is in the stock layout."""
    layout = None
    stored = settings.get("neuroprune")
    # A stock save writes the plan into config.json, where ours never is: then it is the newer one,
    # and a plan file beside it is of what was there before.
    if stored is None and (directory / PLAN_FILE).exists():
        plan = read_json(directory / PLAN_FILE)
        if plan.get("checkpoint_version") != CHECKPOINT_VERSION:
            raise CheckpointError(
                f"{directory / PLAN_FILE}: expected checkpoint version {CHECKPOINT_VERSION}, got "
                f"{plan.get('checkpoint_version')!r}. Update neuroprune, or save the model again."
            )
        verify(directory, plan.get("sha256"))
        stored, layout = plan.get("lineage"), plan.get("stock_layout")
        if layout is not None and not isinstance(layout, dict):
            raise CheckpointError(
                f"{directory / PLAN_FILE} is damaged: stock_layout is {layout!r}. Save the model "
                "again."
            )
    if stored is None:
        raise CheckpointError(
            f"{directory} holds no plan ({PLAN_FILE}): it was not saved by neuroprune, or the save "
            "was interrupted. Load a stock model with transformers' AutoModel classes."
        )
    try:
        lineage = Lineage.from_dict(stored)
    except (PlanError, AnatomyError) as error:
        raise CheckpointError(f"{directory}: {error} Save the model again.") from error
    if lineage.model_type != settings.get("model_type"):
        raise CheckpointError(
            f"{directory}: the plan is of a {lineage.model_type!r} model, config.json of a "
            f"{settings.get('model_type')!r} model. Copy the whole directory, not single files."
        )
    return lineage, layout


def _saved_name(settings: Mapping[str, Any]) -> str | None:
    names = settings.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return name if isinstance(name, str) else None


def _saved_class(settings: Mapping[str, Any]) -> Any:
    """The model class that config.json names; None where transformers has none of that name."""
    import transformers

    found = getattr(transformers, _saved_name(settings) or "", None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model else None


def _dense_width(lineage: Lineage) -> dict[str, Any]:
    """The config value of the width that the dense model had, where some of it was removed."""
    family = families_with_streams().get(lineage.model_type)
    if not lineage.plan.remove_hidden or family is None or family.stream is None:
        return {}
    return {family.stream.width_key: lineage.width}


def _config_class(settings: Mapping[str, Any], model_class: Any, directory: Path) -> Any:
    """The config class of a model type: that of transformers, or of a class of the user's own."""
    from transformers import AutoConfig

    named = settings["model_type"]
    own = getattr(model_class, "config_class", None)
    if getattr(own, "model_type", None) == named:
        return own
    try:
        return type(AutoConfig.for_model(named))
    except ValueError as error:
        raise CheckpointError(
            f"{directory}: transformers knows no model of the type {named!r}. Pass "
            f"model_class=..., or register its config: AutoConfig.register({named!r}, YourConfig)."
        ) from error


def _config(
    kind: Any, settings: Mapping[str, Any], kwargs: dict[str, Any], directory: Path
) -> tuple[Any, dict[str, Any]]:
    """The config that the weights are loaded into, and the keyword arguments it did not take."""
    from huggingface_hub.errors import StrictDataclassError

    dense = {k: v for k, v in settings.items() if k not in ("neuroprune", "per_layer_config")}
    loading = {key: kwargs.pop(key) for key in ("dtype", "torch_dtype") if key in kwargs}
    try:
        config, rest = kind.from_dict(dense, return_unused_kwargs=True, **kwargs)
    except StrictDataclassError as error:
        raise CheckpointError(
            f"{directory / 'config.json'} is damaged, or a setting that was given is none of a "
            f"{dense['model_type']!r} model: {error}"
        ) from error
    return config, rest | loading


def _class_for(model_class: Any, config: Any) -> Any:
    """The model class meant by a class or an Auto class."""
    mapping = getattr(model_class, "_model_mapping", None)
    if mapping is not None:
        if type(config) not in mapping:
            raise CheckpointError(
                f"{model_class.__name__} has no class for {config.model_type!r} models. Leave "
                "model_class out to load the class that was saved."
            )
        found = mapping[type(config)]
        return found[0] if isinstance(found, tuple) else found
    if not isinstance(model_class, type):
        raise CheckpointError(f"expected a class as model_class, got {model_class!r}.")
    expected = getattr(getattr(model_class, "config_class", None), "model_type", None)
    if expected != config.model_type:
        raise CheckpointError(
            f"the checkpoint is of a {config.model_type!r} model, {model_class!r} of a "
            f"{expected!r} model. Leave model_class out to load the class that was saved."
        )
    return model_class


def _replaying(model_class: Any, lineage: Lineage) -> Any:
    """A subclass that takes the shrunk shapes once it is built, before weights are loaded."""

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        reshape_(self, lineage)

    # transformers looks at a class's module and name, so the subclass carries the original's.
    namespace = {"__init__": __init__, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), namespace)


def _load(model_class: Any, directory: Path, config: Any, kwargs: dict[str, Any]) -> Any:
    """The loaded model and the loading report of transformers."""
    try:
        return model_class.from_pretrained(
            directory, config=config, output_loading_info=True, **kwargs
        )
    except (PlanError, AnatomyError) as error:
        raise CheckpointError(f"{directory}: {error}") from error
    except Exception as error:  # whatever a model's own code makes of a damaged config
        raise CheckpointError(
            f"{directory}: the weights do not fit the plan and config saved beside them, or the "
            "settings that were given (ignore_mismatched_sizes=True makes a head of another size "
            f"anew): {error}"
        ) from error
