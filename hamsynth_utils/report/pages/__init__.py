"""Pages of the report that are made from the run, the claims and the bibliography."""
