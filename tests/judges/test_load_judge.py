# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`as_judge`, `load_judge` and the `JUDGES` table."""

import importlib
import os
import subprocess
import sys

import pytest

import trl_nash.judges
from trl_nash.judges import JUDGES, BasePairwiseJudge, CallableJudge, RandomJudge, as_judge, check_name, load_judge


MODULE = """
from trl_nash import BasePairwiseJudge, PairwiseJudge, RandomJudge

def longer(prompts, first, second):
    return [float(len(a) > len(b)) for a, b in zip(first, second)]

def constant(prompts, first, second, value=0.5):
    return [value] * len(prompts)
constant.symmetric = True

def make_random(seed=0):
    return RandomJudge(seed)

def make_from_three(a, b, c):
    return RandomJudge(a + b + c)

class Biased(PairwiseJudge):
    def __init__(self, value=1.0):
        self.value = value
    def judge(self, prompts, first, second):
        return [self.value if a < b else 1 - self.value for a, b in zip(first, second)]

class Old(BasePairwiseJudge):
    def judge(self, prompts, completions, shuffle_order=True):
        return [int(len(b) > len(a)) for a, b in completions]

class Placed(Biased):
    def __init__(self, device="cpu"):
        super().__init__({"cpu": 0.25, "there": 0.75}[device])

def placed(prompts, first, second, *, device="cpu"):
    return [{"cpu": 0.25, "there": 0.75}[device]] * len(prompts)
placed.symmetric = True

ready = Biased(0.75)
number = 3
"""


