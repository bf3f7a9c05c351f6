from eqmol.train.cli import main

main()
