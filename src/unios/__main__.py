"""`python -m unios` is the command `unios`."""

from unios.shell.main import main

main()
