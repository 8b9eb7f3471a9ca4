"""What a run is made of, settled from the options and from the folder that it may continue."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnn_jax import strict_yaml
from bnn_jax.checkpoint import RunFolder, is_leftover, open_run
from bnn_jax.cli.commands import Fit
from bnn_jax.config import Config, ModelConfig, PresetName
from bnn_jax.methods.sghmc import extended_config, is_extension
from bnn_jax.types import InputError

DEFAULT_VALID = "0.1"
METADATA_KEY = "fit"
"""Under this the run's record keeps the options that say what the data are."""


class Settled(NamedTuple):
    """The options of a run with their defaults or, for one that continues, with what its record says."""

    config: Config
    seed: int
    data_options: dict[str, str | bool | None]
    """``valid``, ``test``, and what was said of the labels; None where nothing was."""
    run: RunFolder | None
    """The run to continue, or to extend where its configuration is smaller."""


def settle(command: Fit) -> Settled:
    """Check the options of ``fit`` against each other and against the run folder; nothing is written.

    Args:
        command: as typed.

    Raises:
        InputError: an option is wrong, the folder is occupied, or an option would change the run to continue.
    """
    out = Path(command.out)
    asked = {"valid": command.valid, "test": command.test, **dataclasses.asdict(command.labels)}
    asked = {name: None if value is False else value for name, value in asked.items()}  # a flag that was not given
    if command.resume and os.path.exists(out / "run.json"):
        run = open_run(out)
        config = resumed_config(command, run)
        seed = _unchanged("--seed", command.seed, run.record["seed"], out)
        stored = run.record["metadata"].get(METADATA_KEY, {})
        if not _is_record(stored):
            raise InputError(f"{out / 'run.json'} is damaged; restore it from a copy or start a new run.")
        options = {
            name: _unchanged(f"--{name.replace('_', '-')}", value, stored[name], out) if name in stored else value
            for name, value in asked.items()
        }
        return Settled(config, seed, options, run)
    if os.path.isdir(out) and any(not is_leftover(item) for item in out.iterdir()):
        raise InputError(f"Folder {out} already holds files; continue its run with --resume or choose another --out.")
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f"{out} is a file; choose another --out for the run folder.")
    return Settled(build_config(command, None), command.seed or 0, asked, None)


def _is_record(stored: Any) -> bool:
    """Whether this is what ``fit`` writes of its options: ``data``, of earlier versions one name, and plain values."""
    if not isinstance(stored, dict):
        return False
    data = stored.get("data", "")
    files = [data] if isinstance(data, str) else data
    options = [value for name, value in stored.items() if name != "data"]
    return (
        isinstance(files, list)
        and all(isinstance(file, str) for file in files)
        and all(isinstance(value, str | bool | None) for value in options)
    )


def _unchanged(flag: str, given: Any, stored: Any, out: Path) -> Any:
    if given is not None and given != stored:
        was = "without it" if stored is None else f"with {stored}"
        said = flag if given is True else f"{flag} {given}"
        raise InputError(f"{said} would change {out}, begun {was}; leave it out or choose another --out.")
    return stored


def build_config(command: Fit, base: Config | None) -> Config:
    """The configuration that the options of ``fit`` ask for.

    Args:
        command: as typed.
        base: what options that are absent leave as it is; the preset ``small`` if None.

    Raises:
        InputError: an option names an unknown key, the file cannot be read, or a value has the wrong type.
    """
    short = {"method": command.method, "sampler.num_chains": command.chains, "sampler.num_samples": command.samples}
    items = [f"{key}={value}" for key, value in short.items() if value is not None]
    return make_config(command.preset, command.config, (*command.set, *items), base)


def make_config(preset: PresetName | None, file: str | None, overrides: Sequence[str], base: Config | None) -> Config:
    """A configuration from a preset or a file, and what is set beside it.

    Args:
        preset: name of the preset; ``small`` if there is nothing else.
        file: YAML file, in place of a preset.
        overrides: ``KEY=VALUE``, in their order.
        base: what is changed where neither preset nor file is given.

    Raises:
        InputError: both are given, a key is unknown, the file cannot be read, or a value has the wrong type.
    """
    if preset is not None and file is not None:
        raise InputError("Both --preset and --config are given; choose one.")
    if file is not None:
        base = Config.from_yaml(file)
    elif preset is not None or base is None:
        base = Config.preset(preset or "small")
    values = base.to_dict()
    for item in overrides:
        _override(values, item)
    return Config.from_dict(values, source="the command line")


def _override(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals:
        raise InputError(f"--set {item} has no value; write --set KEY=VALUE, as in sampler.batch_size=5.")
    try:
        value = strict_yaml.parse(text, key)
    except InputError:
        value = text  # whose type is then refused, by the name of the key
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {item}: {section} is a value and no section; leave out what follows it.")
    values[last] = value


def resumed_config(command: Fit, run: RunFolder) -> Config:
    """The run's configuration, extended where more samples or chains are asked for.

    Args:
        command: as typed.
        run: the run to continue.

    Raises:
        InputError: an option would change another value; the sentence names it.
    """
    asked = build_config(command, run.config)
    measured = {name: getattr(run.config.model, name) for name in ("species", "avg_num_neighbors", "scale")}
    untouched = {name: getattr(ModelConfig(), name) for name in measured}
    if all(getattr(asked.model, name) == untouched[name] for name in measured):  # a fresh one, not yet filled in by fit
        asked = dataclasses.replace(asked, model=dataclasses.replace(asked.model, **measured))
    if run.config.method == "sghmc" and is_extension(run.config, asked):
        return extended_config(run.config, asked)
    if asked != run.config:
        wanted, stored = asked.to_dict(), run.config.to_dict()
        key, old, new = next((key, stored[key], new) for key, new in wanted.items() if stored[key] != new)
        if isinstance(new, dict):
            section, (key, old, new) = key, next((k, old[k], v) for k, v in new.items() if old[k] != v)
            key = f"{section}.{key}"
        raise InputError(
            f"{key} is {old} in {run.path} and the options make it {new}; leave them out to resume, or choose another"
            " --out."
        )
    return run.config
