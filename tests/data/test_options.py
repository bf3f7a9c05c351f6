"""Options of a wrong kind are refused in one sentence with their name and value, whatever the data set."""

import inspect
from typing import Any

import pytest

from eqmol.data.bpa.datamodule import Sample, ThreeBPA
from eqmol.data.datamodule import GraphSets
from eqmol.data.molecules.datamodule import MoleculeSets
from eqmol.data.oc20.datamodule import OC20
from eqmol.data.qm9.datamodule import QM9
from eqmol.data.xyz.datamodule import FileSets
from eqmol.errors import InputError

GIVEN: dict[type[GraphSets], dict[str, Any]] = {
    FileSets: {"train_file": "a.xyz"},
    MoleculeSets: {"file": "a.csv", "required": ("logS",)},
    QM9: {},
    OC20: {},
    ThreeBPA: {},
    Sample: {},
}
WRONG = {
    "null": None,
    "-1": -1,
    "3": 3,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "true": True,
    "''": "",
    "' '": " ",
    "text": "many",
    "[]": [],
    "[null]": [None],
    "[3]": [3],
    "{}": {},
    "{a: 3}": {"a": 3},
    "{'': text}": {"": "many"},
}
NAME, FLAG = ["text"], ["true"]
FILES = ["text", "' '"]
FOLDER = ["null", *FILES]
#: What is right for an option; all else of the above is wrong.
RIGHT = {
    "cutoff": ["3", "1.5"],
    "batch_size": ["3"],
    "batch_atoms": ["null", "3"],
    "batch_edges": ["null", "3"],
    "num_workers": ["3"],
    "seed": ["3"],
    "train_file": FILES,
    "val_file": ["null", *FILES],
    "isolated_atoms_file": ["null", *FILES],
    "test_files": ["null", "{}"],
    "test_folders": ["null", "{}"],
    "energy_key": NAME,
    "forces_key": NAME,
    "stress_key": NAME,
    "stress_unit": ["null"],
    "virial_key": ["null", *NAME],
    "electronic_state": [],
    "targets": ["null", "{}"],
    "replay": ["null"],
    "dispersion": ["null"],
    "file": FILES,
    "smiles_column": NAME,
    "split": [],
    "split_file": FOLDER,
    "failures_file": FOLDER,
    "max_failures": [],
    "conformers": ["3"],
    "conformer_seed": ["3"],
    "features": ["[]"],
    "folder": FOLDER,
    "name": NAME,
    "files": NAME,
    "prepared": FOLDER,
    "val_folder": FOLDER,
    "kind": [],
    "held_out": ["3"],
    "energy": [],
    "e0": [],
    "implausible": [],
    "infer_tags": FLAG,
    "total": FLAG,
    "max_neighbors": ["null", "3"],
    "verify": FLAG,
    "num_train": ["null", "3"],
    "num_val": ["null", "3"],
    "val_fraction": [],
    "test_fraction": [],
}
#: Where one data set differs.
DIFFERENT = {(FileSets, "val_fraction"): ["null"], (QM9, "folder"): FILES}


def options_of(data_set: type[GraphSets]) -> list[str]:
    """All that a user may give: the arguments of the class, and of those that take the rest of them."""
    names = []
    for base in data_set.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()
        names += [parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY]
        if base is GraphSets or not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
        if data_set in (ThreeBPA, Sample):  # which choose their files
            return options_of(GraphSets)
    return [name for name in dict.fromkeys(names) if name != "required"]


@pytest.mark.parametrize(
    ("data_set", "option"), [(data_set, option) for data_set in GIVEN for option in options_of(data_set)]
)
def test_wrong_kinds_are_refused(data_set, option):
    right = DIFFERENT.get((data_set, option), RIGHT[option])
    taken = []
    for words, value in WRONG.items():
        try:
            data_set(**{"cutoff": 4.0, **GIVEN[data_set], option: value})
        except InputError as error:
            message = str(error)
            assert option.removesuffix("s") in message
            assert "\n" not in message
            if not isinstance(value, dict | list):
                assert (words if words in ("null", "true") else repr(value)) in message
        else:
            taken.append(words)
    assert taken == [words for words in WRONG if words in right]
