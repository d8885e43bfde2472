"""`python -m mer_fast` is the command `mer-fast`, so that `torchrun -m mer_fast train ...` runs it."""

from mer_fast.cli import main

main()
