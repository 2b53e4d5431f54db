"""Words become one valid configuration, or one error with every problem."""

from __future__ import annotations

import logging

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dlspark.config.compose import compose, resolved_yaml
from dlspark.config.describe import GROUPS, list_keys
from dlspark.config.model_sections import LeNet5Config, MnistCnnConfig
from dlspark.config.optimizer_sections import AdamConfig, SgdConfig
from dlspark.config.schema import Config
from dlspark.errors import ConfigError

_KEYS = st.sampled_from(sorted({key.name for key in list_keys()} | set(GROUPS)))


def _problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(words)
    first, *lines = str(caught.value).splitlines()
    return [line.removeprefix("  - ") for line in lines] or [first]


def test_no_words_give_the_defaults_of_the_schema() -> None:
    assert compose([]) == Config()


def test_choices_and_values_work_together_in_any_order() -> None:
    config = compose(
        ["optimizer.lr=0.5", "optimizer=sgd", "model=lenet5", "train.epochs=3", "schedule=cosine"]
    )
    assert config.optimizer == SgdConfig(lr=0.5)
    assert config.model == LeNet5Config()
    assert config.train.epochs == 3
    assert config.schedule.name == "cosine"


def test_values_take_the_types_of_the_schema() -> None:
    config = compose(["model.widths=[8,16]", "image.size=32", "augment.mirror=true", "optimizer.eps=1e-6"])
    assert isinstance(config.model, MnistCnnConfig)
    assert config.model.widths == (8, 16)
    assert (config.image.size, config.augment.mirror) == (32, True)
    assert isinstance(config.optimizer, AdamConfig)
    assert config.optimizer.eps == 1e-6


def test_a_whole_section_can_be_given() -> None:
    assert compose(["train={epochs: 2, seed: 5}"]).train == Config().train.model_copy(
        update={"epochs": 2, "seed": 5}
    )


def test_the_last_of_two_equal_words_holds() -> None:
    assert compose(["train.epochs=1", "model=mlp", "train.epochs=2", "model=lenet5"]) == compose(
        ["train.epochs=2", "model=lenet5"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "/data/a,b (1)/c=d",
        "s3://bucket/a b?x#y",
        "7",
        "true",
        "[1]",
        "{a}",
        "models:/digits@champion",
        "a=b=c",
        "1e5",
    ],
)
def test_text_is_taken_as_it_stands(text: str) -> None:
    assert compose([f"source={text}"]).source == text


def test_text_can_be_null_and_quoted() -> None:
    assert compose(["experiment=digits", "source=null"]).source is None
    assert compose(["source='null'"]).source == "null"


def test_environment_and_other_keys_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLSPARK_TEST_ROOT", "/somewhere")
    config = compose(["dataset=${oc.env:DLSPARK_TEST_ROOT}/data", "run_dir=${dataset}/run"])
    assert config.run_dir == "/somewhere/data/run"


def test_an_experiment_wins_over_files_and_loses_against_the_command_line() -> None:
    digits = compose(["experiment=digits"])
    assert (digits.experiment, digits.source, digits.tracking.registered_model) == (
        "digits",
        "builtin:digits",
        "digits",
    )
    assert compose(["experiment=digits", "train.epochs=99", "source=/x"]).train.epochs == 99
    assert compose(["train.epochs=99", "experiment=digits"]) == compose(
        ["experiment=digits", "train.epochs=99"]
    )


def test_another_choice_takes_nothing_that_the_experiment_meant_for_its_own() -> None:
    assert compose(["experiment=quick", "model=lenet5"]).model == LeNet5Config()
    assert compose(["experiment=quick", "model=mnist_cnn"]).model == compose(["experiment=quick"]).model
    assert compose(["experiment=quick", "model=lenet5"]).tracking.experiment == "quick"


def test_the_name_of_a_model_is_the_choice_of_it() -> None:
    assert compose(["model.name=lenet5"]) == compose(["model=lenet5"])


def test_local_backend_means_one_worker_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dlspark"):
        config = compose(["cluster.backend=local"])
    assert config.cluster.workers == 1
    assert "cluster.workers=1" in caplog.text


def test_a_range_of_ports_is_its_first_and_last() -> None:
    assert compose(["cluster.port_range=40000-40100"]).cluster.ports == (40000, 40100)
    assert compose(["cluster.port_range=1024-65535"]).cluster.ports == (1024, 65535)
    assert compose([]).cluster.ports is None


def test_local_backend_refuses_more_workers_that_were_asked_for() -> None:
    (problem,) = _problems("cluster.backend=local", "cluster.workers=4")
    assert "cluster.backend=local" in problem
    assert "cluster.workers=4" in problem


