"""`python -m perdure.cli` is the `perdure` command of this interpreter."""

from perdure.cli.main import main

main()
