"""The configuration: faults are named with their path in the YAML before anything runs; good files survive a round."""

from pathlib import Path

import pytest
import yaml

from sslib import config
from sslib.config import Config, ConfigError

ROOT = Path(__file__).parents[1]
NAMED = {"exp_prefix": "a", "exp_name": "b"}


def load(path: Path, text: str, **overrides) -> Config:
    file = path / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    return config.load(file, overrides, root=path)


@pytest.mark.parametrize(
    "values, where, says",
    [
        ({"trainin": {}}, "trainin", "unknown key"),
        ({"training": {"learning_rte": 1}}, "training.learning_rte", "unknown key"),
        ({"training": {"augment": {"flipp": True}}}, "training.augment.flipp", "unknown key"),
        ({"data": {"stamps": {"tran": 3}}}, "data.stamps.tran", "unknown key"),
        ({"training": {"epochs": "many"}}, "training.epochs", "many"),
        ({"training": {"epochs": 0}}, "training.epochs", "greater than 0"),
        ({"training": {"epochs": 2.5}}, "training.epochs", "2.5"),
        ({"training": {"batch_size": 1}}, "training.batch_size", "greater than or equal to 2"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate", "finite"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate", "finite"),
        ({"training": {"augment": {"gain_db": float("nan")}}}, "training.augment.gain_db", "finite"),
        ({"data": {"time": float("nan")}}, "data.time", "finite"),
        ({"data": {"time": "soon"}}, "data.time", "soon"),
        ({"data": {"time": -1.0}}, "data.time", "greater than or equal to 0"),
        ({"model": {"blocks": [2, 2]}}, "model.blocks", ""),
        ({"model": {"reasoning": None}}, "model.reasoning", "None"),
        ({"objective": {"pool": "median"}}, "objective.pool", "median"),
        ({"model": None}, "model", ""),
        ({"training": [1, 2]}, "training", ""),
        ({"exp_name": "../other"}, "exp_name", "../other"),
        ({"exp_prefix": ""}, "exp_prefix", ""),
        ({"training": {"precision": "16-mixed"}}, "training.precision", "bf16-mixed"),
    ],
)
def test_fault_is_named_with_its_path(tmp_path, values, where, says):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, yaml.safe_dump(NAMED | values))
    file, *lines = str(caught.value).splitlines()
    assert file.startswith(str(tmp_path / "experiment.yaml"))
    assert any(line.strip().startswith(where) and says in line for line in lines), caught.value


@pytest.mark.parametrize(
    "values, meant",
    [
        ({"training": {"batchsize": 2}}, "training.batchsize: unknown key (did you mean batch_size?)"),
        ({"trainin": {}}, "trainin: unknown key (did you mean training?)"),
        ({"data": {"clipseconds": 3}}, "data.clipseconds: unknown key (did you mean clip_seconds?)"),
        ({"data": {"zzz": 3}}, "data.zzz: unknown key (misspelt?)"),
        ({"data": {"clip_seconds": 0.5}}, "data.clip_seconds: Input should be greater than or equal to 1"),
    ],
)
def test_a_misspelt_key_is_guessed(tmp_path, values, meant):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, yaml.safe_dump(NAMED | values))
    assert meant in str(caught.value)


def test_all_faults_are_named_at_once(tmp_path):
    text = "exp_prefix: a\ntraining: {epochs: none, lr: 1}\nmodel: {width: -4}\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    for where in ("exp_name", "training.epochs", "training.lr", "model.width"):
        assert f"  {where}: " in str(caught.value)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"model": {"nodes": 4}}, "model.nodes"),
        ({"front_end": {"window": 100, "hop": 200}}, "front_end.hop"),
        ({"data": {"in_memory": True, "time": "random"}}, "data.in_memory"),
        ({"data": {"raw": "videos", "stamps": {}}}, "data.raw and data.stamps"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, values, says):
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, yaml.safe_dump(NAMED | values))


def test_base_model_does_not_mind_the_number_of_nodes(tmp_path):
    assert not load(tmp_path, yaml.safe_dump(NAMED | {"model": {"nodes": 4, "reasoning": False}})).model.reasoning


