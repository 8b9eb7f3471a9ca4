"""Bad input gets one sentence and exit code 2, before anything is written."""

import gzip
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
from commands import contents, write, write_ammonia
from posteriors import molecular_posterior
from systems import ammonia, isolated_atom, labelled_series, silicon, strained_copper, water

from bnn_jax.checkpoint import create_run
from bnn_jax.cli import main
from bnn_jax.cli.commands import Fit, LabelOptions
from bnn_jax.cli.options import METADATA_KEY, settle
from bnn_jax.config import Config
from bnn_jax.types import InputError, InputWarning
from bnn_jax.units import GPA_PER_EV_PER_ANGSTROM3


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    return write_ammonia(folder) | {"run": str(molecular_posterior(ammonia()).save(folder / "posterior.safetensors"))}


# Each case gives the arguments and what the sentence must say; files are made in the test's own folder.
Case = Callable[[dict[str, str], Path], tuple[list[str], str]]


def on_data(make: Callable[[Path], str], sentence: str, *options: str, command: str = "fit") -> Case:
    """A command on the structures that ``make`` writes into a folder."""

    def case(files, folder):
        structures = make(folder)
        arguments = {"fit": [structures], "evaluate": [files["run"], structures]}
        arguments["predict"] = [files["run"], structures, str(folder / "predicted.xyz")]
        return [command, *arguments[command], *options], sentence

    return case


def on_series(change: Callable[[list[ase.Atoms]], None], sentence: str, *options: str, command: str = "fit") -> Case:
    """A command on 12 labelled structures of ammonia that were changed."""

    def make(folder):
        series = labelled_series(ammonia(), 12)
        change(series)
        return write(folder / "data.xyz", series)

    return on_data(make, sentence, *options, command=command)


def on_bytes(name: str, content: bytes, sentence: str, *options: str, command: str = "fit") -> Case:
    def make(folder):
        (folder / name).write_bytes(content)
        return str(folder / name)

    return on_data(make, sentence, *options, command=command)


def with_options(sentence: str, *options: str) -> Case:
    return lambda files, _: (["fit", files["train"], *options], sentence)


def with_setting(setting: str, sentence: str) -> Case:
    return with_options(sentence, "--set", setting)


def with_config(content: bytes, sentence: str) -> Case:
    def case(files, folder):
        (folder / "config.yaml").write_bytes(content)
        return ["fit", files["train"], "--config", str(folder / "config.yaml")], sentence

    return case


def set_result(index: int, key: str, value) -> Callable[[list[ase.Atoms]], None]:
    return lambda series: series[index].calc.results.__setitem__(key, value)


def drop(index: int, key: str) -> Callable[[list[ase.Atoms]], None]:
    return lambda series: series[index].calc.results.pop(key)


def set_cell(cell, pbc=True) -> Callable[[list[ase.Atoms]], None]:
    def change(series):
        series[4].set_cell(cell)
        series[4].pbc = pbc

    return change


def scale(key: str, factor: float, offset: float = 0.0, every: int = 1) -> Callable[[list[ase.Atoms]], None]:
    def change(series):
        for atoms in series[::every]:
            atoms.calc.results[key] = factor * atoms.calc.results[key] + offset

    return change


def both(*changes: Callable[[list[ase.Atoms]], None]) -> Callable[[list[ase.Atoms]], None]:
    return lambda series: [change(series) for change in changes]


def move(index: int, atom: int, position) -> Callable[[list[ase.Atoms]], None]:
    return lambda series: series[index].positions.__setitem__(atom, position)


def npz(**members) -> bytes:
    arrays = {"z": np.array([7, 1, 1, 1]), "R": ammonia().positions[None], "E": np.zeros(1)} | members
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else buffer.getvalue())
    return content.getvalue()


HUGE_ARRAY = (
    b"\x93NUMPY\x01\x00\x4a\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 4, 3)}".ljust(74)
)


