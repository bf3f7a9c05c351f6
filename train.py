from eqmol.cli.train import main

raise SystemExit(main())
