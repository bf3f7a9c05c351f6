"""Models of every class of mace-torch that eqmol reads, trained for 50 steps, and what they say of 100 structures each.

    MACE_PYTHON benchmarks/mace/make.py FOLDER 3BPA.xyz SLABS.extxyz [NAME ...]

FOLDER/NAME.model and FOLDER/NAME.json are written, in float64. 3BPA: its training file. Slabs: frames of one or more elements with
energies and forces; bulk crystals are made here, with labels of EMT. To be run by an interpreter with mace-torch 0.3.16.
"""

import json
import sys
import time
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from e3nn import o3

from mace import data, modules, tools
from mace.calculators import MACECalculator
from mace.data.utils import KeySpecification
from mace.tools import torch_geometric

STEPS, COMPARED, MD_STEPS = 50, 100, 1000
PLAIN, FIRST = "RealAgnosticResidualInteractionBlock", "RealAgnosticInteractionBlock"
DENSITY, DENSITY_FIRST = "RealAgnosticDensityResidualInteractionBlock", "RealAgnosticDensityInteractionBlock"
FOUNDATION = {"first": DENSITY_FIRST, "later": DENSITY, "distance_transform": "Agnesi", "pair_repulsion": True}

#: Name -> data set and what differs from the form of MP-0.
MODELS = {
    "scalars": ("3bpa", {"hidden": "16x0e"}),
    "vectors": ("3bpa", {"md": True}),
    "tensors": ("3bpa", {"hidden": "8x0e+8x1o+8x2e", "use_reduced_cg": False}),
    "unscaled": ("3bpa", {"class": "MACE", "first": FIRST}),
    "three_layers": ("3bpa", {"hidden": "8x0e+8x1o", "num_interactions": 3, "max_ell": 2}),
    "one_layer": ("3bpa", {"num_interactions": 1, "correlation": 2}),
    "two_heads": ("3bpa", {"heads": ["one", "two"]}),
    "foundation": ("bulk", {**FOUNDATION, "md": True}),
    "soft": ("bulk", {"distance_transform": "Soft", "num_polynomial_cutoff": 6}),
    "foundation_slabs": ("slab", {**FOUNDATION, "md": True}),
    "agnostic": ("slab", {"hidden": "16x0e+16x1o", "use_agnostic_product": True, "use_last_readout_only": True}),
    "density": ("slab", {"first": DENSITY, "later": DENSITY, "correlation": [3, 2], "max_ell": 2}),
}


def bulk_frames(number: int) -> list[ase.Atoms]:
    """Disordered alloys of copper, gold and nickel, 8 atoms each, with energies, forces and stress of EMT."""
    rng, frames = np.random.default_rng(0), []
    for seed in range(number):
        atoms = bulk("Cu", "fcc", a=rng.uniform(3.5, 3.9), cubic=True) * (2, 1, 1)
        atoms.numbers = rng.choice([28, 29, 79], len(atoms))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(size=(3, 3)) * 0.03), scale_atoms=True)
        atoms.rattle(0.15, seed=seed)
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        frames.append(atoms)
    return frames


def labelled(atoms: ase.Atoms) -> ase.Atoms:
    """The structure with its labels where the loader looks for them."""
    atoms.info["E"], atoms.arrays["F"] = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
    return atoms


