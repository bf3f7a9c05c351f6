"""The command ``eqmol``: one file per subcommand."""
