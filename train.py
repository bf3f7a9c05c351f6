from eqmol.cli.train import main

main()