@pytest.fixture
def my_judges(tmp_path, monkeypatch):
    """A module of judges in the working directory, which is not on `sys.path`, as under an installed command."""
    (tmp_path / "my_judges.py").write_text(MODULE)
    (tmp_path / "broken_judges.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    importlib.invalidate_caches()
    yield "my_judges"
    sys.modules.pop("my_judges", None)


@pytest.mark.parametrize(
    ("name", "kwargs", "preference"),
    [
        ("longer", {}, 1.0),
        ("constant", {}, 0.5),
        ("constant", {"value": 0.9}, 0.9),
        ("make_random", {"seed": 7}, RandomJudge(7)(["x"], ["aa"], ["b"])[0]),
        ("make_from_three", {"a": 1, "b": 2, "c": 4}, RandomJudge(7)(["x"], ["aa"], ["b"])[0]),
        ("Biased", {}, 1.0),
        ("Biased", {"value": 0.25}, 0.25),
        ("Old", {}, 1.0),
        ("ready", {}, 0.75),
    ],
)
@pytest.mark.parametrize("prefix", ["", "function:"])
def test_dotted_path(my_judges, prefix, name, kwargs, preference):
    judge = load_judge(f"{prefix}{my_judges}:{name}", **kwargs)
    assert judge(["x"], ["aa"], ["b"]) == [preference]


def test_function_with_arguments_keeps_its_name(my_judges):
    assert load_judge(f"{my_judges}:constant", value=0.9).name == "constant"


def test_key():
    assert load_judge("random").seed == 0
    assert load_judge("random", seed=7).seed == 7
    assert load_judge("random:7").seed == 7


def test_dictionary_holds_name_and_arguments():
    spec = {"judge": "random", "seed": 7}
    assert load_judge(spec).seed == 7
    assert load_judge(spec, seed=8).seed == 8
    assert spec == {"judge": "random", "seed": 7}


def test_target_is_the_first_argument():
    with pytest.raises(ValueError, match="no-such-model"):  # looked for as a model, as the key says
        load_judge("reward:./no-such-model")


@pytest.mark.parametrize(
    ("spec", "kwargs", "message"),
    [
        ("randm", {}, "Unknown judge 'randm', did you mean .random.*keys .*function, .*random, reward"),
        ("rewrad:org/model", {}, "Unknown judge 'rewrad:org/model', did you mean 'reward'"),
        ("no_such_module:judge", {}, "Unknown judge 'no_such_module:judge'.*No module named 'no_such_module'"),
        ("my_judges:lnger", {}, "my_judges.py has no `lnger`: did you mean my_judges:longer"),
        ("my_judges:zzzzzz", {}, r"my_judges.py has no `zzzzzz`\."),
        ("group:my_judges:lnger", {}, "my_judges.py has no `lnger`: did you mean my_judges:longer"),
        ("my_judges", {}, "The judge 'my_judges' names a module: write my_judges:FUNCTION"),
        ("./my_judges.py:longer", {}, "could not be loaded as `package.module:name`"),
        ("broken_judges:judge", {}, "No module named 'not_installed_anywhere'"),
        (
            "random",
            {"sed": 1},
            "'random' takes the arguments seed: got an unexpected keyword argument 'sed'",
        ),
        ("my_judges:Biased", {"valu": 1}, "'my_judges:Biased' takes the arguments value: got an unexpected"),
        ("my_judges:make_from_three", {"a": 1}, "takes the arguments a, b, c: missing a required argument: 'b'"),
        ("my_judges:make_from_three", {"a": 1}, "'b'. One that compares answers itself has .prompts, first, second."),
        ("my_judges:ready", {"value": 1}, "'my_judges:ready' is an object and takes no arguments"),
        ("reward", {}, "takes the arguments reward_funcs, .*missing a required argument: 'reward_funcs'"),
        ({"seed": 1}, {}, "has its name under the key `judge`"),
        (["random"], {"seed": 1}, "takes the arguments judges, weights, rule, device: .*'seed'"),
        (RandomJudge(), {"seed": 1}, r"\['seed'\] only go with a judge given by name"),
    ],
)
def test_mistakes_are_explained(my_judges, spec, kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_judge(spec, **kwargs)


@pytest.fixture
def sources(my_judges, tmp_path):
    """Modules that say when they are imported, by failing."""
    (tmp_path / "mine").mkdir()
    for file in ("mine/__init__.py", "mine/inner.py", "heavy.py"):
        text = "raise RuntimeError('imported')\nif True:\n    from json import loads\ndef judge(): pass\n"
        (tmp_path / file).write_text(f"{text}ready: object = 3\nasync def later(): judge.hidden = 2\n")
    (tmp_path / "starred.py").write_text("from my_judges import *\n")
    importlib.invalidate_caches()
    yield
    sys.modules.pop("starred", None)


@pytest.mark.parametrize(
    "name",
    "random reward:org/model group function ensemble heavy:judge heavy:loads heavy:ready heavy:later mine.inner:judge "
    "mine:judge function:heavy:judge group:mine.inner:judge starred:longer".split(),
)
def test_a_name_is_found_without_importing_its_module(sources, name):
    """`starred` binds it only while it runs, and is imported."""
    check_name(name)


@pytest.mark.parametrize("name", ["heavy:hidden", "mine.inner:json", "group:heavy:jugde"])
def test_a_name_that_the_source_does_not_bind_is_looked_for(sources, name):
    with pytest.raises(RuntimeError, match="imported"):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    "randm rewrad:org/model no_such_module:judge no.such:judge my_judges:lnger my_judges ./my_judges.py:longer "
    "function:my_judges:lnger group:my_judges:lnger group:nowhere:lnger broken_judges:jugde starred:lnger".split(),
)
def test_what_is_not_found_is_said_as_it_is_said_later(sources, name):
    with pytest.raises(ValueError) as early:
        check_name(name)
    with pytest.raises(ValueError) as late:
        load_judge(name)
    assert str(early.value) == str(late.value)


def test_object_that_is_no_judge(my_judges):
    with pytest.raises(TypeError, match=r"got 3 \(int\)"):
        load_judge(f"{my_judges}:number")


def test_judges_pass_unchanged():
    judge = RandomJudge()
    assert as_judge(judge) is judge
    assert load_judge(judge) is judge


def test_function_becomes_a_judge():
    judge = as_judge(lambda prompts, first, second: [1.0] * len(prompts))
    assert isinstance(judge, CallableJudge)
    assert judge(["x"], ["a"], ["b"]) == [0.5]


@pytest.mark.parametrize("make", [as_judge, load_judge])
def test_list_of_judges_is_their_mixture(make):
    members = [RandomJudge(0), RandomJudge(1)]
    judge = make([members[0], "random"] if make is load_judge else members)
    expected = (members[0](["x"], ["a"], ["b"])[0] + RandomJudge(int(make is as_judge))(["x"], ["a"], ["b"])[0]) / 2
    assert judge(["x"], ["a"], ["b"]) == pytest.approx([expected])


@pytest.mark.parametrize("key", JUDGES)
def test_every_key_leads_to_something_callable(key):
    module, _, name = JUDGES[key].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_class_of_old_judges():
    class Old(BasePairwiseJudge):
        def judge(self, prompts, completions, shuffle_order=True):
            return [0] * len(prompts)

    with pytest.raises(TypeError, match="Old is a class; pass an instance"):
        as_judge(Old)


@pytest.mark.parametrize("key", JUDGES)
def test_table_is_importable(key):
    module, _, name = JUDGES[key].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_every_public_name_is_there():
    for name in trl_nash.judges.__all__:
        assert getattr(trl_nash.judges, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'NoSuchJudge'"):
        trl_nash.judges.NoSuchJudge  # noqa: B018


def test_importing_judges_imports_nothing_heavy():
    code = "import sys, trl_nash.judges; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert output.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["Placed", "placed"])
@pytest.mark.parametrize(("kwargs", "expected"), [({}, 0.25), ({"device": "there"}, 0.75)])
def test_ones_own_judge_is_told_the_device_if_it_asks(my_judges, name, kwargs, expected):
    """As the judges of the table are: the trainer's device, if its arguments do not say."""
    assert load_judge(f"{my_judges}:{name}", **kwargs)(["p"], ["a"], ["b"]) == [expected]
    assert load_judge({"judge": f"{my_judges}:{name}", **kwargs}, "cpu")(["p"], ["a"], ["b"]) == [expected]


def test_a_judge_function_refuses_unknown_arguments_when_it_is_loaded(my_judges):
    with pytest.raises(ValueError, match="'my_judges:constant' takes .* value: got an unexpected .*'valu'"):
        load_judge("my_judges:constant", valu=1.0)
