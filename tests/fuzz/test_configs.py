# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json
import os

import pytest
import yaml
from anything import VALUES, complaints
from hypothesis import example, given
from hypothesis import strategies as st

from trl_nash.cli.options.judge import JudgeArguments
from trl_nash.cli.options.parser import NashParser
from trl_nash.cli.options.typed import apply_config, read_config
from trl_nash.cli.training.launching.processes import launch_parser
from trl_nash.usage import UsageError


SECRET = "sk-fuzz-secret-0123456789"
PARSER, LAUNCHER = NashParser("comal"), launch_parser()
NAMES = sorted(action.dest for action in [*PARSER._actions, *LAUNCHER._actions])
KEYS = st.one_of(st.sampled_from([*NAMES, "env", "accelerate_config", "learning_rat", "<<"]), VALUES.map(str))
SCALARS = [
    *"~ true no on .nan .inf -.inf 1e-4 1_0 0x_ 0b_ -_ 190:20:30 2020-01-01 2001-99-99 = !!int !!bool !!float".split(),
    *["!!int x", "!!bool x", "!!timestamp x", "!!binary é", "!!python/object:os.system x", "&x [*x]", "{a: 1}"],
    *["[1, [2]]", "'[bold]'", '"\\ud800"', '"\\0"', "9" * 5000, "0x" + "f" * 5000, "[" * 3000, "{a: " * 3000],
]


@pytest.fixture(autouse=True)
def environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def read(path, text: str | bytes):
    """What the file makes of the options, as in a launch."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="replace"))
    parser = NashParser("comal")
    launch_args = apply_config(str(path), read_config(str(path)), parser, LAUNCHER)
    assert all(argument.startswith("--") for argument in launch_args)
    arguments = parser.parse_args([])
    JudgeArguments(arguments.judge, arguments.judge_kwargs)
    return arguments, launch_args


@given(
    st.one_of(
        st.binary(max_size=40),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        VALUES.map(json.dumps),
        st.dictionaries(KEYS, VALUES, max_size=3).map(lambda options: yaml.safe_dump(options, allow_unicode=True)),
        st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(SCALARS)), max_size=3).map(
            lambda lines: "".join(f"{name}: {value}\n" for name, value in lines)
        ),
    )
)
@example("learning_rate: 1\nlearning_rate: 2")
def test_configs(tmp_path, text):
    with complaints(UsageError):
        arguments, _ = read(tmp_path / "config.yaml", text)
        assert isinstance(arguments.learning_rate, float | int | None)
        assert isinstance(arguments.bf16, bool | str | None)


@given(st.one_of(VALUES, st.lists(st.dictionaries(st.just("judge"), VALUES))), st.one_of(st.none(), VALUES))
def test_judges(judge, kwargs):
    with complaints(UsageError):
        arguments = JudgeArguments(judge, kwargs)
        assert all(isinstance(name, str) for name in arguments.names)


@given(st.one_of(st.text(), VALUES.map(json.dumps)))
def test_judge_kwargs(text):
    with complaints(UsageError):
        assert isinstance(JudgeArguments("random", text).judge_kwargs, dict | None)


# What was found.


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: 2001-99-99", "is not valid YAML: a date or number in it cannot be"),  # ValueError
        ("seed: 0x_", "is not valid YAML"),
        ("seed: !!timestamp x", "is not valid YAML"),  # AttributeError
        ("seed: !!bool x", "is not valid YAML"),  # KeyError
        ("seed: !!int ''", "is not valid YAML"),  # IndexError
        ("seed: " + "9" * 5000, "is not valid YAML"),
        ("seed: 0x" + "f" * 5000, "seed: invalid int value: a number of thousands of digits"),
        ("seed: " + "[" * 3000, "nested too deeply"),  # RecursionError
        ("seed: 1\nseed: 2", "has seed twice"),  # the last was taken
        ("learning_rate: [1]", "learning_rate: takes one value, not a list"),  # was passed on
        ("seed: {a: 1}", "seed: takes one value, not a dict"),
        ("eval_strategy: [steps]", "eval_strategy: takes one value"),
        ("num_processes: [1]", "num_processes takes one value, not a list"),
        ("use_deepspeed: maybe", "use_deepspeed is true or false, not 'maybe'"),  # was true
        ("help: 1", "unknown option help"),
        ("env: {A=B: 1}", "cannot set 'A=B'"),  # ValueError
        ("env: {'': 1}", "cannot set ''"),  # OSError
        ('env: {A: "\\0"}', "cannot set 'A'"),
        ('env: {A: "\\ud800"}', "cannot set 'A'"),
        ("env: {A: }", "cannot set 'A'"),  # was "None"
        ("env: {A: [1]}", "cannot set 'A'"),
        ("env: 0", "`env` must be a mapping"),
    ],
)
def test_found_configs(tmp_path, text, complaint):
    with pytest.raises(UsageError) as error:
        read(tmp_path / "config.yaml", text)
    assert complaint in str(error.value)


def test_nothing_given_is_the_default(tmp_path):
    assert read(tmp_path / "config.yaml", "num_processes: null\naccelerate_config:")[1] == []


@pytest.mark.parametrize("kwargs", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "{"])
def test_found_judge_kwargs(kwargs):
    with pytest.raises(UsageError, match="judge_kwargs must be JSON"):
        JudgeArguments("random", kwargs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"judge": f"openai:m@http://user:{SECRET}@host/v1"},  # was printed with the plan
        {"judge": ["random", f"hf:m@https://{SECRET}@host/v1"]},
        {"judge": f"openai:m@http://host/v1?key={SECRET}"},
        {"judge": {"model": "m", "api_key": SECRET}},
        {"judge": "random", "judge_kwargs": f'{{"api_key": "{SECRET}"'},
        {"judge": "random", "judge_kwargs": f'["{SECRET}"]'},
        {"judge": "random", "judge_kwargs": [SECRET]},
    ],
)
def test_complaints_about_judges_keep_secrets(arguments):
    with pytest.raises(UsageError) as error:
        JudgeArguments(**arguments)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("text", [f"env: {{KEY: {SECRET}", f"env: {{KEY: [{SECRET}]}}", f"env:\n KEY: {SECRET}\n- 1"])
def test_complaints_about_configs_keep_secrets(tmp_path, text):
    with pytest.raises(UsageError) as error:
        read(tmp_path / "config.yaml", text)
    assert SECRET not in str(error.value)


def test_objects_are_not_made(tmp_path):
    file = tmp_path / "made"
    with pytest.raises(UsageError, match="could not determine a constructor for the tag"):
        read(tmp_path / "config.yaml", f"seed: !!python/object/apply:pathlib.Path.touch [{file}]")
    assert not file.exists()


def test_merge_keys_may_be_overridden(tmp_path):
    text = "env: &base {A: 1}\nlr_scheduler_kwargs: {<<: *base, A: 2}"
    assert read(tmp_path / "config.yaml", text)[0].lr_scheduler_kwargs == {"A": 2}