def train(name: str, options: dict, frames: list[ase.Atoms]) -> torch.nn.Module:
    """A model after 50 steps."""
    torch.manual_seed(0)
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    counts = np.array([[(atoms.numbers == z).sum() for z in elements] for atoms in frames], float)
    energies = np.array([atoms.info["E"] for atoms in frames])
    e0 = np.linalg.lstsq(counts, energies, rcond=0.01)[0]
    table, heads = tools.AtomicNumberTable(elements), options.get("heads", ["Default"])
    keys = KeySpecification(info_keys={"energy": "E"}, arrays_keys={"forces": "F"})
    cutoff = 4.5
    graphs = [
        data.AtomicData.from_config(
            data.config_from_atoms(atoms, key_specification=keys, head_name=heads[n % len(heads)]),
            table,
            cutoff,
            heads=heads,
        )
        for n, atoms in enumerate(frames[:100])
    ]
    blocks, several = modules.interaction_classes, len(heads) > 1
    size = np.sqrt(np.mean(np.concatenate([atoms.arrays["F"].ravel() for atoms in frames]) ** 2))
    common = {
        "r_max": cutoff, "num_bessel": 8, "num_polynomial_cutoff": 5, "max_ell": 3, "num_interactions": 2, "correlation": 3,
        "num_elements": len(elements), "atomic_numbers": elements, "MLP_irreps": o3.Irreps("16x0e"),
        "gate": torch.nn.functional.silu,
        "atomic_energies": np.stack([e0, e0 + 0.1]) if several else e0, "avg_num_neighbors": modules.compute_avg_num_neighbors(
            torch_geometric.dataloader.DataLoader(graphs, batch_size=10)), "radial_MLP": [32, 32],
        "interaction_cls_first": blocks[options.get("first", PLAIN)], "interaction_cls": blocks[options.get("later", PLAIN)],
        "hidden_irreps": o3.Irreps(options.get("hidden", "16x0e+16x1o")),
    }  # fmt: skip
    used = ("first", "later", "hidden", "md", "class")
    common |= {key: value for key, value in options.items() if key not in used}
    if options.get("class") == "MACE":
        model = modules.MACE(**common)
    else:
        scale, shift = ([size, 0.9 * size], [0.02, -0.03]) if several else (size, 0.02)
        model = modules.ScaleShiftMACE(atomic_inter_scale=scale, atomic_inter_shift=shift, **common)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader, step = torch_geometric.dataloader.DataLoader(graphs, batch_size=2, shuffle=True), 0
    while step < STEPS:
        for batch in loader:
            output = model(batch.to_dict(), training=True)
            atoms = (batch.ptr[1:] - batch.ptr[:-1]).double()
            loss = ((output["energy"] - batch.energy) / atoms).square().mean() + (
                output["forces"] - batch.forces
            ).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == STEPS:
                break
    print(f"{name}: loss {loss.item():.3g} after {step} steps", flush=True)
    return model


def main(folder: Path, files: dict[str, str], names: list[str]) -> None:
    """Make the models one by one."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    sets = {name: [labelled(atoms) for atoms in ase.io.read(file, f":{COMPARED}")] for name, file in files.items()}
    sets["bulk"] = [labelled(atoms) for atoms in bulk_frames(COMPARED)]
    for name in names or MODELS:
        started = time.process_time()
        kind, options = MODELS[name]
        frames = sets[kind]
        model = train(name, options, frames)
        path = folder / f"{name}.model"
        torch.save(model, path)
        heads = options.get("heads")
        calculator = MACECalculator(
            str(path), device="cpu", default_dtype="float64", **({"head": heads[1]} if heads else {})
        )
        structures, results = [], []
        for atoms in frames:
            atoms = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            atoms.calc = calculator
            result = {"energy": float(atoms.get_potential_energy()), "forces": atoms.get_forces().tolist()}
            result["energies"] = calculator.results["energies"].tolist()
            if atoms.pbc.all():
                result["stress"] = atoms.get_stress(voigt=False).tolist()
            results.append(result)
            structures.append(
                {
                    "numbers": atoms.numbers.tolist(),
                    "positions": atoms.positions.tolist(),
                    "cell": atoms.cell.tolist(),
                    "pbc": atoms.pbc.tolist(),
                }
            )
        found = {"head": heads[1] if heads else None, "structures": structures, "results": results}
        if options.get("md"):
            atoms = ase.Atoms(**structures[0])
            MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.RandomState(0))
            found["md"] = {"momenta": atoms.get_momenta().tolist()}
            atoms.calc = calculator
            VelocityVerlet(atoms, 0.5 * units.fs).run(MD_STEPS)
            found["md"]["positions"] = atoms.positions.tolist()
        (folder / f"{name}.json").write_text(json.dumps(found))
        print(f"{name}: {time.process_time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    folder, bpa, slabs, *names = sys.argv[1:]
    main(Path(folder), {"3bpa": bpa, "slab": slabs}, names)
