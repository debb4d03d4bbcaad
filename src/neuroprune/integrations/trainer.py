"""`NeuroPruneCallback`: a pruning method under the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuroprune.anatomy import anatomy_of
from neuroprune.config import Config, ConfigError
from neuroprune.methods import Method
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import Pruner, attach
from neuroprune.snapshots import Evaluate, wants_snapshots


class _Events:
    """The events of transformers' TrainerCallback that pruning needs."""

    def __init__(
        self,
        method: Config | Method,
        *,
        teacher: Any = None,
        snapshot_dir: Path | str | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        if not isinstance(method, Config | Method):
            raise ConfigError(
                "expected the configuration of a method, such as NeuroPruneCallback(NeuroPrune("
                f"target=0.8)), got {method!r}."
            )
        self.method = method
        self.teacher = teacher
        self.snapshot_dir = snapshot_dir
        self.evaluate = evaluate
        self.pruner: Pruner | None = None
        self.reached: dict[str, float] = {}
        self.removed: ShrinkPlan | None = None
        self.snapshots: list[dict[str, Any]] = []
        self._look: _LooksOnce | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse settings that cannot work, before anything is trained."""
        self._check(args)
        # A checkpoint's weights are loaded before the training begins.
        self._look = None if kwargs.get("model") is None else _LooksOnce(kwargs["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach; when resuming, continue from the state in the checkpoint."""
        self._check(args)
        if self._look is not None:
            self._look.remove()
        if self.pruner is not None:  # an earlier training was interrupted
            self.pruner.detach()
        self.pruner = attach(
            kwargs["model"],
            kwargs["optimizer"],
            self.method,
            state.max_steps,
            teacher=self.teacher,
            snapshot_dir=self._snapshot_dir(args),
            evaluate=self.evaluate,
        )
        if state.global_step > 0:
            saved = (state.stateful_callbacks or {}).get(type(self).__name__)
            if not isinstance(saved, dict) or saved.get("attributes", {}).get("pruner") is None:
                raise ConfigError(
                    "the checkpoint was written without this callback. Resume a pruning run from "
                    "a checkpoint of a pruning run, or start a new training from the saved model."
                )
            found = saved["attributes"]["pruner"]
            self.pruner.load_state_dict(found)
            # Saved by step, a checkpoint of an epoch's last step is older than the epoch's end.
            at_the_end = bool(state.epoch) and float(state.epoch).is_integer()
            if at_the_end and found["cut_at_step"] != found["steps"]:
                self.pruner.prune()

    def _snapshot_dir(self, args: Any) -> Path | str | None:
        """Where snapshots go: the user's place, or one in `output_dir` where they are asked for."""
        config = self.method.config if isinstance(self.method, Method) else self.method
        if self.snapshot_dir is None and wants_snapshots(config):
            return Path(args.output_dir) / "snapshots"
        return self.snapshot_dir

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the method choose, and cut."""
        if self.pruner is not None:
            self.pruner.prune()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Last cut, dead units removed, hooks gone."""
        if self.pruner is not None:
            self.removed = self.pruner.finish()
            self.reached = self.pruner.reached
            if self.pruner.snapshots is not None:
                self.snapshots = self.pruner.snapshots.taken
            self.pruner = None

    def _check(self, args: Any) -> None:
        _check(args)
        config = self.method.config if isinstance(self.method, Method) else self.method
        taught = self.teacher is not None or getattr(config, "teacher", None) is not None
        if taught and args.label_smoothing_factor:
            raise ConfigError(
                "label_smoothing_factor keeps the labels from the model, and a teacher has its say "
                "in the loss that the model returns. Set it to 0, or leave the teacher out."
            )

    def state(self) -> dict[str, Any]:
        """What the Trainer stores in `trainer_state.json` of every checkpoint."""
        return {
            "args": {},
            "attributes": {"pruner": self.pruner.state_dict() if self.pruner else None},
        }


class _LooksOnce:
    """Looks at the first weights that are loaded into a model, as when a Trainer resumes.

    Args:
        model: the model.
    """

    def __init__(self, model: Any) -> None:
        self._handle = model.register_load_state_dict_pre_hook(self)

    def remove(self) -> None:
        """Look no more."""
        self._handle.remove()

    def __call__(self, model: Any, state: Any, prefix: str, *_: Any) -> None:
        """Refuse those of a model that was cut, which do not fit one that was not.

        Raises:
            ConfigError: with the remedy.
        """
        self.remove()
        held = {id(m) for m in anatomy_of(model).matrices()}
        for name, own in model.named_parameters():
            found = getattr(state.get(prefix + name), "shape", own.shape)
            if id(own) in held and found != own.shape and found.numel() < own.numel():
                raise ConfigError(
                    f"the checkpoint is of a model that was cut: {name} has the shape "
                    f"{tuple(found)} there and {tuple(own.shape)} in this model. Give the Trainer "
                    "the model of the checkpoint: Trainer(neuroprune.from_pretrained(checkpoint), "
                    "...), then train(resume_from_checkpoint=checkpoint)."
                )


def _check(args: Any) -> None:
    """Refuse Trainer settings under which pruning cannot work.

    Raises:
        ConfigError: with the remedy.
    """
    if args.load_best_model_at_end:
        raise ConfigError(
            "load_best_model_at_end=True would load weights of another shape after a cut. Set it "
            "to False; every checkpoint loads with neuroprune.from_pretrained, so the best one can "
            "be chosen afterwards."
        )
    if args.world_size > 1 or args.n_gpu > 1:
        raise ConfigError(
            f"the Trainer would wrap the model for {max(args.world_size, args.n_gpu)} devices, and "
            "a wrapped model cannot be cut. Run on one device (CUDA_VISIBLE_DEVICES=0)."
        )
    if args.torch_compile:
        raise ConfigError(
            "torch_compile=True fixes the shapes that pruning changes. Set it to False, and "
            "compile the finished model."
        )
    if args.restore_callback_states_from_checkpoint:
        raise ConfigError(
            "restore_callback_states_from_checkpoint=True rebuilds callbacks from their stored "
            "arguments. Leave it False: this callback restores itself."
        )
    if getattr(args, "auto_find_batch_size", False):
        raise ConfigError(
            "auto_find_batch_size=True restarts the training on a model that may have been cut. "
            "Set it to False and give a batch size that fits."
        )


def callback_class() -> Any:
    """Build the callback class; transformers is imported here and not before.

    Returns:
        `NeuroPruneCallback`, a `transformers.TrainerCallback`.
    """
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    class NeuroPruneCallback(_Events, TrainerCallback, ExportableState):
        """Prune while a Hugging Face Trainer fine-tunes.

        `prune()` runs at every epoch end, `finish()` when training ends; the trajectory is that of
        the plain loop. Checkpoints carry the plan: load one with `neuroprune.from_pretrained` and
        pass it to `Trainer.train(resume_from_checkpoint=...)` to continue.

        With gradient accumulation, set `trainer.model_accepts_loss_kwargs = False` for models whose
        loss is a mean over its own batch whatever `num_items_in_batch` says, such as classifiers
        and T5: transformers 5.23 does not average it over the accumulated batches, which makes the
        task's gradient that many times larger against the penalty.

        Args:
            method: `NeuroPrune(...)`, the configuration of another method such as `CoFi(...)`, or a
                `Method` of your own.
            teacher: as in `attach`.
            snapshot_dir: where snapshots go; `output_dir/snapshots` where None.
            evaluate: model -> metrics, for the quality of each snapshot.

        Raises:
            ConfigError: when the Trainer is made, for settings that cannot work with pruning.

        Example:
            >>> Trainer(model, args, callbacks=[NeuroPruneCallback(NeuroPrune(alpha=1e-4))])
            ... # doctest: +SKIP
        """

    return NeuroPruneCallback
