from eqmol.inference import main

raise SystemExit(main())
