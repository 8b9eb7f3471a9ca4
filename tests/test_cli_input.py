"""Bad input gets one sentence and exit code 2, before anything is written."""

import re
from pathlib import Path

import pytest
from commands import contents, write, write_ammonia
from systems import ammonia, labelled_series, water

from bnn_jax.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    return write_ammonia(tmp_path_factory.mktemp("files"))


# Each case gives the arguments and what the sentence must say; files are made in tmp_path.


def missing(_files, folder):
    return ["fit", str(folder / "absent.xyz")], r"absent\.xyz.* is no file and no known data set"


def empty(_files, folder):
    (folder / "empty.xyz").write_text("")
    return ["fit", str(folder / "empty.xyz")], r"empty\.xyz is empty"


def unreadable_frame(files, folder):
    lines = Path(files["train"]).read_text().splitlines()
    lines[2 * 6 + 3] = "H not a number"
    (folder / "broken.xyz").write_text("\n".join(lines))
    return ["fit", str(folder / "broken.xyz")], r"broken\.xyz, frame 2"


def nan_label(_files, folder):
    series = labelled_series(ammonia(), 5)
    series[3].calc.results["energy"] = float("nan")
    return ["fit", write(folder / "nan.xyz", series)], r"nan\.xyz, frame 3: energy holds NaN"


def no_labels(_files, folder):
    return ["fit", write(folder / "bare.xyz", [ammonia()] * 12)], r"bare\.xyz: no frame holds energies or forces"


def unknown_element(files, folder):
    test = write(folder / "water.xyz", labelled_series(water(), 2))
    return ["fit", files["train"], "--test", test], r"Structure 0 of the test set holds O, which no training structure"


def unknown_element_in_valid(files, folder):
    valid = write(folder / "water.xyz", labelled_series(water(), 2))
    return ["fit", files["train"], "--valid", valid], r"Structure 0 of the valid set holds O"


def unknown_key(files, _folder):
    arguments = ["fit", files["train"], "--set", "sampler.batchsize=5"]
    return arguments, r"Unknown key sampler\.batchsize .*nearest known key is sampler\.batch_size"


def unknown_key_in_file(files, folder):
    (folder / "config.yaml").write_text("model:\n  cutof: 4.0\n")
    arguments = ["fit", files["train"], "--config", str(folder / "config.yaml")]
    return arguments, r"Unknown key model\.cutof .*nearest known key is model\.cutoff"


def occupied(files, folder):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("precious")
    return ["fit", files["train"]], r"run already holds files; continue its run with --resume or choose another --out"


def occupied_resume(files, folder):
    occupied(files, folder)
    return ["fit", files["train"], "--resume"], r"run already holds files"


def value_without_key(files, _folder):
    return ["fit", files["train"], "--set", "sampler.batch_size"], r"--set sampler\.batch_size has no value"


def section_of_a_value(files, _folder):
    return ["fit", files["train"], "--set", "model.cutoff.x=1"], r"cutoff is a value and no section"


def wrong_type(files, _folder):
    return ["fit", files["train"], "--set", "model.cutoff=long"], r"model\.cutoff in the command line must be float"


def two_configurations(files, _folder):
    return ["fit", files["train"], "--preset", "tiny", "--config", "x.yaml"], r"Both --preset and --config are given"


def too_many_asked(files, _folder):
    return ["fit", files["train"], "--valid", "10", "--test", "10"], r"20 structures and 10 for --valid and 10 for"


def malformed_part(files, _folder):
    return ["fit", files["train"], "--valid", "1.5"], r"--valid 1\.5 is no fraction below 1"


def large_batch(files, _folder):
    return ["fit", files["train"], "--set", "sampler.batch_size=50"], r"batch_size is 50 and the training set has 18"


CASES = [
    missing,
    empty,
    unreadable_frame,
    nan_label,
    no_labels,
    unknown_element,
    unknown_element_in_valid,
    unknown_key,
    unknown_key_in_file,
    occupied,
    occupied_resume,
    value_without_key,
    section_of_a_value,
    wrong_type,
    two_configurations,
    too_many_asked,
    malformed_part,
    large_batch,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_input_is_one_sentence_and_touches_nothing(case, files, tmp_path, capsys):
    arguments, sentence = case(files, tmp_path)
    before = contents(tmp_path)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]*\.\n", printed.err), printed.err
    assert re.search(sentence, printed.err), printed.err
    assert contents(tmp_path) == before
    assert (tmp_path / "run").exists() == case.__name__.startswith("occupied")
