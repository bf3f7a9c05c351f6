"""How much each line of a report allows, by what kind of model it is.

Everything that rounding alone separates has the limit of its precision. What a kind of model does not promise is no failure: it is
measured and said.
"""

from typing import NamedTuple


class Limit(NamedTuple):
    """Bounds of a value: up to ``passes`` a line passes, up to ``fails`` it warns."""

    passes: float
    fails: float
    unit: str
    reason: str


#: Kinds that are not all that the default promises: S2 activations are sampled, direct forces are the derivative of nothing,
#: so3 models know left from right, and the sums of s-dftd3 end at fixed distances, where its coordination numbers jump.
S2, DIRECT, CHIRAL, D3 = "s2", "direct", "so3", "d3"
INFINITY = float("inf")
_PRECISE = (1e-8, 1e-7)
_ROUNDED = (1e-4, 1e-3)
_SUMS = "the sums of D3 end at fixed distances, where neighbours come and go by rounding"
_RELATIVE = "eV/atom or eV/Å, over the largest force where that exceeds 1 eV/Å"

#: Line -> kind -> limit; "" for all kinds that are not named.
LIMITS: dict[str, dict[str, Limit]] = {
    **{
        f"{name}, float64": {
            "": Limit(*_PRECISE, _RELATIVE, f"the energy {law}; in float64 only rounding may remain"),
            D3: Limit(1e-5, 1e-4, _RELATIVE, _SUMS),
            **further,
        }
        for name, law, further in (
            (
                "rotation",
                "does not change when everything turns",
                {S2: Limit(1e-5, 1e-2, _RELATIVE, "S2 activations are sampled: equivariant up to the grid")},
            ),
            (
                "mirror",
                "does not know left from right",
                {
                    CHIRAL: Limit(INFINITY, INFINITY, _RELATIVE, "parity so3 may tell mirror images apart"),
                    S2: Limit(1e-5, 1e-2, _RELATIVE, "S2 activations are sampled: equivariant up to the grid"),
                },
            ),
            ("translation", "does not depend on the origin", {}),
            ("permutation", "does not depend on the order of the atoms", {}),
        )
    },
    "rotation, as used": {
        "": Limit(*_ROUNDED, _RELATIVE, "the same in the precision of predictions"),
        S2: Limit(1e-3, 1e-2, _RELATIVE, "S2 activations are sampled: equivariant up to the grid"),
    },
    "precision": {
        "": Limit(
            1e-4, 2e-3, _RELATIVE, "predictions beside the same model in float64: rounding must stay below the errors"
        ),
    },
    **{
        f"backends, {dtype}": {
            "": Limit(*bounds, _RELATIVE, "all algorithms compute the same function: only rounding may tell them apart")
        }
        for dtype, bounds in (("float64", _PRECISE), ("float32", (1e-4, 2e-3)))
    },
    "sum of energies": {
        "": Limit(1e-7, 1e-6, "eV per atom", "energies of total size 10⁴ eV must be added in float64"),
    },
    "forces": {
        "": Limit(
            1e-6, 1e-5, "eV/Å, over the largest force where that exceeds 1", "forces are minus the slope of the energy"
        ),
        D3: Limit(1e-5, 1e-4, "eV/Å, over the largest force where that exceeds 1", _SUMS),
        DIRECT: Limit(
            INFINITY,
            INFINITY,
            "eV/Å",
            "direct forces are no slope: no MD at constant energy",
        ),
    },
    "stress": {
        "": Limit(
            1e-6,
            1e-5,
            "eV, over the virial where that exceeds 1",
            "stress is the slope of the energy by strain per volume",
        ),
        D3: Limit(2e-4, 2e-3, "eV, over the virial where that exceeds 1", _SUMS),
    },
    "smooth at the cutoff": {
        "": Limit(1e-7, 1e-5, "eV or eV/Å", "energy and forces may not jump when an atom crosses the cutoff"),
    },
    "stretch": {
        "": Limit(1e-3, 1e-2, "eV", "the energy follows the work of the forces while an atom is pulled away"),
        DIRECT: Limit(INFINITY, INFINITY, "eV", "direct forces are no slope of the energy"),
    },
    "batches": {"": Limit(1e-8, 1e-7, _RELATIVE, "a structure's energy does not depend on what is evaluated with it")},
    "isolated atoms": {"": Limit(1e-9, 1e-6, "eV", "an atom alone has the energy that the model file says")},
    "extensivity": {
        "": Limit(1e-9, 1e-7, "eV per atom", "two systems far apart have the sum of their energies"),
        D3: Limit(1e-3, INFINITY, "eV per atom", "D3 reaches 32 Å, beyond which systems are not moved apart here"),
    },
    "supercell": {
        "": Limit(1e-8, 1e-7, "eV per atom", "the same crystal in a larger cell has the same energy per atom"),
        D3: Limit(1e-6, 1e-4, "eV per atom", _SUMS),
    },
    "order of the integrator": {
        "": Limit(0.6, 0.6, "of 4", "energy fluctuations fall by four per halved step where forces are smooth slopes"),
        DIRECT: Limit(INFINITY, INFINITY, "of 4", "direct forces conserve no energy"),
    },
    "drift": {
        "": Limit(1e-3, INFINITY, "meV/atom/ps", "the energy of dynamics without a thermostat stays the same"),
        DIRECT: Limit(INFINITY, INFINITY, "meV/atom/ps", "direct forces conserve no energy"),
    },
    "forces against none": {"": Limit(0.5, 0.95, "of the labels' RMS", "forces must be better than no forces at all")},
    "constant in the energies": {
        "": Limit(INFINITY, INFINITY, "", "errors that are one constant come from another zero")
    },
    "extrapolation": {
        "": Limit(
            0.05, INFINITY, "of the atoms", "farther from the training set than all of the validation set is a guess"
        )
    },
    "calibration": {
        "": Limit(
            0.08, 0.2, "area, 0 to 0.5", "errors of forces are as large as the std says, where the model is at home"
        )
    },
    "degenerate environments": {
        "": Limit(
            0.0,
            1.0,
            "pairs",
            "environments that differ have forces that differ, and a model that sees none has an error",
        ),
    },
    "repulsion": {
        "": Limit(0.0, INFINITY, "pairs", "below the shortest trained distance the energy should still rise")
    },
}


def limit_of(line: str, kinds: frozenset[str]) -> Limit:
    """The limit of a line for a model of some kinds: the most lenient."""
    table = LIMITS[line]
    return max((table.get(kind, table[""]) for kind in kinds or {""}), key=lambda limit: (limit.passes, limit.fails))
