# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Model cards, and what goes to the hub."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpointed import OWN, build, names
from helpers import ALGORITHMS, make_trainer
from huggingface_hub import ModelCard
from transformers import Trainer


# ---- Model cards and the hub ----

PAPERS = {
    "ipo": ("Iterative IPO", "iterative-ipo", "2310.12036"),
    "onpo-one": ("ONPO", "onpo", "2502.16852"),
    "onpo-two": ("ONPO", "onpo", "2502.16852"),
    "comal": ("COMAL", "comal", "2410.23223"),
    "nash-md": ("Nash-MD", "nash-md", "2312.00886"),
    "nash-ema": ("Nash-MD", "nash-md", "2312.00886"),
}


def table_of(text: str) -> dict[str, str]:
    """The table of settings in a model card."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`"): value for name, value in rows}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_model_card_names_algorithm_paper_and_settings(algorithm, whole_run):
    """A checkpoint writes a card: tags for the hub, method, paper, citation, and every setting of the config."""
    trainer, folder = whole_run(algorithm, "full")
    name, tag, paper = PAPERS[algorithm]
    card = ModelCard.load(folder / "README.md")
    assert {"trl", "trl-nash", tag} <= set(card.data.tags)
    assert card.data.library_name == "transformers"
    assert f"huggingface.co/papers/{paper}" in card.text and f"arXiv:{paper}" in card.text
    assert name in card.text
    settings = table_of(card.text)
    expected = {"judge": "helpers:favours_a", "num_generations": "2", "learning_rate": "0.05", "max_new_tokens": "5"}
    expected |= {key: str(getattr(trainer.args, key)) for key in ALGORITHMS[algorithm][2] if key != "num_generations"}
    expected |= {key: str(value) for key, value in OWN[algorithm].items()}
    assert expected.items() <= settings.items()
    assert "trl-nash: " in card.text.split("### Framework versions")[1]


def test_the_card_is_written_once_however_often_it_is_saved(whole_run):
    """The card of the last of 8 checkpoints has one table of settings."""
    _, folder = whole_run("comal", "full")
    assert (folder / "README.md").read_text().count("### Settings") == 1


def test_push_to_hub_carries_the_tags(tmp_path, monkeypatch):
    """`push_to_hub` uploads a card with TRL's tags and ours, beside the tags that the user gives."""
    pushed = {}
    trainer = build("comal", tmp_path, hub_model_id="someone/model")

    def upload(folder_path, **kwargs):
        pushed["names"] = names(Path(folder_path))
        pushed["card"] = ModelCard.load(Path(folder_path) / "README.md")

    def init_hf_repo(self, token=None, private=None):
        self.hub_model_id = "someone/model"

    monkeypatch.setattr("transformers.trainer.hf_api", lambda: SimpleNamespace(upload_folder=upload), raising=False)
    monkeypatch.setattr("transformers.trainer.upload_folder", upload, raising=False)  # before it had an API object
    monkeypatch.setattr(Trainer, "init_hf_repo", init_hf_repo)
    trainer.push_to_hub(tags=["mine"], dataset_name="someone/prompts")
    assert {"trl", "trl-nash", "comal", "mine"} <= set(pushed["card"].data.tags)
    assert pushed["card"].data.datasets == ["someone/prompts"] or "someone/prompts" in pushed["card"].text
    assert "model.safetensors" in pushed["names"] and not any("nash/" in name for name in pushed["names"])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_model_is_tagged(lora, tmp_path):
    """`model.push_to_hub` by hand gets the tags as well."""
    trainer = make_trainer("onpo-one", tmp_path, lora=lora)
    assert {"trl", "trl-nash", "onpo"} <= set(trainer.model.model_tags)