@pytest.mark.parametrize("text", ["a: [1,", "\t- x", "- a\n- b", "", "just words", "exp_name: !!python/object:os.x {}"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        load(tmp_path, text)


def test_missing_file_is_named_with_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no configuration file configs/none\.yaml$"):
        config.load("configs/none.yaml")
    monkeypatch.chdir(ROOT / "tests")
    with pytest.raises(ConfigError, match=r"there are .*notebooks/configs/demo\.yaml, .*notebooks/configs/paper\.yaml"):
        config.load("configs/none.yaml")


def test_overrides_merge_key_by_key(tmp_path):
    text = yaml.safe_dump(NAMED | {"training": {"epochs": 7, "augment": {"crop": 1.2}}, "data": {"tests": ["x", "y"]}})
    overrides = {"training": {"augment": {"flip": False}, "batch_size": 4}, "data": {"tests": ["z"]}, "seed": 3}
    read = load(tmp_path, text, **overrides)
    assert (read.training.epochs, read.training.batch_size, read.seed) == (7, 4, 3)
    assert (read.training.augment.crop, read.training.augment.flip) == (1.2, False)
    assert read.data.tests == ("z",)
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key"):
        load(tmp_path, text, training={"epoch": 1})


def test_merge_changes_neither_argument():
    base, overrides = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": {}}
    assert config.merge(base, overrides) == {"a": {"b": 3, "c": 2}, "d": {}}
    assert base == {"a": {"b": 1, "c": 2}} and overrides == {"a": {"b": 3}, "d": {}}
    assert config.merge({"a": {"b": 1}}, {"a": 5}) == {"a": 5}  # what is no mapping replaces


def test_a_written_configuration_holds_in_another_clone(tmp_path, monkeypatch):
    """Paths inside the clone are written relative to it; the file means the same paths of whatever clone reads it."""
    for name in ("one", "two"):
        (tmp_path / name / "sslib").mkdir(parents=True)
        (tmp_path / name / "notebooks").mkdir()
        (tmp_path / name / "sslib" / "config.py").touch()
    monkeypatch.chdir(tmp_path / "one")
    (tmp_path / "one" / "a.yaml").write_text(yaml.safe_dump(NAMED | {"data": {"root": "data/x", "raw": "raw/x"}}))
    first = config.load(tmp_path / "one" / "a.yaml")
    (tmp_path / "two" / "b.yaml").write_text(config.dump(first))
    assert first.data.root == tmp_path / "one/data/x"
    second = config.load(tmp_path / "two" / "b.yaml").data
    assert (second.root, second.raw) == (tmp_path / "two/data/x", tmp_path / "two/raw/x")
    outside = first.model_copy(update={"data": first.data.model_copy(update={"root": tmp_path / "far"})})
    (tmp_path / "two" / "b.yaml").write_text(config.dump(outside))
    assert config.load(tmp_path / "two" / "b.yaml").data.root == tmp_path / "far"


def test_dump_loads_to_the_same(tmp_path):
    values = NAMED | {
        "exp_name": "b/variants/no_div-1",
        "data": {"root": "some/where", "time": 2.5, "stamps": {"media": "debs", "train": 5}},
        "model": {"imagenet": "weights.pth", "blocks": [1, 2, 3, 4]},
        "training": {"augment": {"gain_db": 12}},
        "evaluation": {"object_prior": "prior.pth"},
        "ablations": {"variants": {"base": {"model": {"reasoning": False}}}, "seeds": [0, 1]},
    }
    first = load(tmp_path, yaml.safe_dump(values))
    assert first.data.root == tmp_path / "some/where"
    assert first.data.stamps.media == tmp_path / "debs"
    assert first.model.imagenet == tmp_path / "weights.pth"
    assert first.evaluation.object_prior == tmp_path / "prior.pth"
    again = load(tmp_path, config.dump(first))
    assert again == first
    assert config.dump(again) == config.dump(first)
    elsewhere = config.load(tmp_path / "experiment.yaml", root=tmp_path / "other")
    assert elsewhere == first  # absolute paths stay where they are


def test_values_do_not_change_later(tmp_path):
    read = load(tmp_path, yaml.safe_dump(NAMED))
    with pytest.raises(ValueError, match="frozen"):
        read.training.epochs = 3


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks/configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_of_the_repository_loads(file):
    read = config.load(file)
    assert read.data.root.is_absolute() and read.data.root.is_relative_to(ROOT)


def test_a_file_that_extends_another_changes_its_values(tmp_path):
    (tmp_path / "first.yaml").write_text(
        "exp_prefix: a\nexp_name: b\ntraining: {epochs: 7, batch_size: 4}\ndata: {root: here}\n"
        "ablations: {seeds: [5], variants: {one: {}}}\n"
    )
    text = "extends: first.yaml\nexp_name: c\ntraining: {epochs: 8}\nablations: {variants: {two: {}, three: null}}\n"
    found = load(tmp_path, text)
    assert (found.exp_prefix, found.exp_name) == ("a", "c")
    assert (found.training.epochs, found.training.batch_size, found.data.root) == (8, 4, tmp_path / "here")
    assert found.ablations.variants == {"two": {}, "three": None} and found.ablations.seeds == (0, 1, 2)
    (tmp_path / "other.yaml").write_text("exp_prefix: x\nexp_name: y\n")
    other = config.load(tmp_path / "experiment.yaml", {"extends": "other.yaml"})
    assert (other.exp_prefix, other.training.batch_size) == ("x", 128)
    with pytest.raises(ConfigError, match=r"no configuration file .*none\.yaml"):
        config.load(tmp_path / "experiment.yaml", {"extends": "none.yaml"})


def flat(values: dict, prefix: str = "") -> dict:
    leaves = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def test_paper_states_the_defaults():
    stated = flat(yaml.safe_load((ROOT / "notebooks/configs/paper.yaml").read_text()))
    plain = flat(Config(exp_prefix="paper", exp_name="vggsound").model_dump(mode="json"))
    differing = {key for key, value in stated.items() if plain[key] != value}
    assert differing == {"data.frame"}  # only the release takes the seventh frame whatever the time
    assert stated["data.frame"] == 7


def test_paper_states_the_release():
    """The values of the release as they are known from outside this repository."""
    read = config.load(ROOT / "notebooks/configs/paper.yaml")
    assert (read.model.width, read.model.blocks, read.model.nodes) == (64, (2, 2, 2, 2), 16)
    assert (read.model.feature_dropout, read.model.node_dropout, read.model.initial_scale) == (0.1, 0.0, 1.0)
    assert (read.objective.foreground, read.objective.background, read.objective.symmetric) == (8, 8, False)
    assert (read.objective.localization, read.objective.discrimination, read.objective.divergence) == (1, 0.1, 0.1)
    assert (read.objective.pool, read.objective.divergence_mode, read.model.imagenet) == ("max", "js", False)
    assert (read.data.image_size, read.data.sample_rate, read.data.seconds) == (224, 24000, 3.0)
    assert read.front_end.window - read.front_end.hop == 274
    training = read.training
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adam", 1e-4, 1e-4)
    assert (training.batch_size, training.epochs, training.schedule, training.warmup) == (128, 30, "constant", 0)
    augment = training.augment
    assert (augment.crop, augment.flip) == (1.1, True)
    assert (augment.colour, augment.shift, augment.gain_db, augment.mask) == (0, 0, 0, 0)
