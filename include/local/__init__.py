"""The whole pipeline on one machine: what `make run`, `make status`, `make stop` and `make clean` do."""