@pytest.mark.parametrize(("text", "got"), [("foo", "'foo'"), ("[1,-2]", "[1, -2]"), ("3", "3")])
def test_a_key_of_several_types_is_one_problem(text: str, got: str) -> None:
    assert _problems(f"loss.class_weights={text}") == [
        f"loss.class_weights: value not allowed; got {got}; "
        "allowed: none, balanced or list of number > 0; in the command line."
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("optimizer=gd", "train.accumulate_steps=2"), "got train.accumulate_steps=2; set it to 1"),
        (("regularize.clip_norm=1", "regularize.clip_value=2"), "clip_norm=1 and clip_value=2 exclude"),
        (("train.accumulate_steps=129",), "accumulate_steps=129 cuts global_batch_size=128"),
        (("optimizer=sgd", "optimizer.momentum_start=0.5"), "momentum_start needs a momentum above 0"),
        (("schedule=one_cycle", "schedule.warmup_epochs=1"), "not a key of schedule=one_cycle"),
        (("train.gradient_reduction=adasum", "train.sync_batch_norm=true"), "leave one of the two out"),
        (("train.gradient_reduction=adasum", "cluster.workers=6"), "set it to 4 or 8"),
        (
            ("train.gradient_reduction=adasum", "cluster.min_workers=1"),
            "min_workers=1 below cluster.workers=2",
        ),
        (("loss=hinge", "loss.label_smoothing=0.1"), "not a key of loss=hinge"),
    ],
)
def test_choices_that_exclude_each_other_are_one_line(words: tuple[str, ...], said: str) -> None:
    (problem,) = _problems(*words)
    assert said in problem


def test_all_problems_come_at_once() -> None:
    problems = _problems(
        *("train.epoch=3", "model=lenet6", "optimizer.lr=-1", "train.seed=much", "nonsense", "--x=1"),
        *("data.val_share=0.6", "data.test_share=0.6", "cluster.backend=local", "cluster.workers=2"),
    )
    expected = (
        "train.epoch:",
        "model:",
        "optimizer.lr:",
        "train.seed:",
        "'nonsense'",
        "'--x=1'",
        "val_share + test_share",
        "cluster.backend=local",
    )
    assert len(problems) == len(expected)
    for part in expected:
        assert [part in problem for problem in problems].count(True) == 1, part


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("train.epoch=3", ("train.epoch: unknown key", "did you mean train.epochs?", "command line")),
        ("epochs=3", ("did you mean train.epochs?",)),
        ("lr=3", ("optimizer.lr",)),
        ("modle=lenet5", ("did you mean model",)),
        ("experiments=digits", ("did you mean", "experiment")),
        ("model=lenet6", ("got 'lenet6'", "did you mean model=lenet5?", "googlenet, lenet5, mlp, mnist_cnn")),
        ("experiment=digit", ("did you mean experiment=digits?", "allowed: digits, mnist_batch_norm")),
        ("optimizer.lr=0", ("got 0", "number > 0", "command line")),
        ("train.epochs=abc", ("wrong type", "got 'abc'", "whole number >= 1")),
        ("data.val_share=1", ("got 1", "number in [0, 1)")),
        ("image.size=5000", ("got 5000", "in [1, 4096]", "null")),
        ("train.precision=fp8", ("got 'fp8'", "auto, fp32, bf16, fp16")),
        ("model.hidden=[3]", ("model.hidden: not a key of model=mnist_cnn", "model=mlp")),
        ("train=3", ("train: is a section", "train.epochs=")),
        ("train.epochs=1,2", ("train.epochs: not a value",)),
        ("cluster.port_range=40000", ("cluster.port_range: got '40000'", "as 40000-40100", "[1024, 65535]")),
        ("cluster.port_range=80-90", ("cluster.port_range: got '80-90'",)),
        ("cluster.port_range=41000-40000", ("cluster.port_range: got '41000-40000'",)),
        ("cluster.port_range=40000-99999", ("cluster.port_range: got '40000-99999'",)),
        ("source=${oc.env:DLSPARK_IS_NOT_SET}", ("source:", "DLSPARK_IS_NOT_SET")),
    ],
)
def test_a_problem_says_what_got_allowed_and_where(word: str, parts: tuple[str, ...]) -> None:
    (problem,) = _problems(word)
    for part in parts:
        assert part in problem, problem


def test_hydra_is_left_as_it_was() -> None:
    compose(["experiment=digits"])
    assert not GlobalHydra().is_initialized()
    with pytest.raises(ConfigError):
        compose(["model=lenet6"])
    assert not GlobalHydra().is_initialized()


@pytest.mark.parametrize(
    "words", [(), ("experiment=digits",), ("model=mlp", "model.hidden=[]", "optimizer=sgd")]
)
def test_resolved_yaml_holds_the_whole_configuration(words: tuple[str, ...]) -> None:
    config = compose(words)
    values = OmegaConf.to_container(OmegaConf.create(resolved_yaml(config)))
    assert Config.model_validate(values) == config


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.builds("{}={}".format, _KEYS, st.text(max_size=8))), max_size=3
    )
)
def test_whatever_the_words_nothing_but_a_config_error_is_raised(words: list[str]) -> None:
    try:
        assert isinstance(compose(words), Config)
    except ConfigError:
        return
