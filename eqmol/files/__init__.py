"""Files: written so that nobody ever sees half of one, and read within bounds where strangers made them."""

from eqmol.files.bounds import COMPRESSED, bounded_memory, check_database, check_expansion, decompress, read_npz
from eqmol.files.paths import PACKAGE, cache_folder, expand_paths, named_files, shipped
from eqmol.files.read import MAX_LINE, Text, check_file, ending, read_lines
from eqmol.files.write import append, clear_temporaries, no_room, replacing, to_disk

__all__ = [
    "COMPRESSED",
    "MAX_LINE",
    "PACKAGE",
    "Text",
    "append",
    "bounded_memory",
    "cache_folder",
    "check_database",
    "check_expansion",
    "check_file",
    "clear_temporaries",
    "decompress",
    "ending",
    "expand_paths",
    "named_files",
    "no_room",
    "read_lines",
    "read_npz",
    "replacing",
    "shipped",
    "to_disk",
]
