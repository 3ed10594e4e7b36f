# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`restart_each_round`: a fresh optimizer and schedule for every round, as one training script per round has them."""


class RestartMixin:
    """Restarts optimizer and schedule. Part of [`NashTrainer`]."""

    def _forget_optimizer(self) -> None:
        optimizer = self.optimizer
        while hasattr(optimizer, "optimizer"):  # accelerate's and DeepSpeed's wrappers
            optimizer = optimizer.optimizer
        optimizer.state.clear()

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if not self.args.restart_each_round or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps = self.args.optimizer_steps_per_round
        scheduler = super().create_scheduler(steps, optimizer)
        if not hasattr(scheduler, "lr_lambdas"):
            raise ValueError(
                f"`lr_scheduler_type={self.args.lr_scheduler_type}` cannot be restarted: with `restart_each_round` "
                "use a schedule that is a function of the step, such as 'linear' or 'cosine'."
            )
        scheduler.lr_lambdas = [lambda step, f=f: f(step % steps) for f in scheduler.lr_lambdas]
        return scheduler
