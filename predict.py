from eqmol.inference.structures import main

raise SystemExit(main())