def write_of(*series) -> Callable[[Path], str]:
    return lambda folder: write(folder / "data.xyz", [atoms.copy() for atoms in series])


def labelled_water(folder):
    return write(folder / "data.xyz", labelled_series(water(), 3))


def bytes_of(*structures) -> bytes:
    text = io.StringIO()
    ase.io.write(text, list(structures), format="extxyz")
    return text.getvalue().encode()


def unreadable_frame(files, folder):
    lines = Path(files["train"]).read_text().splitlines()
    lines[2 * 6 + 3] = "H not a number"
    (folder / "broken.xyz").write_text("\n".join(lines))
    return ["fit", str(folder / "broken.xyz")], r"broken\.xyz, frame 2"


def cut_archive(files, folder):
    (folder / "cut.xyz.gz").write_bytes(gzip.compress(Path(files["train"]).read_bytes())[:-40])
    return ["fit", str(folder / "cut.xyz.gz")], r"cut\.xyz\.gz, frame \d+ cannot be read"


def unknown_element(files, folder):
    test = labelled_water(folder)
    return ["fit", files["train"], "--test", test], r"Structure 0 of the test set holds O, which no training structure"


def unknown_element_in_valid(files, folder):
    return ["fit", files["train"], "--valid", labelled_water(folder)], r"Structure 0 of the valid set holds O"


