"""Score files of any size: rows in, answers out, each row once.

`score` reads chunks, `pool` hands them to processes, `parts` puts the result in place whole or
not at all, `merge` proves that the parts together are the input.
"""
