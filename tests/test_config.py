"""A configuration from anybody: every number in its range, strict YAML, sentences of bounded length."""

import dataclasses
import re
import time

import numpy as np
import pytest

from bnn_jax import strict_yaml
from bnn_jax.config import Config, ModelConfig, PosteriorConfig, SamplerConfig
from bnn_jax.types import InputError

SECTIONS = {"model": ModelConfig, "posterior": PosteriorConfig, "sampler": SamplerConfig}
NUMBERS = [
    (section, field.name)
    for section, kind in SECTIONS.items()
    for field in dataclasses.fields(kind)
    if not isinstance(field.default, bool | str)
]


def refused(section, key, value):
    with pytest.raises(InputError) as caught:
        Config.from_dict({section: {key: value}}, source="here")
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(("section", "key"), NUMBERS)
def test_every_number_has_a_range_with_two_ends(section, key):
    default = getattr(SECTIONS[section](), key)
    wrap = (lambda value: [value]) if isinstance(default, tuple) else (lambda value: value)
    low, high, excluded = next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == key).metadata["range"]
    kind = float if isinstance(default, float) else int
    inside = {low: excluded != "low", high: excluded != "high"}
    for value, allowed in (inside | {low - 1: False, high * 2 + 1: False}).items():
        if allowed:
            config = Config.from_dict({section: {key: wrap(kind(value))}})
            assert Config.from_yaml_text(config.to_yaml()) == config
        else:
            shown = rf"{section}\.{key}(\[0\])? is {re.escape(repr(kind(value)))}; it must be "
            assert re.match(rf"here: {shown}(at least|above|positive)", refused(section, key, wrap(kind(value))))
    if kind is float:
        for name in ("nan", "inf", "-inf"):
            assert f"{section}.{key} is {name}; it must be" in refused(section, key, float(name))


@pytest.mark.parametrize("name", ["tiny", "quick", "small", "paper"])
def test_presets_survive_yaml(name):
    config = Config.preset(name)
    assert Config.from_yaml_text(config.to_yaml()) == config


def test_a_section_made_in_python_is_checked_too():
    with pytest.raises(InputError, match=r"^sampler\.num_samples is 0; it must be at least 1 and at most 100000\.$"):
        SamplerConfig(num_samples=0)
    with pytest.raises(InputError, match=r"^model\.cutoff is -2\.0; it must be positive and at most 50\.$"):
        dataclasses.replace(ModelConfig(), cutoff=-2.0)


@pytest.mark.parametrize("species", [[8, 1], [1, 1], [119], [-1]])
def test_species_ascend_and_exist(species):
    assert "model.species" in refused("model", "species", species)
    assert Config.from_dict({"model": {"species": [0, 1, 118]}}).model.species == (0, 1, 118)


@pytest.mark.parametrize(
    ("key", "value"),
    [("cutoff", "x" * 10**6), ("cutoff", list(range(10**5))), ("num_blocks", 10**300), ("cutoff", 10**400)],
)
def test_what_is_shown_of_a_value_is_short(key, value):
    assert len(refused("model", key, value)) < 300
    assert len(refused("model", "x" * 10**5 + "\n", value)) < 300


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not allowed"),
        ("a: *x\n", "anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']\n", "tags are not allowed"),
        ("a: !!int ''\n", "tags are not allowed"),
        ("a: ! b\n", "tags are not allowed"),
        ("a: 1\nb: 2\na: 3\n", "key 'a' occurs twice"),
        ("m: {a: 1, 'a': 2}\n", "key 'a' occurs twice"),
        ("{[1]: 2}\n", "a key must be a word"),
        ("? {a: 1}\n: 2\n", "a key must be a word"),
        ("[" * 90_000, "more than 16 levels are not allowed"),
        ("- " * 40_000, "more than 16 levels are not allowed"),
        ("{a: " * 20_000, "more than 16 levels are not allowed"),
        ("a: " + "9" * 50_000, "scalars of more than 200 characters are not allowed"),
        ("a: " + "1:" * 20_000 + "1.5", "scalars of more than 200 characters are not allowed"),
        ("a: 1" + " " * 200_000, "has more than 100000 characters"),
        ("a: \x07\n", "is not valid YAML"),
        ("a: [1\n", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    ],
    ids=range(18),
)
def test_yaml_that_no_configuration_needs(text, sentence):
    start = time.monotonic()
    with pytest.raises(InputError, match=sentence) as caught:
        strict_yaml.parse(text, "here")
    assert time.monotonic() - start < 5
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_scalars_are_those_of_yaml_but_dates_are_text():
    text = (
        "a: 2024-13-45\nb: 2024-01-01\n<<: {c: 1}\nd: [1, 1.5, true, null, x, '1']\ne: 1e-3\n" + f"f: {'1:' * 98}1.5\n"
    )
    values = strict_yaml.parse(text, "here")
    assert values["a"] == "2024-13-45" and values["b"] == "2024-01-01" and values["<<"] == {"c": 1}
    assert values["d"] == [1, 1.5, True, None, "x", "1"] and values["e"] == "1e-3"
    assert np.isfinite(values["f"])
    assert strict_yaml.parse("", "here") is None


def test_the_largest_text_is_parsed_in_seconds():
    start = time.monotonic()
    assert len(strict_yaml.parse("[" + "1," * 49_990 + "1]", "here")) == 49_991
    assert time.monotonic() - start < 20


def test_a_file_without_end_is_not_read_to_it():
    with pytest.raises(InputError, match="has more than 100000 characters"):
        Config.from_yaml("/dev/zero")