def occupied(files, folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("precious")
    return ["fit", files["train"]], r"run already holds files; continue its run with --resume or choose another --out"


def occupied_resume(files, folder):
    occupied(files, folder)
    return ["fit", files["train"], "--resume"], r"run already holds files"


def occupied_by_a_file(files, folder):
    (folder / "run").write_text("precious")
    return ["fit", files["train"]], r"run is a file; choose another --out for the run folder"


def truncated_posterior(files, folder):
    (folder / "posterior.safetensors").write_bytes(Path(files["run"]).read_bytes()[:-100])
    return ["evaluate", str(folder), files["test"]], r"posterior\.safetensors is truncated or no safetensors file"


def altered_posterior(files, folder):
    content = bytearray(Path(files["run"]).read_bytes())
    content[-10] ^= 1
    (folder / "posterior.safetensors").write_bytes(content)
    return ["predict", str(folder), files["test"], str(folder / "out.xyz")], r"is damaged \(its SHA-256"


def unfinished(files, folder):
    (folder / "run.json").write_text("{}")
    return ["evaluate", str(folder), files["test"]], r"holds no posterior\.safetensors: its run has not finished"


def no_run(files, folder):
    return ["predict", str(folder / "nowhere"), files["test"], str(folder / "out.xyz")], r"There is no file .*nowhere"


def structures_for_a_posterior(files, _folder):
    return ["evaluate", files["train"], files["test"]], r"train\.xyz is truncated or no safetensors file"


def json_without_folder(files, folder):
    arguments = ["evaluate", files["run"], files["test"], "--json", str(folder / "none" / "scores.json")]
    return arguments, r"--json: there is no folder .*none; make it or choose another"


def json_is_a_folder(files, folder):
    return ["evaluate", files["run"], files["test"], "--json", str(folder)], r"--json .* is a folder; name a file"


def plots_are_a_file(files, folder):
    (folder / "plots").write_text("precious")
    return [
        "evaluate",
        files["run"],
        files["test"],
        "--plots",
        str(folder / "plots"),
    ], r"plots is a file; name a folder"


def output_exists(files, folder):
    (folder / "out.xyz").write_text("precious")
    return ["predict", files["run"], files["test"], str(folder / "out.xyz")], r"out\.xyz exists already; give --overwri"


def output_is_a_folder(files, folder):
    return ["predict", files["run"], files["test"], str(folder), "--overwrite"], r"is a folder; name a file"


def calibrate(sentence: str, method: str, *options: str) -> Case:
    """Of the random posterior, on three structures."""

    def case(files, folder):
        return ["calibrate", files["run"], files["test"], str(folder / "out"), "--method", method, *options], sentence

    return case


def rigidity(sentence: str, *options: str, train: bool = False) -> Case:
    def case(files, folder):
        more = ["--train", files["train"]] if train else []
        return ["rigidity", files["run"], files["test"], str(folder / "out.xyz"), *options, *more], sentence

    return case


def rigidity_of_an_unknown_element(files, folder):
    structures = write(folder / "silicon.xyz", [silicon()])
    arguments = ["rigidity", files["run"], structures, str(folder / "out.xyz"), "--train", files["train"]]
    return arguments, r"Structure 0 holds Si, which the potential does not know"


def compare(sentence: str, *options: str) -> Case:
    return lambda files, _: (["compare", files["train"], "--preset", "tiny", "--valid", "5", *options], sentence)


def compared_on_validation(files, folder):
    valid = write(folder / "valid.xyz", labelled_series(ammonia(), 6, seed=900))
    arguments = ["compare", files["train"], "--preset", "tiny", "--valid", valid, "--test", valid]
    return arguments, r"6 of 6 structures of the valid set are in the validation set, by which error bars"


def output_without_folder(files, folder):
    arguments = ["predict", files["run"], files["test"], str(folder / "none" / "out.xyz")]
    return arguments, r"There is no folder .*none to write out\.xyz into; make it or choose another"


LEFT_HANDED = [[0, 9, 0], [9, 0, 0], [0, 0, 9]]
GAP = r"is missing in 1 of 12 structures \(first: frame 3\); label them, or accept the gaps with --allow-missing-labels"
FRAME_4 = r"data\.xyz, frame 4: "
TWO_GROUPS = r"data\.xyz: energies fall into two groups (39|40).* eV apart.* 6 of 12 structures"
NESTED = b"model: " + b"[" * 100_000

CASES: dict[str, Case] = {
    # structures that cannot be read
    "missing": lambda *_: (["fit", "absent.xyz"], r"absent\.xyz.* is no file and no known data set"),
    "misspelt name": lambda *_: (["fit", "amonia"], r"no known data set; .*'ammonia', the nearest known"),
    "folder": lambda _, folder: (["fit", str(folder)], r"is a folder and no known data set"),
    "name too long": lambda *_: (["fit", "x" * 5000], r"is no file and no known data set"),
    "empty": on_bytes("empty.xyz", b"", r"empty\.xyz is empty; fetch it again"),
    "unreadable frame": unreadable_frame,
    "cut archive": cut_archive,
    "no text": on_bytes("data.xyz", b"1\nenergy=0\n\xff\xfe 0 0 0\n", r"data\.xyz, frame 0 cannot be read"),
    "absurd count": on_bytes("data.xyz", b"99999999999\n\nH 0 0 0\n", r"99999999999 is no number of atoms"),
    "absurd columns": on_bytes("data.xyz", b"1\nProperties=species:S:1:pos:R:99999999\nH 0 0 0\n", "99999999 columns"),
    "no format": on_bytes("notes.txt", b"nothing of use\n", r"notes\.txt, frame 0 cannot be read"),
    "no zip": on_bytes("data.npz", b"PK\x03\x04nothing", r"data\.npz is not a valid \.npz file"),
    "huge array": on_bytes("data.npz", npz(R=HUGE_ARRAY), r"data\.npz: array 'R' cannot be read .*shape is \(1000000"),
    "objects": on_bytes("data.npz", npz(R=np.array([None])), r"data\.npz: array 'R' .*type is object.*check the file"),
    "shapes": on_bytes("data.npz", npz(F=np.zeros((1, 3, 3))), r"data\.npz: forces have shape \(1, 3, 3\), not \(1, 4"),
    "padding": on_bytes("data.npz", npz(z=np.array([7, 1, 1, 0])), r"data\.npz: atom 3 has atomic number 0"),
    # structures that cannot be
    "no atom": on_bytes("data.xyz", b"0\nenergy=0\n", r"data\.xyz, frame 0: there is no atom"),
    "element 119": on_bytes("data.xyz", b"1\nProperties=Z:I:1:pos:R:3\n119 0 0 0\n", "atom 0 has atomic number 119"),
    "overlap": on_series(move(4, 2, ammonia().positions[1]), FRAME_4 + r"atoms 1 and 2 are 0\.\d+ Angstrom apart"),
    "infinite position": on_series(move(4, 2, np.inf), FRAME_4 + "positions or cell hold NaN or infinity"),
    "far away": on_series(move(4, 2, 1e9), FRAME_4 + r"positions or cell reach 1e\+09 Angstrom"),
    "no volume": on_series(set_cell(np.diag([9.0, 9.0, 0.0])), FRAME_4 + "pbc is set but the cell has no volume"),
    "no cell": on_series(set_cell(np.zeros((3, 3))), FRAME_4 + "pbc is set but the cell has no volume"),
    "left-handed": on_series(set_cell(LEFT_HANDED), FRAME_4 + "the lattice vectors are left-handed; swap two of them"),
    # labels
    "NaN label": on_series(set_result(3, "energy", np.nan), r"data\.xyz, frame 3: energy holds NaN"),
    "infinite label": on_series(set_result(3, "forces", np.full((4, 3), np.inf)), "frame 3: forces holds NaN or inf"),
    "absurd label": on_series(set_result(3, "energy", 1e200), r"frame 3: energy is beyond 1e\+12"),
    "no labels": on_data(write_of(*12 * [ammonia()]), r"data\.xyz: no frame holds energies or forces"),
    "energy gap": on_series(drop(3, "energy"), rf"data\.xyz: energy {GAP}"),
    "forces gap": on_series(drop(3, "forces"), rf"data\.xyz: forces {GAP}"),
    "other unit": on_series(scale("forces", 1000), r"forces of .* are too large for eV/Angstrom; name the unit"),
    "two units": on_series(
        both(scale("forces", 4), scale("energy", 100)), "energies differ by .* as if their units were different"
    ),
    "two levels": on_series(scale("energy", 1, 40, every=2), TWO_GROUPS),
    "energy key": on_series(
        list, r"no frame holds 'E_dft'; correct energy_key= or leave it out", "--energy-key", "E_dft"
    ),
    # the parts of a run
    "unknown element": unknown_element,
    "unknown element in valid": unknown_element_in_valid,
    "no test": with_options(r"absent\.xyz.* is no file and no known data set", "--test", "absent.xyz"),
    "gap in test": lambda files, folder: (
        ["fit", files["train"], "--test", on_series(drop(3, "forces"), "")(files, folder)[0][1]],
        rf"data\.xyz: forces {GAP}",
    ),
    "too many asked": with_options(r"20 structures and 10 for --valid and 10 for", "--valid", "10", "--test", "10"),
    "malformed part": with_options(r"--valid 1\.5 is no fraction below 1", "--valid", "1.5"),
    "NaN part": with_options(r"--test nan is no fraction below 1", "--test", "nan"),
    "large batch": with_setting("sampler.batch_size=50", r"batch_size is 50 and the training set has 18"),
    "occupied": occupied,
    "occupied, resume": occupied_resume,
    "occupied by a file": occupied_by_a_file,
    # the configuration
    "two configurations": with_options(
        "Both --preset and --config are given", "--preset", "tiny", "--config", "x.yaml"
    ),
    "unknown key": with_setting("sampler.batchsize=5", r"Unknown key sampler\.batchsize .*is sampler\.batch_size"),
    "unknown section": with_setting("modell.cutoff=5", r"Unknown key modell .*nearest known key is model\."),
    "no value": with_setting("sampler.batch_size", r"--set sampler\.batch_size has no value"),
    "section of a value": with_setting("model.cutoff.x=1", r"cutoff is a value and no section"),
    "value of a section": with_setting("model=3", r"section 'model' of the command line must map keys"),
    "wrong type": with_setting("model.cutoff=long", r"model\.cutoff in the command line must be float"),
    "no integer": with_setting("model.num_blocks=2.5", r"model\.num_blocks in the command line must be int, not 2\.5"),
    "no truth value": with_setting("model.layer_norm=3", r"model\.layer_norm in the command line must be bool, not 3"),
    "alias": with_setting("model.cutoff=*a", r"model\.cutoff in the command line must be float, not '\*a'"),
    "zero": with_setting("model.cutoff=0", r"model\.cutoff is 0\.0; it must be positive and at most 50"),
    "NaN": with_setting("model.cutoff=.nan", r"model\.cutoff is nan; it must be positive"),
    "infinity": with_setting("sampler.step_size_first=1e999", r"sampler\.step_size_first is inf; it must be positive"),
    "negative": with_setting(
        "sampler.temperature=-1", r"temperature is -1\.0; it must be at least 0 and at most 1e\+06"
    ),
    "below": with_setting("sampler.beta=1", r"sampler\.beta is 1\.0; it must be at least 0 and below 1"),
    "too deep": with_setting(
        "model.num_blocks=1000", r"model\.num_blocks is 1000; it must be at least 1 and at most 16"
    ),
    "too wide": with_setting("model.std_hidden=[8,99999]", r"model\.std_hidden\[1\] is 99999; it must be at least 1"),
    "too many layers": with_setting(f"model.radial_hidden={[8] * 40}", r"model\.radial_hidden has 40 widths"),
    "species": with_setting("model.species=[8,1]", r"model\.species is \(8, 1\); it must ascend"),
    "samples": with_options(r"sampler\.num_samples is 0; it must be at least 1", "--samples", "0"),
    "chains": with_options(r"sampler\.num_chains is 5000; .* at most 1024", "--chains", "5000"),
    "no config": with_options(r"absent\.yaml cannot be read \(No such file or directory\)", "--config", "absent.yaml"),
    "config is a folder": lambda files, folder: (
        ["fit", files["train"], "--config", str(folder)],
        r"cannot be read \(Is a directory\)",
    ),
    "key in file": with_config(b"model:\n  cutof: 4.0\n", r"Unknown key model\.cutof .*config\.yaml; .* model\.cutoff"),
    "range in file": with_config(b"model:\n  l_max: 99\n", r"config\.yaml: model\.l_max is 99; it must be at least 0"),
    "config is no text": with_config(b"model:\n  cutoff: \xff\n", r"config\.yaml cannot be read \(it is not text\)"),
    "config with NUL": with_config(b"model:\n  cutoff: \x00\n", r"config\.yaml is not valid YAML"),
    "config is long": with_config(b"#" * 2**21, r"config\.yaml has more than 100000 characters"),
    "config is a list": with_config(b"- 1\n", r"top level of .*config\.yaml must map keys to values, not be \[1\]"),
    "malformed": with_config(b"model: [1\n", r"config\.yaml is not valid YAML .*; correct it there"),
    "repeated key": with_config(b"model:\n  l_max: 1\n  l_max: 2\n", r"key 'l_max' occurs twice"),
    "anchor": with_config(b"model: &a\n  l_max: 1\n", r"anchors and aliases are not allowed"),
    "tag": with_config(b"model: !!python/object/apply:os.system ['true']\n", r"tags are not allowed"),
    "nested": with_config(NESTED[:90_000], r"more than 16 levels are not allowed"),
    # evaluate
    "no scored run": lambda files, _: (
        ["evaluate", "absent", files["test"]],
        r"There is no file absent; check the path",
    ),
    "unfinished": unfinished,
    "truncated posterior": truncated_posterior,
    "structures for a posterior": structures_for_a_posterior,
    "no scored structures": lambda files, _: (["evaluate", files["run"], "absent.xyz"], r"absent\.xyz.* is no file"),
    "scored element": on_data(labelled_water, r"Structure 0 holds O, which the potential does not", command="evaluate"),
    "nothing to score": on_data(write_of(ammonia()), r"no frame holds energies or forces", command="evaluate"),
    "scored gap": on_series(drop(3, "energy"), rf"data\.xyz: energy {GAP}", command="evaluate"),
    "scored NaN": on_series(set_result(3, "energy", np.nan), "frame 3: energy holds NaN", command="evaluate"),
    "JSON without folder": json_without_folder,
    "JSON is a folder": json_is_a_folder,
    "plots are a file": plots_are_a_file,
    # predict
    "no run": no_run,
    "altered posterior": altered_posterior,
    "nothing to predict": on_bytes("data.xyz", b"", r"data\.xyz is empty", command="predict"),
    "predicted element": on_data(write_of(silicon()), r"Structure 0 holds Si, which the", command="predict"),
    "predicted overlap": on_series(move(4, 2, ammonia().positions[1]), FRAME_4 + "atoms 1 and 2", command="predict"),
    "predicted NaN": on_series(move(4, 2, np.nan), FRAME_4 + "positions or cell hold NaN", command="predict"),
    "output exists": output_exists,
    "output is a folder": output_is_a_folder,
    "output without folder": output_without_folder,
    # methods
    "method": with_options(r"There is no method 'bagging'; the nearest is \w+ \(all: sghmc, ", "--method", "bagging"),
    "one member": with_setting("ensemble.num_members=1", r"ensemble\.num_members is 1; it must be .*2"),
    "one readout": with_setting("shallow.num_readouts=1", r"shallow\.num_readouts is 1; it must be .*2"),
    "one pass": with_setting("dropout.num_passes=1", r"dropout\.num_passes is 1; it must be .*2"),
    "one draw": with_setting("ivon.num_samples=1", r"ivon\.num_samples is 1; it must be .*2"),
    "one last layer": with_setting("laplace.num_samples=1", r"laplace\.num_samples is 1, which has no spread; give 2"),
    "components": with_options(
        r"mixture\.num_components is 500 and the training set has 72 atoms; lower it",
        *("--method", "mixture", "--set", "mixture.num_components=500"),
    ),
    "laplace alone": with_options(
        r"laplace scales its error bars on the validation set and needs 2", "--method", "laplace", "--valid", "0"
    ),
    "divergence": with_options(
        r"on_divergence, devices_per_chain, minutes and until are for sghmc, not for ensemble",
        *("--method", "ensemble", "--on-divergence", "halve-step"),
    ),
    # calibrate
    "calibrate method": calibrate(r"Unknown recalibration method 'afine'; the nearest known is 'affine'", "afine"),
    "calibrate few": calibrate(r"'affine' needs at least 4 structures and the validation set has 3", "affine"),
    "calibrate coverage": calibrate(r"'conformal' needs the coverage of its intervals", "conformal"),
    "coverage of stds": calibrate(r"'affine' gives no intervals; leave coverage out", "affine", "--coverage", "0.9"),
    "coverage of all": calibrate(r"coverage is 1\.5; choose it between 0 and 1", "conformal", "--coverage", "1.5"),
    "coverage of few": calibrate(
        r"coverage of 0\.9 needs at least 9 structures and the .* has 3", "conformal", "--coverage", "0.9"
    ),
    # rigidity
    "rigidity without data": rigidity(
        r"posterior\.safetensors is a file and names no training set; give it by --train"
    ),
    "rigidity of no sample": rigidity(r"--sample 9: the posterior has samples 0 to 2", "--sample", "9"),
    "rigidity zeta": rigidity(r"zeta is -\S+; it must be finite and not negative", "--zeta", "-1", train=True),
    "rigidity open": rigidity(
        r"zeta is 0\.0; more weights than rows need one above 0", "--zeta", "0", "--form", "kernel", train=True
    ),
    "rigidity weights": rigidity(
        r"Every weight of the loss is zero", "--energy-weight", "0", "--forces-weight", "0", train=True
    ),
    "rigidity viewer": rigidity(r"view\.html is no name for chemiscope; let it end", "--chemiscope", "view.html"),
    "rigidity element": rigidity_of_an_unknown_element,
    # compare
    "compared method": compare(r"There is no method 'bagging'", "--methods", "bagging"),
    "compared twice": compare(r"name at least one, and each once", "--methods", "sghmc", "sghmc"),
    "few to calibrate": compare(r"validation set has 2 structures and calibration needs 4", "--valid", "2"),
    "no test set": compare(r"give --valid and --in-domain", "--in-domain", "0"),
    "no seed": compare(r"There are 0 seeds; give at least 1", "--seeds", "0"),
    "no further test": compare(r"absent\.xyz.* is no file", "--test", "600K=absent.xyz"),
    "test of no name": compare(r"--test =absent\.xyz: the name '' is taken or cannot be used", "--test", "=absent.xyz"),
    "one sample": compare(r"The sampler gives one sample, which has no spread", "--set", "sampler.num_samples=1"),
    "budget": compare(r"leaves no step for the networks of ensemble", "--set", "ensemble.num_members=1000"),
    "compared on validation": compared_on_validation,
    # ways in
    "no data": lambda *_: (["fit"], r"There is no structure; give a file, a pattern, FILE@INDEX"),
    "index of data": lambda files, _: (["fit", f"{files['train']}@a"], r"Index 'a' of .* is not understood"),
    "pattern of data": lambda *_: (["fit", "absent*.xyz"], r"No file is named like 'absent\*\.xyz'"),
    "one of the data": lambda files, _: (
        ["fit", files["train"], "absent.xyz"],
        r"'absent\.xyz' is no file and no known",
    ),
    # data
    "data show": lambda *_: (["data", "show", "rmd17/asprin"], r"nearest known name is 'rmd17/aspirin'"),
    "data fetch": lambda *_: (["data", "fetch", "../../etc"], r"There is no data set '\.\./\.\./etc'"),
}


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence_and_touches_nothing(name, files, tmp_path, capsys, monkeypatch):
    for loop in ("bnn_jax.methods.sghmc.drive", "bnn_jax.methods.training.drive"):
        monkeypatch.setattr(loop, lambda *_: pytest.fail("the loop was reached"))
    arguments, sentence = CASES[name](files, tmp_path)
    given, before = contents(Path(files["run"]).parent), contents(tmp_path)
    assert main([*arguments, *(["--out", str(tmp_path / "run")] if arguments[0] in ("fit", "compare") else [])]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]*\.\n", printed.err), printed.err
    assert re.search(sentence, printed.err), printed.err
    assert len(printed.err) < 700 or name == "name too long"
    assert (contents(Path(files["run"]).parent), contents(tmp_path)) == (given, before)
    assert (tmp_path / "run").exists() == name.startswith("occupied")


def stopped(*_arguments, **_options):
    raise KeyboardInterrupt


def test_consent_lets_gaps_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("bnn_jax.api.fit", stopped)
    arguments, _ = CASES["forces gap"]({"run": ""}, tmp_path)
    assert main([*arguments, "--out", str(tmp_path / "run"), "--allow-missing-labels"]) == 130


def test_a_stress_in_another_unit_is_refused_until_it_is_named(tmp_path, monkeypatch, capsys):
    frames = strained_copper(20)
    for atoms in frames:
        atoms.calc.results["stress"] = -10 * GPA_PER_EV_PER_ANGSTROM3 * atoms.calc.results["stress"]
    data = write(tmp_path / "cu.xyz", frames)
    assert main(["fit", data, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert re.fullmatch(
        r"error: .*cu\.xyz: stresses are -1\.\d*e\+03 times what energies and forces imply, .*; name"
        r" stress_unit='-kbar', or stress_unit='eV/Angstrom\^3' if they are right\.\n",
        printed,
    )
    monkeypatch.setattr("bnn_jax.api.fit", stopped)
    for unit in ("-kbar", "eV/Angstrom^3"):
        assert main(["fit", data, "--out", str(tmp_path / "run"), f"--stress-unit={unit}"]) == 130


def test_data_are_several_files_patterns_and_indices(tmp_path, monkeypatch):
    series, taken = labelled_series(ammonia(), 12), []
    monkeypatch.setattr("bnn_jax.api.fit", lambda *sets, **options: (taken.append((sets, options)), stopped()))
    for name, part in (("a", series[:5]), ("b", series[5:9]), ("c", series[9:])):
        write(tmp_path / f"{name}.xyz", part)
    data = [str(tmp_path / "[ab].xyz"), f"{tmp_path}/c.xyz@:2"]
    assert main(["fit", *data, "--valid", f"{tmp_path}/c.xyz@-1:", "--out", str(tmp_path / "run")]) == 130
    ((sets, options),) = taken
    assert (len(sets[0]), len(sets[1])) == (11, 1)
    np.testing.assert_allclose(sets[0].positions, np.concatenate([atoms.positions for atoms in series[:11]]), atol=1e-7)
    assert next(iter(options["metadata"].values()))["data"] == tuple(data)


def test_duplicates_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bnn_jax.api.fit", stopped)
    series = labelled_series(ammonia(), 20)
    test = write(tmp_path / "test.xyz", [*labelled_series(ammonia(), 3, seed=50), *series[4:6]])
    twice = write(tmp_path / "twice.xyz", [*series, series[7], isolated_atom_with_energy()])
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        assert main(["fit", twice, "--valid", "0", "--test", test, "--out", str(tmp_path / "run")]) == 130
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "warning: 1 of 22 training structures are there already (first: structure 20) and count twice;"
    )
    assert second.startswith(
        "warning: 2 of 5 structures of the test set are training structures too (first: structure 3), so"
    )


def isolated_atom_with_energy():
    atoms = isolated_atom("N")
    atoms.info["energy"] = -1.0
    return atoms


def test_consent_is_kept_for_resume(tmp_path):
    """As the other options of the data: stored, restored, and not to be given later."""
    consent = LabelOptions(allow_missing_labels=True)
    for name, labels in (("with", consent), ("without", LabelOptions())):
        out = str(tmp_path / name)
        settled = settle(Fit(("data.xyz",), out, labels=labels))
        create_run(out, settled.config, seed=0, data_fingerprint="", metadata={METADATA_KEY: settled.data_options})
    options = settle(Fit(("data.xyz",), str(tmp_path / "with"), resume=True)).data_options
    assert options["allow_missing_labels"] is True
    assert settle(Fit(("data.xyz",), str(tmp_path / "with"), resume=True, labels=consent)).data_options == options
    assert (
        settle(Fit(("data.xyz",), str(tmp_path / "without"), resume=True)).data_options["allow_missing_labels"] is None
    )
    with pytest.raises(InputError, match=r"^--allow-missing-labels would change .*without, begun without it; leave it"):
        settle(Fit(("data.xyz",), str(tmp_path / "without"), resume=True, labels=consent))


@pytest.mark.parametrize("data", ["a.xyz", ["a.xyz", "b.xyz"]])
def test_a_record_names_one_file_or_several(data, tmp_path):
    out = tmp_path / "run"
    create_run(out, Config(), seed=0, data_fingerprint="", metadata={METADATA_KEY: {"data": data, "valid": "3"}})
    assert settle(Fit(("a.xyz", "b.xyz"), str(out), resume=True)).data_options["valid"] == "3"


@pytest.mark.parametrize("options", ["valid", {"valid": 3}, {"test": ["a", "b"]}, {"data": 3}, {"data": ["a", 3]}])
def test_a_record_of_a_stranger_is_refused(options, tmp_path):
    out = tmp_path / "run"
    create_run(out, Config(), seed=0, data_fingerprint="", metadata={METADATA_KEY: options})
    with pytest.raises(InputError, match=r"run\.json is damaged; restore it from a copy or start a new run"):
        settle(Fit(("data.xyz",), str(out), resume=True))
