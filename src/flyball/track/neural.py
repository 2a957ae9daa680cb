"""PyTorch tells hooks when a module has run and an optimizer has stepped; these pass it on to a run.

    watching = run.watch(model, optimizer)      # counts steps; learning rates and gradient norms every 50 of them
    …
    watching.remove()                           # or leave it to the run's end

Only public hooks are used (``Module.register_forward_hook``, ``Optimizer.register_step_post_hook``): nothing is patched.
What the loss is no hook can see: ``run.metric("loss", loss, step)`` takes a tensor as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyball.errors import Invalid

if TYPE_CHECKING:
    from flyball.track.runs import ActiveRun


class Watching:
    """The hooks that were set, and how far training is."""

    def __init__(self, run: ActiveRun, model: Any, optimizer: Any, every: int) -> None:
        if every < 1:
            raise Invalid(f"every={every} is no number of steps", "1 measures each of them")
        self.steps = 0
        self.rows = 0
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._every = every
        self._handles: list[Any] = []
        if model is not None:
            run.params(_shape(model))
            self._handles.append(model.register_forward_hook(self._ran))
        if optimizer is not None:
            if not hasattr(optimizer, "register_step_post_hook"):
                raise Invalid(f"{type(optimizer).__name__} has no hook for steps", "PyTorch 2.0 or newer")
            run.params({"optimizer": type(optimizer).__name__})
            self._handles.append(optimizer.register_step_post_hook(self._stepped))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _ran(self, module: Any, given: tuple[Any, ...], _answer: Any) -> None:
        if module.training and given and hasattr(given[0], "shape") and len(given[0].shape):
            self.rows += int(given[0].shape[0])

    def _stepped(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        self.steps += 1
        if self.steps % self._every and self.steps != 1:
            return
        found = {f"lr_{number}": group["lr"] for number, group in enumerate(optimizer.param_groups)}
        if len(found) == 1:
            found = {"lr": found["lr_0"]}
        squared = sum(
            float(one.grad.detach().norm()) ** 2
            for group in optimizer.param_groups
            for one in group["params"]
            if one.grad is not None
        )
        found["gradient_norm"] = squared**0.5
        if self.rows:
            found["training_rows"] = self.rows
        self._run.metrics({name: float(value) for name, value in found.items()}, self.steps)


def _shape(model: Any) -> dict[str, Any]:
    every = list(model.parameters())
    return {
        "model": type(model).__name__,
        "model_parameters": sum(int(one.numel()) for one in every),
        "model_trainable_parameters": sum(int(one.numel()) for one in every if one.requires_grad),
    }
