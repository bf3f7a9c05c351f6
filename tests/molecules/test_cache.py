"""Conformers that are kept."""

import numpy as np
import pytest

from eqmol.molecules.cache import ConformerCache
from eqmol.molecules.molecule import Failure, from_smiles


@pytest.mark.parametrize("damage", [None, "", "{", '{"positions": [[1, 2, 3]]}', '{"positions": [["a"]]}', "[" * 9999])
def test_a_conformer_is_found_again_or_made_anew(tmp_path, damage):
    """The slow twin is a molecule without a cache."""
    plain = from_smiles("CCO", conformers=2)
    made = from_smiles("CCO", conformers=2, cache=ConformerCache(tmp_path))
    (file,) = tmp_path.glob("*/*.json")
    sound = file.read_bytes()
    if damage is not None:
        file.write_text(damage)
    cache = ConformerCache(tmp_path)
    again = from_smiles("CCO", conformers=2, cache=cache)
    assert cache.made == (damage is not None)
    for molecule in (made, again):
        np.testing.assert_array_equal(molecule.atoms().positions, plain.atoms().positions)
        assert molecule.structure == plain.structure
    assert file.read_bytes() == sound


def test_settings_have_conformers_of_their_own(tmp_path):
    cache = ConformerCache(tmp_path)
    for settings in ({}, {"seed": 1}, {"conformers": 3}):
        from_smiles("CCCO", **({"conformers": 2} | settings), cache=cache)
    from_smiles("OCCC", conformers=2, cache=cache)  # another order of atoms
    assert cache.made == len(cache.known) == 4


def test_that_there_is_no_conformer_is_remembered(tmp_path):
    impossible = "C1#CC1"
    reasons = set()
    for made in (1, 0):
        cache = ConformerCache(tmp_path)
        found = from_smiles(impossible, conformers=1, cache=cache)
        assert isinstance(found, Failure)
        assert cache.made == made
        reasons.add(found.reason)
    assert len(reasons) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "file").touch()
    cache = ConformerCache(tmp_path / "file")
    with pytest.warns(UserWarning, match="conformers are not remembered"):
        first = from_smiles("C", conformers=1, cache=cache)
    assert from_smiles("C", conformers=1, cache=cache).structure == first.structure
