from eqmol.cli.predict import main

raise SystemExit(main())
