# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Of OnlineDPOTrainer only the constructor is used, and where TRL has none our own gives the same runs."""

import pytest
from helpers import ALGORITHMS, equal, history, make_trainer, prompt_dataset, weights

from trl_nash.compat import OnlineDPOTrainer


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_the_constructor_is_used(algorithm, lora, tmp_path, monkeypatch):
    """Training, evaluation, saving, the card and a resumed run reach no other function of OnlineDPOTrainer."""

    def forbid(name):
        def raises(*args, **kwargs):
            raise AssertionError(f"OnlineDPOTrainer.{name} was used")

        return property(raises) if name == "beta" else raises

    own = [name for name, value in vars(OnlineDPOTrainer).items() if callable(value) or hasattr(value, "__get__")]
    for name in own:
        if name not in ("__init__", "__doc__"):
            monkeypatch.setattr(OnlineDPOTrainer, name, forbid(name))

    def trainer(folder):
        return make_trainer(
            algorithm,
            folder,
            lora=lora,
            gradient_checkpointing=True,
            extra={"eval_dataset": prompt_dataset(["a", "b c"])},
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
        )

    whole = trainer(tmp_path)
    whole.train()
    whole.save_model(str(tmp_path / "saved"))
    whole.create_model_card()
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert history(resumed, "loss") == history(whole, "loss")
    assert equal(weights(resumed.model), weights(whole.model))
